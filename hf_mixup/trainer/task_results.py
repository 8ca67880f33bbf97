"""Checks of what a task, method or loss returns: a mistake in a user's own must not end in wrong numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import TaskError
from ..methods import Method
from ..net import Net
from ..ops.losses import RowLoss
from ..tasks import Task


def checked_targets(task: Task, result: Any) -> tuple[Net, Tensor, Tensor]:
    """Network, images and targets, as `forward` of the task returns them; TaskError if they cannot be used."""
    start = f"`forward` of task {task.name!r} returns"
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise TaskError(f"{start} {described(result)}: return network, images (B, C, H, W) and targets.")
    net, x, y = result
    if not isinstance(net, Net):
        raise TaskError(f"{start} {described(net)} as network: return `net`, or `net.using(...)`.")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TaskError(f"{start} {described(x)} as images: return floats, which `self.transform` makes in `prepare`.")
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.shape[:1] != x.shape[:1]:
        raise TaskError(f"{start} {described(y)} as targets of {len(x)} images: return one row of floats per image.")
    return net, x, y


@contextmanager
def explained(task: Task, batch: dict) -> Iterator[None]:
    """Inside, a KeyError for images or labels that the batch lacks is a TaskError."""
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else None
        ways = {
            "labels": "name the label column 'labels' or 'label', or add labels in the data collator",
            "pixel_values": "name the column of image tensors 'pixel_values', or rename it in the data collator",
        }
        if name not in ways or name in batch:
            raise
        raise TaskError(
            f"Task {task.name!r} reads {name!r}, but the batch has only {sorted(batch)}: {ways[name]}."
        ) from error


def checked_batch(task: Task, batch: Any) -> dict:
    """The batch that `prepare` of the task returns; TaskError if it is none, or its images are not transformed."""
    start = f"`prepare` of task {task.name!r} returns"
    if not isinstance(batch, dict):
        raise TaskError(f"{start} {described(batch)}: return a batch, a dict of tensors.")
    images = batch.get("pixel_values")
    if isinstance(images, Tensor) and not images.is_floating_point() and "views" not in batch:
        raise TaskError(f"{start} {described(images)} as pixel_values: return floats, by `self.transform(x, rng)`.")
    return batch


def checked_evaluation(task: Task, result: Any) -> tuple[Tensor, Any]:
    """Loss and outputs, as `evaluate` of the task returns them; TaskError if they cannot be used."""
    start = f"`evaluate` of task {task.name!r} returns"
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TaskError(f"{start} {described(result)}: return the loss (B,) of each image, and what `metrics` needs.")
    loss, outputs = result
    if not isinstance(loss, Tensor) or loss.dim() != 1:
        raise TaskError(f"{start} {described(loss)} as loss: return one number per image, (B,).")
    unused = outputs is None and type(task).metrics is Task.metrics
    for part in () if unused else leaves(outputs):
        if not isinstance(part, Tensor) or part.shape[:1] != loss.shape:
            raise TaskError(
                f"{start} {described(part)} for `metrics`: return tensors with one row for each of the {len(loss)} "
                "images."
            )
    return loss, outputs


@contextmanager
def explained_batchnorm(net: Net) -> Iterator[None]:
    """Inside, torch's error for a BatchNorm that gets one value per channel is a TaskError with the way out."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TaskError(
            f"The training batch has one image, and a BatchNorm of {net.name} gets one value per channel: raise "
            "per_device_train_batch_size, or drop the last incomplete batch (dataloader_drop_last)."
        ) from error


def checked_losses(method: Method, losses: Any) -> dict[str, Tensor]:
    """The named losses that `forward` of a method returns; TaskError if they cannot be used."""
    start, way = f"`forward` of method {method.name!r} returns", 'return a dict of scalars, for example {"mix": loss}'
    if not isinstance(losses, dict) or not losses:
        raise TaskError(f"{start} {'an empty dict' if losses == {} else described(losses)}: {way}.")
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.dim():
            raise TaskError(f"{start} {described(loss)} as {name!r}: {way}, where net.loss is the mean of a batch.")
    return losses


