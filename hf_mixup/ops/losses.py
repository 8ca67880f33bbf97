"""Losses of soft targets, one number a row: the mean over the batch comes last, and once."""

import torch.nn.functional as F
from torch import Tensor


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


def smooth(y: Tensor, amount: float) -> Tensor:
    """(B, K) targets with `amount` of each row's weight spread evenly over the classes (Szegedy et al., 1512.00567)."""
    if amount == 0:
        return y
    return (1 - amount) * y + amount / y.shape[-1] * y.sum(-1, keepdim=True)
