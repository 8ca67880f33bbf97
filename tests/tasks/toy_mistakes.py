"""A task of the tests as a user may write it, and the same task with mistakes."""

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F

from hf_mixup.ops.losses import soft_cross_entropy
from hf_mixup.tasks import Card, Metric, Task


@dataclass(eq=False)
class Right(Task):
    """Classification."""

    metric, higher_is_better = "accuracy", True
    card = Card("Right", metrics=(Metric("accuracy", "Accuracy", "accuracy"),))

    def forward(self, net, batch, rng):
        return net, batch["pixel_values"], F.one_hot(batch["labels"], net.num_classes).float()

    def loss(self, outputs, y):
        return soft_cross_entropy(outputs, y)

    def metrics(self, prediction):
        return {"accuracy": (prediction.predictions.argmax(1) == prediction.label_ids).mean()}


class FourOutputs(Right):
    def head(self, labels):
        return "four"


class NoOutputs(Right):
    def head(self, labels):
        return 0


class OneMore(Right):
    """With an output for a class that no image has."""

    def head(self, labels):
        return labels.size + 1


@dataclass(eq=False)
class PathAsField(Right):
    place: object = Path("/somewhere")


class MeanLoss(Right):
    def loss(self, outputs, y):
        return super().loss(outputs, y).mean()


class NotANumber(Right):
    def metrics(self, prediction):
        return {"accuracy": float("nan")}
