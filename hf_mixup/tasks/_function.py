"""A function as a task, in a user's own script."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.losses import soft_cross_entropy
from ._base import CLASSES, CLASSIFIER, SOFTMAX, Batch, Task


@dataclass(eq=False)
class FunctionTask(Task):
    """`function(net, batch, rng)` returns `(net, x, y)`; in evaluation it is called too, and nothing is mixed.

    The loss is that of the returned network: `net.row_loss`, soft cross-entropy by default. A function that is an
    nn.Module is trained and saved with the task.
    """

    reads = "any"
    provides = frozenset((CLASSES, SOFTMAX, CLASSIFIER))  # unknown: no method is refused
    function: Callable

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def settings(self) -> dict:
        return {}

    def forward(self, net, batch: Batch, rng: torch.Generator) -> tuple:
        return self.function(net, batch, rng)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return soft_cross_entropy(outputs, y)
