"""Multi-label classification: each image has any number of classes; binary cross-entropy of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..metrics.multilabel import multilabel_metrics
from ..ops.losses import RowLoss, binary_cross_entropy
from ._base import Batch, Card, Metric, Task

TARGETS = ("weights", "union")


@dataclass(eq=False)
class MultiLabel(Task):
    """Labels are float rows (B, K) with 1 for each class of the image. `target`: of a mixed image, the classes' mixed
    "weights", or 1 for each class of the "union" of the mixed images. `threshold`: probability from which a class is
    predicted, for the F1 metrics.
    """

    reads = "classes"
    metric = "map"
    higher_is_better = True
    card = Card(
        "Multi-label image classification",
        pipeline_tag="image-classification",
        problem_type="multi_label_classification",
        metrics=(
            Metric("map", "mAP", "mean_average_precision"),
            Metric("f1_micro", "micro F1", "f1"),
            Metric("f1_macro", "macro F1", "f1"),
        ),
    )
    checked = False  # whether the values of labels were checked

    target: str = "weights"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"Unknown target {self.target!r} of a multi-label task. Choose one of: weights, union.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"The threshold is {self.threshold!r}: give a probability between 0 and 1.")

    def build(self, net, labels) -> None:
        self.checked = False

    def forward(self, net, batch: Batch, rng: torch.Generator) -> tuple:
        y = multi_hot(batch["labels"], net.num_classes)
        if not self.checked:
            self._check_values(y)
        return net, batch["pixel_values"], y

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy(outputs, self.target_of(y))

    def target_of(self, y: Tensor) -> Tensor:
        """The targets for mixed labels `y` (B, K): `y`, or 1 for each class with a positive weight."""
        # the weights of a class may sum to more than one (`Method.free_weights`): the loss would have no lower bound
        return (y > 0).to(y.dtype) if self.target == "union" else y.clamp(max=1)

    def recipe_loss(self, name: str | None, class_weights: Sequence[float] | None, **options) -> RowLoss:
        if name not in (None, "bce"):
            raise ValueError(f"loss is {name!r}, but images have several classes: leave loss out, or set it to bce.")
        if name is None and class_weights is None and not any(options.values()):
            return self.loss
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        loss = partial(binary_cross_entropy, weights=weights, **options)
        return lambda outputs, y: loss(outputs, self.target_of(y))

    def _check_values(self, labels: Tensor) -> None:
        """ValueError if labels are not from 0 to 1; reads values, so only in the first batch."""
        self.checked = True
        if labels.device.type != "meta" and not bool(((labels >= 0) & (labels <= 1)).all()):
            raise ValueError(
                f"Labels of a multi-label task are {labels.min():g} to {labels.max():g}: give 1 for each class of the "
                "image and 0 for the others."
            )

    def metrics(self, prediction) -> dict[str, float]:
        return multilabel_metrics(prediction.predictions, prediction.label_ids, self.threshold)


def multi_hot(labels: Tensor, num_classes: int) -> Tensor:
    """(B, K) float32 targets of labels (B, K), 0 to 1; ValueError for other shapes, which are not rows of classes."""
    if labels.dim() != 2 or labels.shape[1] != num_classes:
        raise ValueError(
            f"Labels have shape {tuple(labels.shape)} and type {labels.dtype}. A multi-label task requires rows "
            f"(B, {num_classes}) with 1 for each class of the image; for one class per image, use task classification."
        )
    return labels.float()
