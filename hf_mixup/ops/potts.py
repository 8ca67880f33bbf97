"""Grid labelling with many labels, batched, on the device of the input, without synchronisation.

The energy of labels l is `sum_i unary[l_i, i] + weight * sum_edges pairwise[l_i, l_j]`. Exact minimisation is
NP-hard, so it is approximated by mean-field annealing: each cell has a probability per label, the cells of the two
colours of a checkerboard are updated in turn, and the temperature decreases (Peterson and Söderberg, International
Journal of Neural Systems 1, 1989).
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

HOT, COLD, COOLINGS = 1.0, 0.1, 6  # first and last temperature in units of `weight`; number of temperatures
DESCENTS = 2  # sweeps at temperature zero, after the annealing


@torch.no_grad()
def labelling(unary: Tensor, pairwise: Tensor, weight: float, size: tuple[int, int]) -> Tensor:
    """(B, S, L) one-hot labels of low energy for the S = h * w cells of grids of `size`.

    `unary` (B, S, L) finite; `pairwise` (B, L, L) symmetric with a zero diagonal; `weight` of all edges, 0 or above.
    No constant labelling has lower energy.
    """
    if weight == 0:
        return one_hot(unary)
    even, adjacent = checkerboard(size, unary.device)
    temperatures = [weight * HOT * (COLD / HOT) ** (step / (COOLINGS - 1)) for step in range(COOLINGS)]
    pairwise = weight * pairwise

    def costs(belief: Tensor) -> Tensor:
        return torch.baddbmm(unary, adjacent.expand(len(belief), -1, -1) @ belief, pairwise)

    def sweep(belief: Tensor, update: Callable[[Tensor], Tensor]) -> Tensor:
        for colour in (even, ~even):
            belief = torch.where(colour, update(costs(belief)), belief)
        return belief

    belief = (-unary / temperatures[0]).softmax(-1)
    for temperature in temperatures:
        belief = sweep(belief, lambda cost, t=temperature: (-cost / t).softmax(-1))
    belief = one_hot(-belief)
    for _ in range(DESCENTS):
        belief = sweep(belief, one_hot)
    constant = one_hot(unary.sum(1, keepdim=True)).expand_as(belief)
    is_worse = energy(belief, unary, pairwise, adjacent) > energy(constant, unary, pairwise, adjacent)
    return torch.where(is_worse[:, None, None], constant, belief)


def energy(labels: Tensor, unary: Tensor, pairwise: Tensor, adjacent: Tensor) -> Tensor:
    """(B,) energy of one-hot `labels` (B, S, L); `pairwise` includes the weight, `adjacent` is from `checkerboard`."""
    edges = torch.bmm(adjacent.expand(len(labels), -1, -1) @ labels, pairwise) / 2  # each edge is counted twice
    return (labels * (unary + edges)).sum((1, 2))


def one_hot(cost: Tensor) -> Tensor:
    """One-hot, like `cost` (B, S, L): one at the minimum of each cell."""
    return torch.zeros_like(cost).scatter(-1, cost.argmin(-1, keepdim=True), 1.0)


@lru_cache(maxsize=16)
def checkerboard(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """(S, 1) bool checkerboard of the cells, and their (S, S) adjacency matrix; cached, do not modify."""
    place = torch.cartesian_prod(*(torch.arange(side, device=device) for side in size)).view(-1, 2)
    apart = (place[:, None] - place).abs().sum(-1)
    return (place.sum(-1, keepdim=True) % 2 == 0), (apart == 1).float()
