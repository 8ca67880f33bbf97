"""Classification: each image has one class; softmax cross-entropy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..metrics import compute_metrics
from ..ops.losses import RowLoss, binary_cross_entropy, soft_cross_entropy
from ._base import Batch, Card, Metric, Task

ROUNDING = 0.01  # by which the sum of soft labels may differ from one


def classification(net, batch: Batch, rng: torch.Generator) -> tuple:
    """`net`, images (B, C, H, W) and targets (B, K) float32."""
    return net, batch["pixel_values"], targets(batch["labels"], net.num_classes)


@dataclass(eq=False)
class Classification(Task):
    """Labels are class indices (B,), or soft labels (B, K) whose rows sum to one (or zero: without a label)."""

    reads = "class"
    metric = "top1"
    higher_is_better = True
    card = Card(
        "Image classification",
        pipeline_tag="image-classification",
        metrics=(
            Metric("top1", "Top-1", "accuracy"),
            Metric("top5", "Top-5", "accuracy"),
            Metric("nll", "NLL", "nll", higher_is_better=False),
            Metric("ece", "ECE", "ece", higher_is_better=False),
        ),
    )

    checked = False  # whether the sums of soft labels were checked

    def build(self, net, labels) -> None:
        self.checked = False
        if net.architecture.classifier is not None and net.num_classes == 1:
            raise ValueError(
                "Classification requires two classes or more, and the network has one output: add images of another "
                "class, or give the task of this network."
            )

    def forward(self, net, batch: Batch, rng: torch.Generator) -> tuple:
        net, x, y = classification(net, batch, rng)
        if batch["labels"].is_floating_point() and not self.checked:
            self._check_sums(y)
        return net, x, y

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return soft_cross_entropy(outputs, y)

    def recipe_loss(self, name: str | None, class_weights: Sequence[float] | None, **options) -> RowLoss:
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        if name == "bce":
            return partial(binary_cross_entropy, weights=weights, **options)
        return self.loss if weights is None else partial(soft_cross_entropy, weights=weights)

    def metrics(self, prediction) -> dict[str, float]:
        return compute_metrics(prediction)

    def _check_sums(self, labels: Tensor) -> None:
        """ValueError if soft labels are those of several classes; reads values, so only in the first batch."""
        self.checked = True
        if labels.device.type == "meta":
            return
        sums = labels.sum(-1)
        if not bool((((sums - 1).abs() < ROUNDING) | (sums == 0)).all()):
            raise ValueError(
                f"Labels are rows of {labels.shape[-1]} floats that sum to {sums.min():g} to {sums.max():g}. For "
                "images of several classes use task 'multilabel', or set problem_type='multi_label_classification' in "
                "the network's configuration; soft labels of one class must sum to one."
            )


def targets(labels: Tensor, num_classes: int) -> Tensor:
    """(B, K) float32 targets: one-hot rows of class indices (B,) or (B, 1), or the float labels (B, K)."""
    if labels.dim() == 2 and labels.shape[1] == 1 and not labels.is_floating_point():
        labels = labels[:, 0]
    is_float, shape = labels.is_floating_point(), tuple(labels.shape)
    if labels.dtype == torch.bool or len(shape) != 1 + is_float or (is_float and shape[1] != num_classes):
        raise ValueError(
            f"Labels have shape {shape} and type {labels.dtype}. Give class indices (B,) as integers, or soft labels "
            f"(B, {num_classes}) as floats."
        )
    if is_float:
        return labels.float()
    rows = torch.zeros(len(labels), num_classes, device=labels.device)
    try:
        return rows.scatter_(-1, labels.long()[:, None], 1.0)
    except RuntimeError as error:
        if labels.device.type != "cpu":
            raise
        problem = f"Labels are {labels.min()} to {labels.max()}, but there are {num_classes} classes"
        raise ValueError(f"{problem}: give class indices from 0 to {num_classes - 1}.") from error
