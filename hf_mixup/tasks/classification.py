"""Classification: images and one-hot targets."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..net import Net


def classification(net: "Net", batch: dict[str, Tensor], rng: torch.Generator) -> tuple["Net", Tensor, Tensor]:
    """`net`, images (B, C, H, W) and targets (B, K) float32; float labels are used as targets."""
    x, labels = batch["pixel_values"], batch["labels"]
    return net, x, targets(labels, net.num_classes)


def targets(labels: Tensor, num_classes: int) -> Tensor:
    """(B, K) float32 targets: one-hot rows of class indices (B,), or the float labels (B, K)."""
    if labels.is_floating_point():
        return labels.float()
    rows = torch.zeros(*labels.shape, num_classes, device=labels.device)
    try:
        return rows.scatter_(-1, labels.long()[..., None], 1.0)
    except RuntimeError as error:
        if labels.device.type != "cpu":
            raise
        problem = f"Labels are {labels.min()} to {labels.max()}, but there are {num_classes} classes"
        raise ValueError(f"{problem}: give class indices from 0 to {num_classes - 1}.") from error
