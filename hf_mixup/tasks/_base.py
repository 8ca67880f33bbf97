"""Task: base class of what is learned: labels, targets, loss, evaluation and metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..components import Registry, argument_names
from ..ops.losses import RowLoss

if TYPE_CHECKING:
    from ..data.labels import Labels
    from ..net import Net

TASKS = Registry(__package__, [str(Path(__file__).parent)], "hf_mixup.tasks", "task")
Batch = dict[str, Any]

# what methods may require of a task (`Method.requires`), by what the task reads
CLASSES, SOFTMAX, CLASSIFIER = "classes", "softmax", "classifier"
PROVIDES = {
    "class": frozenset((CLASSES, SOFTMAX, CLASSIFIER)),
    "classes": frozenset((CLASSES, CLASSIFIER)),
    "number": frozenset((CLASSIFIER,)),
    "vector": frozenset((CLASSIFIER,)),
    "map": frozenset(),
    "none": frozenset(),
}
EVALUATION_SEED = 0  # of the generator that `forward` gets in evaluation


def unchanged(x: Tensor, rng: torch.Generator | None) -> Tensor:
    """The `transform` of a task outside of a training step."""
    return x


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation: key in logs (`eval_<key>`) and run records, title, and metric type on the Hub."""

    key: str
    title: str
    kind: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class Card:
    """What config.json and the model card of a trained network say about its task.

    `pipeline_tag` of the Hub and of `transformers.pipeline`, None if no pipeline fits; `problem_type` of transformers'
    configurations; `auto_class` of transformers that loads the network.
    """

    title: str = ""
    pipeline_tag: str | None = None
    problem_type: str | None = None
    auto_class: str = "AutoModelForImageClassification"
    metrics: tuple[Metric, ...] = ()


@dataclass(eq=False)
class Task(nn.Module):
    """What is learned from a batch. Fields are settings (`task_args`).

    Networks and state of the task are submodules and buffers: they are trained, saved as task.safetensors in
    checkpoints and in the published folder, and restored on resume.
    """

    reads: ClassVar[str] = "class"  # label column: class | classes | number | vector | map | none
    views: ClassVar[int] = 1  # augmented copies of each image in a training batch
    unlabelled: ClassVar[bool] = False  # with reads "class": rows without a label are kept, with label -1
    metric: ClassVar[str] = "loss"  # the metric that selects the best checkpoint
    higher_is_better: ClassVar[bool] = False  # the direction of `metric`
    card: ClassVar[Card] = Card()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # nn.Module must be initialised before the dataclass assigns its fields
        self = super().__new__(cls)
        nn.Module.__init__(self)
        self.full_name = ""  # the name by which a class of the user's own was given
        # `transform(x, rng)`: uint8 images as input of the network, augmented, or only normalised if rng is None; float
        # images unchanged. Set by the training step.
        self.transform: Callable[[Tensor, torch.Generator | None], Tensor] = unchanged
        return self

    @property
    def name(self) -> str:
        """The name that `load_task` takes: the file name in the package, that of an entry point, or `module:Class`."""
        return self.full_name or TASKS.name_of(type(self))

    @property
    def gathers_labels(self) -> bool:
        """Whether `metrics` gets the labels of all images; not label maps, which `evaluate` reduces."""
        return self.reads not in ("none", "map")

    @property
    def provides(self) -> frozenset[str]:
        """What the targets and outputs are: "classes" (weights of classes), "softmax" (of one class), "classifier" (of
        the network's last layer, with one meaning in all batches).

        A contrastive task, whose classes are the images of the batch, provides classes and softmax.
        """
        return PROVIDES[self.reads]

    def settings(self) -> dict[str, Any]:
        """All arguments and values, as `load_task` takes them."""
        return {name: getattr(self, name) for name in argument_names(type(self)) if hasattr(self, name)}

    def direction(self, key: str) -> bool | None:
        """Whether a higher value of metric `key` is better; None if the task does not have this metric."""
        directions = {metric.key: metric.higher_is_better for metric in self.card.metrics}
        return ({self.metric: self.higher_is_better} | directions).get(key)

    def head(self, labels: "Labels") -> int | None:
        """The number of outputs of the network for these labels; None keeps the network's pooled features."""
        return None if self.reads in ("none", "map") else labels.size

    def build(self, net: "Net", labels: "Labels | None") -> None:
        """Create networks and state for `net`; called when the training step is made.

        `labels` describes the training split; None for a data set that is not one of hf_mixup.data.
        """

    def prepare(self, batch: Batch, rng: torch.Generator | None) -> Batch:
        """The batch with images as input of the network: augmented with `rng`, or as they are if it is None.

        With several `views`, `batch["views"]` is the list of augmented copies. Draws of all images are made by `rng`.
        """
        x = batch["pixel_values"]
        if rng is None or self.views == 1:
            return {**batch, "pixel_values": self.transform(x[:, 0] if x.dim() == 5 else x, rng)}
        if x.dim() == 4 and x.is_floating_point():
            raise ValueError(
                f"Task {self.name!r} requires {self.views} views of each image, and float images are not augmented: "
                f"give uint8 images, or float images of shape (B, {self.views}, C, H, W)."
            )
        copies = x.unbind(1) if x.dim() == 5 else [x] * self.views
        views = [self.transform(copy, rng) for copy in copies]
        return {**batch, "pixel_values": views[0], "views": views}

    def forward(self, net: "Net", batch: Batch, rng: torch.Generator) -> tuple["Net", Tensor, Tensor]:
        """Network, images (B, C, H, W) and float targets (B, ...), one row per image, which a method may mix."""
        raise NotImplementedError(f"{type(self).__name__} has no `forward`.")

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """(B,) loss of each row, for outputs (B, ...) of the network and targets `y`, mixed or not."""
        raise NotImplementedError(f"{type(self).__name__} has no `loss`.")

    def recipe_loss(self, name: str | None, class_weights: Sequence[float] | None, **options: Any) -> RowLoss:
        """The loss for the recipe's `loss` and `class_weights`; ValueError if the task does not support them."""
        refused = {"loss": name, "class_weights": class_weights}
        for key, value in refused.items():
            if value is not None:
                raise ValueError(f"{key} is {value!r}, but task {self.name!r} has its own loss: leave {key} out.")
        return self.loss

    def evaluate(self, net: "Net", batch: Batch) -> tuple[Tensor, Any]:
        """Loss (B,) of the unmixed batch, and what `metrics` needs: tensors with one row per image.

        Large outputs are reduced here, for example a label map's logits to counts of pixels per class.
        """
        net, x, y = self(net, batch, torch.Generator().manual_seed(EVALUATION_SEED))
        outputs = net(x)
        return net.row_loss(outputs, y), outputs

    def metrics(self, prediction) -> dict[str, float]:
        """The metrics of a whole split, for a Trainer's EvalPrediction.

        `predictions`: the second results of `evaluate`, as arrays (N, ...); `label_ids`: labels, None for label maps
        and without labels.
        """
        return {}

    def after_step(self, net: "Net") -> None:
        """Called once after each optimizer step, for example to update a momentum encoder."""