def checked_metrics(task: Task, found: Any) -> dict[str, float]:
    """The metrics of the task as floats; TaskError if one is missing, or is not a number."""
    start = f"`metrics` of task {task.name!r} returns"
    if not isinstance(found, dict):
        raise TaskError(f"{start} {described(found)}: return a dict of numbers.")
    for name, value in found.items():
        if number(value) is None:
            raise TaskError(f"{start} {described(value)} as {name!r}: return a number.")
    if "loss" in found:
        raise TaskError(f"{start} 'loss', which is the mean loss of `evaluate`: choose another name.")
    wanted = dict.fromkeys((task.metric, *(metric.key for metric in task.card.metrics)))
    if missing := [name for name in wanted if name not in found and name != "loss"]:
        raise TaskError(
            f"{start} {sorted(map(str, found))}, but not {missing[0]!r}, which its `metric` or card names: use the "
            "same names."
        )
    return {name: number(value) for name, value in found.items()}


class CheckedLoss:
    """A loss of outputs and targets (B, ...) that raises TaskError unless it returns one number per row."""

    def __init__(self, loss: RowLoss):
        self.loss, self.compared, self.checked = loss, False, False

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        if outputs.shape[:1] != y.shape[:1]:
            raise TaskError(
                f"The network returns outputs of shape {tuple(outputs.shape)} for {len(y)} images: it must return one "
                "row of logits per image, as the first item if it returns a tuple."
            )
        try:
            rows = self.loss(outputs, y)
        except RuntimeError as error:
            if outputs.shape == y.shape or isinstance(error, torch.OutOfMemoryError):
                raise
            raise TaskError(
                f"The loss does not accept outputs of shape {tuple(outputs.shape)} and targets of shape "
                f"{tuple(y.shape)} ({error}): the network must have as many outputs as a target has numbers."
            ) from error
        if not isinstance(rows, Tensor) or rows.shape != y.shape[:1] or not rows.is_floating_point():
            raise TaskError(
                f"The loss of outputs {tuple(outputs.shape)} and targets {tuple(y.shape)} is {described(rows)}: return "
                f"one number per row, ({len(y)},), without the mean over the batch, as floats."
            )
        self._compare_row(outputs, y, rows)
        self._check_first(outputs, rows)
        return rows

    @torch.no_grad()
    def _check_first(self, outputs: Tensor, rows: Tensor) -> None:
        """TaskError if the loss has no gradient, or is not finite for finite outputs; reads only the first batch."""
        if self.checked or rows.device.type == "meta":
            return
        self.checked = True
        if outputs.requires_grad and not rows.requires_grad:
            raise TaskError("The loss has no gradient of the outputs: compute it from them, without detach or no_grad.")
        if not bool(rows.isfinite().all()) and bool(outputs.isfinite().all()):
            wrong = rows[~rows.isfinite()][0].item()
            raise TaskError(f"The loss of a row with finite outputs is {wrong}: return finite numbers.")

    @torch.no_grad()
    def _compare_row(self, outputs: Tensor, y: Tensor, rows: Tensor) -> None:
        """TaskError if outputs (B, 1) and targets (B,) are broadcast to (B, B); reads only the first batch."""
        same_shape = outputs.shape == y.shape or outputs.numel() != y.numel()
        if self.compared or same_shape or len(y) < 2 or y.device.type == "meta":
            return
        self.compared = True
        alone = self.loss(outputs[:1], y[:1])
        if not torch.allclose(alone, rows[:1], rtol=1e-3, atol=1e-6, equal_nan=True):
            raise TaskError(
                f"The loss of a row depends on other rows: outputs have shape {tuple(outputs.shape)} and targets "
                f"{tuple(y.shape)}, which torch broadcasts to all pairs of rows. Return targets in the shape of the "
                "outputs, for example batch['labels'][:, None]."
            )


def number(value: Any) -> float | None:
    """A Python, numpy or torch number as a float; None for anything else."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    return float(value) if isinstance(value, int | float) else None


def leaves(value: Any) -> Iterator[Any]:
    """The parts of nested dicts, lists and tuples."""
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    else:
        yield value


def described(value: Any) -> str:
    """The value in words, for messages: type and shape of tensors, type and length of sequences, else the value."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of type {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return f"an object of type {type(value).__name__}"
