"""Entropy-regularised optimal transport between uniform distributions, batched, without device synchronisation."""

import math

import torch
from torch import Tensor

TINY = 1e-8  # added to weights before the logarithm, as in the code of AlignMix's authors


@torch.no_grad()
def sinkhorn(cost: Tensor, eps: float = 0.1, rounds: int = 100, threshold: float = 0.1) -> Tensor:
    """(B, P, Q) float32 transport plans: columns sum to 1/Q and, after convergence, rows to 1/P; no gradient.

    `cost` (B, P, Q); `eps`, the weight of the entropy, in the same units. At most `rounds` updates of rows and columns.
    Updates stop for the whole batch when the row potentials u change by less than `threshold`, summed over rows and
    averaged over the batch (Cuturi, 2013, in the log domain).
    """
    cost = cost.float()
    u, v = cost.new_zeros(cost.shape[:2]), cost.new_zeros(cost.shape[0], cost.shape[2])
    row_weight, column_weight = (math.log(1 / count + TINY) for count in cost.shape[1:])
    running = torch.ones((), dtype=torch.bool, device=cost.device)
    for _ in range(rounds):
        # u + eps (log mu - logsumexp((u + v - D) / eps)), from which u cancels
        new_u = eps * (row_weight - ((v[:, None] - cost) / eps).logsumexp(2))
        change = (new_u - u).abs().sum(1).mean()
        u = torch.where(running, new_u, u)
        v = eps * (column_weight - ((u[:, :, None] - cost) / eps).logsumexp(1))
        running = running & (change >= threshold)
        # on a GPU, reading `running` would synchronise; the remaining rounds do not change the result
        if cost.device.type == "cpu" and not running:
            break
    return ((u[:, :, None] + v[:, None] - cost) / eps).exp()
