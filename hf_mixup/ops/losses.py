"""Losses of soft targets, one number a row: the mean over the batch comes last, and once."""

import torch.nn.functional as F
from torch import Tensor

LEAST = 1e-7  # probability below which a mean prediction does not fall


def soft_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) `-sum_c y_c log softmax(logits)_c` in nats; rows of `y` (B, K) need not sum to one."""
    return -(y * logits.log_softmax(-1)).sum(-1)


def binary_cross_entropy(logits: Tensor, y: Tensor, threshold: float | None = None, total: bool = False) -> Tensor:
    """(B,) sigmoid cross-entropy in nats, mean over the classes, or their sum with `total`.

    `threshold`: targets above it become one, the others zero (Wightman et al., arXiv 2110.00476, section 2.1).
    """
    if threshold is not None:
        y = (y > threshold).to(y.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return loss.sum(-1) if total else loss.mean(-1)


def jensen_shannon(*logits: Tensor) -> Tensor:
    """(B,) how far the predictions of views (B, K) are apart: mean divergence from their mean, in nats, 0 to log views.

    The mean's probabilities count as 1e-7 at least (AugMix, arXiv 1912.02781, section 3, and its code).
    """
    logs = [view.log_softmax(-1) for view in logits]
    mean = (sum(log.exp() for log in logs) / len(logs)).clamp(min=LEAST).log()
    return sum((log.exp() * (log - mean)).sum(-1) for log in logs) / len(logs)


def smooth(y: Tensor, amount: float) -> Tensor:
    """(B, K) targets with `amount` of each row's weight spread evenly over the classes (Szegedy et al., 1512.00567)."""
    if amount == 0:
        return y
    return (1 - amount) * y + amount / y.shape[-1] * y.sum(-1, keepdim=True)
