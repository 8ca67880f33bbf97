"""Exact minimum-cost assignment of many small cost matrices, batched, without device synchronisation."""

import torch
from torch import Tensor

from .precision import widened

UNASSIGNED = -1


@torch.no_grad()
def assign(cost: Tensor) -> Tensor:
    """(G, n) column assigned to each row of `cost` (G, n, n): the permutation with the least total cost.

    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987): rows are added one at a time, each by the
    cheapest path of reassignments that ends at a free column. About n^2 / 2 small steps, in float64; on devices without
    float64 in float32, so that the total cost is the least up to rounding.
    """
    groups, side, _ = cost.shape
    cost = widened(cost)
    price = cost.new_zeros(groups, side)
    row_of = torch.full_like(price, UNASSIGNED, dtype=torch.long)  # row assigned to each column
    column_of = row_of.clone()  # column assigned to each row
    for row in range(side):
        previous_row, end, price = _shortest_path(cost, row, price, row_of, column_of)
        row_of, column_of = _augment_path(previous_row, end, row, row_of, column_of)
    return column_of


def _shortest_path(
    cost: Tensor, row: int, price: Tensor, row_of: Tensor, column_of: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The shortest path from `row` to a free column: previous row of each column (G, n), last column (G, 1), prices.

    `price` (G, n) is the dual variable of the columns. It keeps reduced costs at zero or above, and at zero for
    assigned pairs, so that Dijkstra's algorithm applies. `row_of`, `column_of` (G, n): the assignment, or UNASSIGNED.
    """
    length = torch.full_like(price, torch.inf)
    done = torch.zeros_like(price, dtype=torch.bool)
    previous_row = torch.full_like(row_of, row)
    current_row = torch.full_like(row_of[:, :1], row)
    current_length, end = torch.zeros_like(price[:, :1]), torch.full_like(current_row, UNASSIGNED)
    for _ in range(row + 1):  # at most `row` columns are assigned: the next one is free
        row_cost = cost.gather(1, current_row[:, :, None].expand(-1, -1, cost.shape[2]))[:, 0] - price
        assigned = column_of.gather(1, current_row)
        # dual variable of the row: the cost of its assigned column; 0 for the new row
        row_price = torch.where(assigned == UNASSIGNED, 0.0, row_cost.gather(1, assigned.clamp(min=0)))
        new_length = current_length + row_cost - row_price
        running = end == UNASSIGNED
        shorter = running & (new_length < length) & ~done
        length = torch.where(shorter, new_length, length)
        previous_row = torch.where(shorter, current_row, previous_row)
        nearest = length.masked_fill(done, torch.inf).argmin(1, keepdim=True)
        current_length = torch.where(running, length.gather(1, nearest), current_length)
        next_row = row_of.gather(1, nearest)
        end = torch.where(running & (next_row == UNASSIGNED), nearest, end)
        running = end == UNASSIGNED
        done = done | (running & _one_hot(nearest, done))
        current_row = torch.where(running, next_row, current_row)
    return previous_row, end, price + torch.where(done, length - current_length, 0.0)


def _one_hot(place: Tensor, like: Tensor) -> Tensor:
    """(G, n) bool mask, true at column `place` (G, 1) of each row; n and device as in `like`."""
    return torch.arange(like.shape[1], device=like.device) == place


def _augment_path(
    previous_row: Tensor, end: Tensor, row: int, row_of: Tensor, column_of: Tensor
) -> tuple[Tensor, Tensor]:
    """`row_of` and `column_of` after reassigning along the path from `row` to column `end` (G, 1)."""
    column, running = end, torch.ones_like(end, dtype=torch.bool)
    for _ in range(row + 1):
        previous = previous_row.gather(1, column)
        freed = column_of.gather(1, previous)  # column assigned to this row so far
        row_of = torch.where(running & _one_hot(column, row_of), previous, row_of)
        column_of = torch.where(running & _one_hot(previous, column_of), column, column_of)
        running = running & (previous != row)
        column = torch.where(running, freed, column)
    return row_of, column_of
