"""Optimal assignment: pairs of the least total cost, exactly, for many small tables at once and without a wait."""

import torch
from torch import Tensor

NOBODY = -1


@torch.no_grad()
def assign(cost: Tensor) -> Tensor:
    """(G, n) the column that each row of `cost` (G, n, n) gets, one row a column, with the least sum of costs.

    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987): rows come in one by one, and each looks for
    the cheapest chain of changes that ends at a free column. About n^2 / 2 small steps, in float64.
    """
    groups, side, _ = cost.shape
    cost = cost.double()
    price = cost.new_zeros(groups, side)
    owner = torch.full_like(price, NOBODY, dtype=torch.long)  # of each column
    column = owner.clone()  # of each row
    for row in range(side):
        before, end, price = _shortest(cost, row, price, owner, column)
        owner, column = _augment(before, end, row, owner, column)
    return column


def _shortest(cost: Tensor, row: int, price: Tensor, owner: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The row before each column (G, n) on the cheapest chain of `row`, its last column (G, 1), and prices (G, n).

    `price` keeps every reduced cost at zero or above, and at zero for pairs, so that the search is Dijkstra's.
    """
    length = torch.full_like(price, torch.inf)
    done = torch.zeros_like(price, dtype=torch.bool)
    before = torch.full_like(owner, row)
    at = torch.full_like(owner[:, :1], row)  # the row the search stands at
    so_far, end = torch.zeros_like(price[:, :1]), torch.full_like(at, NOBODY)
    for _ in range(row + 1):  # as many columns can have an owner, and one has none
        here = cost.gather(1, at[:, :, None].expand(-1, -1, cost.shape[2]))[:, 0] - price
        own = column.gather(1, at)
        paid = torch.where(own == NOBODY, 0.0, here.gather(1, own.clamp(min=0)))  # of the new row: nothing yet
        reach = so_far + here - paid
        running = end == NOBODY
        shorter = running & (reach < length) & ~done
        length, before = torch.where(shorter, reach, length), torch.where(shorter, at, before)
        nearest = length.masked_fill(done, torch.inf).argmin(1, keepdim=True)
        so_far = torch.where(running, length.gather(1, nearest), so_far)
        next_row = owner.gather(1, nearest)
        end = torch.where(running & (next_row == NOBODY), nearest, end)
        running = end == NOBODY
        done = done | (running & _at(nearest, done))
        at = torch.where(running, next_row, at)
    return before, end, price + torch.where(done, length - so_far, 0.0)


def _at(place: Tensor, like: Tensor) -> Tensor:
    """Like `like` (G, n), true at the `place` (G, 1) of each row."""
    return torch.arange(like.shape[1], device=like.device) == place


def _augment(before: Tensor, end: Tensor, row: int, owner: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Owners of columns and columns of rows, changed along the chain from `row` to the column `end` (G, 1)."""
    at, running = end, torch.ones_like(end, dtype=torch.bool)
    for _ in range(row + 1):
        giver = before.gather(1, at)
        left = column.gather(1, giver)  # the column that row gives up
        owner = torch.where(running & _at(at, owner), giver, owner)
        column = torch.where(running & _at(giver, column), at, column)
        running = running & (giver != row)
        at = torch.where(running, left, at)
    return owner, column
