"""Classification: images and the one-hot rows of their classes."""

import torch
from torch import Tensor


def classification(net, batch: dict[str, Tensor], rng: torch.Generator):
    """`net`, images (B, C, H, W) and targets (B, K) float32; labels that are targets already stay as they are."""
    x, labels = batch["pixel_values"], batch["labels"]
    return net, x, targets(labels, net.num_classes)


def targets(labels: Tensor, num_classes: int) -> Tensor:
    """(B, K) float32: one-hot rows of class numbers (B,), or the rows (B, K) given."""
    if labels.is_floating_point():
        return labels.float()
    rows = torch.zeros(*labels.shape, num_classes, device=labels.device)
    try:
        return rows.scatter_(-1, labels.long()[..., None], 1.0)
    except RuntimeError as error:
        if labels.device.type != "cpu":
            raise
        found = f"Labels from {labels.min()} to {labels.max()}, but {num_classes} classes"
        raise ValueError(f"{found}: give class numbers from 0 to {num_classes - 1}.") from error
