"""Optimal transport with entropy, between places of equal weight: a whole batch at once, without a wait."""

import math

import torch
from torch import Tensor

TINY = 1e-8  # added to weights before their logarithm, as in the authors' code of AlignMix


@torch.no_grad()
def sinkhorn(cost: Tensor, eps: float = 0.1, rounds: int = 100, threshold: float = 0.1) -> Tensor:
    """(B, P, Q) float32 plans whose columns sum to 1/Q, and rows, once they have settled, to 1/P; no gradient.

    `cost` (B, P, Q) of moving between places, `eps` the price of certainty in the same units. At most `rounds`
    updates of rows and columns; they stop for the whole batch after one in which the potentials of the rows moved by
    less than `threshold`, summed over rows and averaged over the batch (Cuturi, 2013, in logarithms).
    """
    cost = cost.float()
    rows, columns = cost.new_zeros(cost.shape[:2]), cost.new_zeros(cost.shape[0], cost.shape[2])
    row_weight, column_weight = (math.log(1 / count + TINY) for count in cost.shape[1:])
    running = torch.ones((), dtype=torch.bool, device=cost.device)
    for _ in range(rounds):
        # u + eps (log mu - logsumexp((u + v - D) / eps)), in which u falls out
        moved = eps * (row_weight - ((columns[:, None] - cost) / eps).logsumexp(2))
        step = (moved - rows).abs().sum(1).mean()
        rows = torch.where(running, moved, rows)
        columns = eps * (column_weight - ((rows[:, :, None] - cost) / eps).logsumexp(1))
        running = running & (step >= threshold)
        # to ask costs nothing on the CPU; elsewhere the rest of the rounds find the same rows, and so the same columns
        if cost.device.type == "cpu" and not running:
            break
    return ((rows[:, :, None] + columns[:, None] - cost) / eps).exp()
