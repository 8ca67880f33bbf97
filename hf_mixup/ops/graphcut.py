"""Grid labelling by minimum cuts, batched, on the device of the input, without synchronisation.

The energy of levels l is `sum_i unary[l_i, i] + sum_edges w (l_i - l_j)^2 / (L - 1)^2`. Two levels take one cut,
three levels take two: levels start in the middle and move up, then down, and each move is a cut. That reaches the
global minimum if the unary costs are convex in the level (L-natural convexity: Kolmogorov and Shioura, Discrete
Optimization 6, 2009).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT_WIDTH = 8  # a row of 8 cells has 256 labellings; each additional cell doubles time and memory
WINDOW, STRIDE = 6, 4  # wider grids: windows of 6 columns or rows with stride 4, at a quarter of the time


@torch.no_grad()
def minimise(unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """(B, h, w) integer levels 0..L-1 of minimum energy.

    `unary` (B, L, h, w) with L 2 or 3, convex in the level; edge weights `down` (B, h-1, w) to the cell below and
    `right` (B, h, w-1) to the cell on the right, clamped to 0 or above. The global minimum if one side has at most
    EXACT_WIDTH cells; otherwise an approximation (see `_sweep`).
    """
    levels = unary.shape[1]
    if levels not in (2, 3):
        raise ValueError(f"unary has costs of {levels} levels: give the costs of 2 or 3.")
    # batch dimension last, so that every operation is contiguous over the batch
    unary = unary.float().permute(1, 2, 3, 0).contiguous()
    down, right = ((w.float() / (levels - 1) ** 2).clamp(min=0).permute(1, 2, 0).contiguous() for w in (down, right))
    labels = torch.full_like(unary[0], (levels - 1) // 2, dtype=torch.long)
    labels = _move(labels, 1, unary, down, right)
    if levels == 3:
        labels = _move(labels, -1, unary, down, right)
    return labels.permute(2, 0, 1)


def _move(labels: Tensor, step: int, unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """`labels` (h, w, B) after the best move that adds `step` to a subset of them."""
    change = unary.gather(0, (labels + step)[None])[0] - unary.gather(0, labels[None])[0]
    # with d = l_i - l_j:  (d + step (b_i - b_j))^2 - d^2 = 2 d step (b_i - b_j) + |b_i - b_j|
    slope = 2 * step * down * (labels[:-1] - labels[1:])
    change[:-1] += slope
    change[1:] -= slope
    slope = 2 * step * right * (labels[:, :-1] - labels[:, 1:])
    change[:, :-1] += slope
    change[:, 1:] -= slope
    return labels + step * cut(change, down, right)


def cut(unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """(h, w, B) binary labels b that minimise `sum unary * b + sum_edges w |b_i - b_j|`; weights w are 0 or above."""
    height, width = unary.shape[:2]
    if width > height:
        return cut(unary.transpose(0, 1), right.transpose(0, 1), down.transpose(0, 1)).transpose(0, 1)
    return _sweep(unary, down, right) if width > EXACT_WIDTH else _exact(unary, down, right)


def _exact(unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """As `cut`, by dynamic programming over rows: least cost of each of a row's 2^w labellings, then backtracking."""
    height, width = unary.shape[:2]
    row_costs = _row_costs(unary, right)
    best = [row_costs[0]]
    for row in range(1, height):
        best.append(row_costs[row] + _cheapest_above(best[-1], down[row - 1]))
    states = [best[-1].min(0).indices]
    for row in reversed(range(height - 1)):
        states.append((best[row] + _distance(states[-1], down[row])).min(0).indices)
    return _bits(torch.stack(states[::-1]), width).transpose(0, 1)


def _row_costs(unary: Tensor, right: Tensor) -> Tensor:
    """(h, 2^w, B) cost of each labelling of each row; bit c of a labelling's index is the label of column c."""
    height, width, count = unary.shape
    zero = torch.zeros_like(unary[:, 0])
    cost = torch.stack([zero, unary[:, 0]], 1)
    for column in range(1, width):
        edge, label = right[:, column - 1], unary[:, column]
        # axis 1 is this column's bit, axis 2 the bit of the previous column
        added = torch.stack([zero, edge, label + edge, label], 1).view(height, 2, 2, 1, count)
        cost = (cost.view(height, 1, 2, -1, count) + added).view(height, -1, count)
    return cost


def _cheapest_above(cost: Tensor, edges: Tensor) -> Tensor:
    """(2^w, B) minimum of a row's `cost` plus its `edges` (w, B) to the row below, per labelling of that row."""
    cost = cost.clone()
    for column, edge in enumerate(edges):
        zero, one = cost.view(-1, 2, 2**column, cost.shape[-1]).unbind(1)
        flipped = zero + edge
        torch.minimum(zero, one + edge, out=zero)
        torch.minimum(one, flipped, out=one)
    return cost


def _distance(state: Tensor, edges: Tensor) -> Tensor:
    """(2^w, B) cost of the `edges` (w, B) from each labelling of a row to labelling `state` (B,) of the row below."""
    below = _bits(state, len(edges))
    if_zero, if_one = edges * below, edges * (1 - below)
    cost = torch.stack([if_zero[0], if_one[0]])
    for column in range(1, len(edges)):
        cost = torch.cat([cost + if_zero[column], cost + if_one[column]])
    return cost


def _bits(state: Tensor, width: int) -> Tensor:
    """(width, ...) bits of the integers `state`, lowest first."""
    places = torch.arange(width, device=state.device).view(-1, *[1] * state.dim())
    return (state >> places) & 1


def _sweep(unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """As `cut`, approximately: solve a grid of half the resolution, then windows of columns and rows, given the rest.

    No step increases the energy, so no constant labelling is better.
    """
    labels = _improve_columns(_coarse(unary, down, right), unary, down, right)
    unary, down, right = unary.transpose(0, 1), right.transpose(0, 1), down.transpose(0, 1)
    return _improve_columns(labels.transpose(0, 1), unary, down, right).transpose(0, 1)


def _coarse(unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """(h, w, B) labels from `cut` of a grid whose cells are squares of two by two cells."""
    height, width = unary.shape[:2]
    odd_row, odd_column = height % 2, width % 2
    # edges inside a square cost nothing; every second edge is between two squares
    squares = F.pad(unary, (0, 0, 0, odd_column, 0, odd_row)).unflatten(0, (-1, 2)).sum(1).unflatten(1, (-1, 2)).sum(2)
    below = F.pad(down[1::2], (0, 0, 0, odd_column)).unflatten(1, (-1, 2)).sum(2)
    beside = F.pad(right[:, 1::2], (0, 0, 0, 0, 0, odd_row)).unflatten(0, (-1, 2)).sum(1)
    labels = cut(squares, below, beside)
    return labels.repeat_interleave(2, 0).repeat_interleave(2, 1)[:height, :width]


def _improve_columns(labels: Tensor, unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """`labels` (h, w, B) after solving windows of columns from left to right, each exactly, given its neighbours."""
    labels, width = labels.clone(), labels.shape[1]
    for left in range(0, width - WINDOW + STRIDE, STRIDE):
        end = min(left + WINDOW, width)
        costs = unary[:, left:end].clone()
        if left > 0:
            costs[:, 0] += right[:, left - 1] * (1 - 2 * labels[:, left - 1])
        if end < width:
            costs[:, -1] += right[:, end - 1] * (1 - 2 * labels[:, end])
        labels[:, left:end] = _exact(costs, down[:, left:end], right[:, left : end - 1])
    return labels
