"""A task of the tests: predict two numbers, with a loss in units of their standard deviation."""

from dataclasses import dataclass

import numpy as np
import torch

from hf_mixup.tasks import Card, Metric, Task


@dataclass(eq=False)
class TwoNumbers(Task):
    """`power`: exponent of the error in the loss."""

    reads = "vector"
    metric = "rmse"
    higher_is_better = False
    card = Card(
        "Prediction of two numbers",
        problem_type="regression",
        metrics=(
            Metric("rmse", "RMSE", "rmse", higher_is_better=False),
            Metric("largest", "Largest error", "max", False),
        ),
    )
    power: float = 2.0

    def build(self, net, labels):
        self.register_buffer("scale", torch.tensor(labels.std if labels else [1.0, 1.0], dtype=torch.float32))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, net, batch, rng):
        return net, batch["pixel_values"], batch["labels"]

    def loss(self, outputs, y):
        return ((outputs - y).abs() / self.scale).pow(self.power).mean(-1)

    def metrics(self, prediction):
        error = np.abs(prediction.predictions - prediction.label_ids)
        return {"rmse": float(np.sqrt((error**2).mean())), "largest": float(error.max())}

    def after_step(self, net):
        self.steps += 1
