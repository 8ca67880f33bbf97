"""Losses for soft targets, one value per row; the caller takes the mean over the batch."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

RowLoss = Callable[[Tensor, Tensor], Tensor]  # outputs (B, ...) and targets (B, ...) to losses (B,)
MIN_PROBABILITY = 1e-7  # lower bound of the mean prediction


def soft_cross_entropy(logits: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """(B,) `-sum_c y_c log softmax(logits)_c` in nats; rows of `y` (B, K) need not sum to one.

    `weights` (K,): factors of the classes' terms, as the `weight` of torch's cross_entropy with probabilities.
    """
    y = y if weights is None else y * weights.to(y.device, non_blocking=True)
    return -(y * logits.log_softmax(-1)).sum(-1)


def binary_cross_entropy(
    logits: Tensor, y: Tensor, threshold: float | None = None, total: bool = False, weights: Tensor | None = None
) -> Tensor:
    """(B,) sigmoid cross-entropy in nats, mean over the classes, or their sum with `total`.

    `threshold`: targets above it become one, the others zero (Wightman et al., arXiv 2110.00476, section 2.1).
    `weights` (K,): factors of the classes' terms.
    """
    if threshold is not None:
        y = (y > threshold).to(y.dtype)
    weights = weights if weights is None else weights.to(y.device, non_blocking=True)
    loss = F.binary_cross_entropy_with_logits(logits, y, weights, reduction="none")
    return loss.sum(-1) if total else loss.mean(-1)


def jensen_shannon(*logits: Tensor) -> Tensor:
    """(B,) Jensen-Shannon divergence of the predictions of several views (B, K), in nats, 0 to log(number of views).

    Probabilities of the mean prediction are at least 1e-7 (AugMix, arXiv 1912.02781, section 3, and its code).
    """
    logs = [view.log_softmax(-1) for view in logits]
    mean = (sum(log.exp() for log in logs) / len(logs)).clamp(min=MIN_PROBABILITY).log()
    return sum((log.exp() * (log - mean)).sum(-1) for log in logs) / len(logs)


def smooth(y: Tensor, amount: float) -> Tensor:
    """(B, K) targets with label smoothing `amount`: that share of each row is spread evenly (arXiv 1512.00567)."""
    if amount == 0:
        return y
    return (1 - amount) * y + amount / y.shape[-1] * y.sum(-1, keepdim=True)
