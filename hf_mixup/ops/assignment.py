"""Exact minimum-cost assignment of many small cost matrices, batched, without device synchronisation."""

import torch
from torch import Tensor

UNASSIGNED = -1


@torch.no_grad()
def assign(cost: Tensor) -> Tensor:
    """(G, n) column assigned to each row of `cost` (G, n, n): the permutation with the least total cost.

    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987): rows are added one at a time, each by the
    cheapest path of reassignments that ends at a free column. About n^2 / 2 small steps, in float64.
    """
    groups, side, _ = cost.shape
    cost = cost.double()
    price = cost.new_zeros(groups, side)
    owner = torch.full_like(price, UNASSIGNED, dtype=torch.long)  # row assigned to each column
    column = owner.clone()  # column assigned to each row
    for row in range(side):
        before, end, price = _shortest_path(cost, row, price, owner, column)
        owner, column = _augment_path(before, end, row, owner, column)
    return column


def _shortest_path(
    cost: Tensor, row: int, price: Tensor, owner: Tensor, column: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The shortest path from `row` to a free column: previous row of each column (G, n), last column (G, 1), prices.

    `price` (G, n) is the dual variable of the columns. It keeps reduced costs at zero or above, and at zero for
    assigned pairs, so that Dijkstra's algorithm applies.
    """
    length = torch.full_like(price, torch.inf)
    done = torch.zeros_like(price, dtype=torch.bool)
    before = torch.full_like(owner, row)
    at = torch.full_like(owner[:, :1], row)  # row the search has reached
    so_far, end = torch.zeros_like(price[:, :1]), torch.full_like(at, UNASSIGNED)
    for _ in range(row + 1):  # at most `row` columns are assigned: the next one is free
        here = cost.gather(1, at[:, :, None].expand(-1, -1, cost.shape[2]))[:, 0] - price
        own = column.gather(1, at)
        # reduced cost of the row's own column; the new row has none
        paid = torch.where(own == UNASSIGNED, 0.0, here.gather(1, own.clamp(min=0)))
        reach = so_far + here - paid
        running = end == UNASSIGNED
        shorter = running & (reach < length) & ~done
        length, before = torch.where(shorter, reach, length), torch.where(shorter, at, before)
        nearest = length.masked_fill(done, torch.inf).argmin(1, keepdim=True)
        so_far = torch.where(running, length.gather(1, nearest), so_far)
        next_row = owner.gather(1, nearest)
        end = torch.where(running & (next_row == UNASSIGNED), nearest, end)
        running = end == UNASSIGNED
        done = done | (running & _one_hot(nearest, done))
        at = torch.where(running, next_row, at)
    return before, end, price + torch.where(done, length - so_far, 0.0)


def _one_hot(place: Tensor, like: Tensor) -> Tensor:
    """(G, n) bool mask, true at column `place` (G, 1) of each row; n and device as in `like`."""
    return torch.arange(like.shape[1], device=like.device) == place


def _augment_path(before: Tensor, end: Tensor, row: int, owner: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """`owner` and `column` after reassigning along the path from `row` to column `end` (G, 1)."""
    at, running = end, torch.ones_like(end, dtype=torch.bool)
    for _ in range(row + 1):
        previous = before.gather(1, at)
        freed = column.gather(1, previous)  # column that this row had before
        owner = torch.where(running & _one_hot(at, owner), previous, owner)
        column = torch.where(running & _one_hot(previous, column), at, column)
        running = running & (previous != row)
        at = torch.where(running, freed, at)
    return owner, column
