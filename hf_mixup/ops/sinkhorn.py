"""Entropy-regularised optimal transport between uniform distributions, batched, without device synchronisation."""

import math

import torch
from torch import Tensor

TINY = 1e-8  # added to weights before the logarithm, as in the code of AlignMix's authors


@torch.no_grad()
def sinkhorn(cost: Tensor, eps: float = 0.1, rounds: int = 100, threshold: float = 0.1) -> Tensor:
    """(B, P, Q) float32 transport plans: columns sum to 1/Q and, after convergence, rows to 1/P; no gradient.

    `cost` (B, P, Q); `eps`, the weight of the entropy, in the same units. At most `rounds` updates of rows and columns.
    They stop for the whole batch when the row potentials change by less than `threshold`, summed over rows and averaged
    over the batch (Cuturi, 2013, in the log domain).
    """
    cost = cost.float()
    rows, columns = cost.new_zeros(cost.shape[:2]), cost.new_zeros(cost.shape[0], cost.shape[2])
    row_weight, column_weight = (math.log(1 / count + TINY) for count in cost.shape[1:])
    running = torch.ones((), dtype=torch.bool, device=cost.device)
    for _ in range(rounds):
        # u + eps (log mu - logsumexp((u + v - D) / eps)), from which u cancels
        moved = eps * (row_weight - ((columns[:, None] - cost) / eps).logsumexp(2))
        step = (moved - rows).abs().sum(1).mean()
        rows = torch.where(running, moved, rows)
        columns = eps * (column_weight - ((rows[:, :, None] - cost) / eps).logsumexp(1))
        running = running & (step >= threshold)
        # on a GPU, reading `running` would synchronise; the remaining rounds do not change the result
        if cost.device.type == "cpu" and not running:
            break
    return ((rows[:, :, None] + columns[:, None] - cost) / eps).exp()
