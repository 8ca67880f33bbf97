"""Classification: images and the one-hot rows of their classes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def classification(net, batch: dict[str, Tensor], rng: torch.Generator):
    """`net`, images (B, C, H, W) and targets (B, K) float32; labels that are targets already stay as they are."""
    x, labels = batch["pixel_values"], batch["labels"]
    return net, x, targets(labels, net.num_classes)


def targets(labels: Tensor, num_classes: int) -> Tensor:
    """(B, K) float32: one-hot rows of class numbers (B,), or the rows (B, K) given."""
    if labels.is_floating_point():
        return labels.float()
    return F.one_hot(labels.long(), num_classes).float()
