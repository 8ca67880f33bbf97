"""Labelling grids with many labels: a whole batch at once, where its tensors are, without a wait.

The energy of labels l is `sum_i unary[l_i, i] + weight * sum_edges clash[l_i, l_j]`. Its minimum cannot be had in
reasonable time, so it is sought by mean-field annealing: each cell holds a probability of each label, cells of the two
colours of a checkerboard are updated in turn, and the temperature falls (Peterson and Söderberg, International Journal
of Neural Systems 1, 1989).
"""

from functools import lru_cache

import torch
from torch import Tensor

HOT, COLD, COOLINGS = 1.0, 0.1, 6  # temperatures in units of `weight`, first and last, and how many
DESCENTS = 2  # sweeps at temperature zero


@torch.no_grad()
def labelling(unary: Tensor, clash: Tensor, weight: float, size: tuple[int, int]) -> Tensor:
    """(B, S, L) one-hot labels of the S = h * w cells of grids of `size`: near the least energy, see the tests.

    `unary` (B, S, L) finite; `clash` (B, L, L) symmetric, zero on its diagonal; `weight` not negative, alike for all
    edges. No constant labelling is better.
    """
    if weight == 0:
        return one_hot(unary)
    even, near = checkerboard(size, unary.device)
    temperatures = [weight * HOT * (COLD / HOT) ** (step / (COOLINGS - 1)) for step in range(COOLINGS)]
    clash = weight * clash

    def costs(belief):
        return torch.baddbmm(unary, near.expand(len(belief), -1, -1) @ belief, clash)

    def sweep(belief, update):
        for colour in (even, ~even):
            belief = torch.where(colour, update(costs(belief)), belief)
        return belief

    belief = (-unary / temperatures[0]).softmax(-1)
    for temperature in temperatures:
        belief = sweep(belief, lambda cost, t=temperature: (-cost / t).softmax(-1))
    belief = one_hot(-belief)
    for _ in range(DESCENTS):
        belief = sweep(belief, one_hot)
    alike = one_hot(unary.sum(1, keepdim=True)).expand_as(belief)
    worse = energy(belief, unary, clash, near) > energy(alike, unary, clash, near)
    return torch.where(worse[:, None, None], alike, belief)


def energy(labels: Tensor, unary: Tensor, clash: Tensor, near: Tensor) -> Tensor:
    """(B,) energy of one-hot `labels` (B, S, L); `clash` times the weight, `near` (S, S) as from `checkerboard`."""
    edges = torch.bmm(near.expand(len(labels), -1, -1) @ labels, clash) / 2  # each edge is seen from both ends
    return (labels * (unary + edges)).sum((1, 2))


def one_hot(cost: Tensor) -> Tensor:
    """Like `cost` (B, S, L): one at the least of each cell, zero elsewhere."""
    return torch.zeros_like(cost).scatter(-1, cost.argmin(-1, keepdim=True), 1.0)


@lru_cache(maxsize=16)
def checkerboard(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """(S, 1) whether a cell is white, and (S, S) ones where two cells share an edge; not to be written to."""
    place = torch.cartesian_prod(*(torch.arange(side, device=device) for side in size)).view(-1, 2)
    apart = (place[:, None] - place).abs().sum(-1)
    return (place.sum(-1, keepdim=True) % 2 == 0), (apart == 1).float()
