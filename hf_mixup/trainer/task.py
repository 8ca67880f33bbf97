"""The task of a trainer: chosen, checked against network, data and arguments, and its loss."""

import re
from collections.abc import Callable, Sequence

import torch
from datasets import ClassLabel
from torch import nn

from ..data import Images, Stream
from ..data.labels import Labels
from ..net import Net
from ..net.architecture import architecture_of
from ..ops.losses import RowLoss
from ..tasks import CLASSES, SOFTMAX, Task, load_task, task_of_network

UNNAMED = re.compile(r"(LABEL_)?\d+")  # names of classes that have none
SINGLE_LABEL = "single_label_classification"


def choose_task(given: str | Task | Callable | None, args, model: nn.Module | None) -> Task:
    """The task given in code, else that of the recipe, else that of the network's configuration and outputs."""
    if given is not None:
        return load_task(given)
    if getattr(args, "task", None) is not None:
        return load_task(args.task, **args.task_args)
    if model is None:
        return load_task(task_of_network(None, None))
    config, classifier = getattr(model, "config", None), architecture_of(model).classifier
    outputs = None if classifier is None else classifier.out_features
    return load_task(task_of_network(getattr(config, "problem_type", None), outputs))


def row_loss(trainer, net: Net) -> RowLoss:
    """The loss of each row: the argument `loss`, else the recipe's loss and class weights, else the task's own."""
    task, args = trainer.task, trainer.args
    weights = trainer.class_weights
    if trainer.given_loss is not None:
        return _given_loss(trainer.given_loss, weights, args.device)
    if weights is not None and CLASSES in task.provides:
        _check_weights(weights, net.num_classes)
    options = {"threshold": getattr(args, "bce_threshold", None), "total": getattr(args, "bce_sum", False)}
    loss = task.recipe_loss(getattr(args, "loss", None), weights, **options)
    if getattr(loss, "__func__", None) is Task.loss:
        raise ValueError(
            f"Task {task.name!r} has no `loss`: define loss(self, outputs, y) that returns one number per row, (B,)."
        )
    return loss


def _given_loss(loss: RowLoss, weights: Sequence[float] | None, device: torch.device) -> RowLoss:
    """The user's own loss; ValueError for one that would not be called or trained as given."""
    if not callable(loss) or isinstance(loss, type):
        raise ValueError(
            f"loss is {loss!r}: give a function (outputs, targets) -> (B,), or an nn.Module that is one; the names of "
            "losses are values of the recipe's field `loss`."
        )
    if weights is not None:
        raise ValueError("class_weights would not be used by the given loss: give only one of loss and class_weights.")
    if not isinstance(loss, nn.Module):
        return loss
    if any(parameter.requires_grad for parameter in loss.parameters()):
        raise ValueError(
            f"The loss {type(loss).__name__} has parameters, which would not be trained or saved: make it a part of a "
            "task of your own (task=...), or set their requires_grad to False."
        )
    return loss.to(device)


def _check_weights(weights: Sequence[float], num_classes: int) -> None:
    """ValueError unless there is one finite number, 0 or above, per class."""
    try:
        values = torch.as_tensor(weights, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0, 0)
    if values.dim() == 1 and len(values) != num_classes:
        raise ValueError(f"class_weights has {len(values)} numbers for {num_classes} classes: give one per class.")
    if values.dim() != 1 or not bool((values.isfinite() & (values >= 0)).all()) or not bool(values.any()):
        raise ValueError(f"class_weights is {weights!r}: give one finite number per class, 0 or above, not all 0.")


def labels_of(data) -> Labels | None:
    """What the labels of `Images` or a `Stream` are; None for other data sets."""
    return data.label_info if isinstance(data, Images | Stream) else None


def check_task(trainer) -> None:
    """Raise ValueError if method, network, data or arguments do not fit the task."""
    task, smoothing = trainer.task, trainer.label_smoothing
    trainer.method.check_task(task)
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing is {smoothing!r}: give a number from 0 to below 1.")
    if smoothing and SOFTMAX not in task.provides:
        raise ValueError(f"label_smoothing is {smoothing}, which task {task.name!r} does not support: leave it out.")
    for data in (trainer.train_dataset, trainer.eval_dataset):
        for part in data.values() if isinstance(data, dict) else (data,):
            if (labels := labels_of(part)) is not None:
                _check_kind(labels, task)
                _check_outputs(labels, task, trainer.model)
            if labels is None or task.head(labels) == labels.size:  # else the outputs are not the classes
                _check_classes(labels.classes if labels else _class_label(part), trainer.model, exactly=bool(labels))
    _set_problem_type(task, trainer.model)


def _check_kind(labels: Labels, task: Task) -> None:
    """ValueError if a data set's labels are of another kind than the task reads."""
    if task.reads not in (labels.kind, "any"):
        raise ValueError(
            f"Task {task.name!r} reads labels of kind {task.reads!r}, but the data set was opened with labels of kind "
            f"{labels.kind!r}: give labels={task.reads!r} to load_data, or choose another task."
        )


def _check_outputs(labels: Labels, task: Task, model: nn.Module) -> None:
    """ValueError if a network for numbers has another number of outputs: one output would be broadcast."""
    classifier, wanted = architecture_of(model).classifier, task.head(labels)
    if labels.kind in ("number", "vector") and classifier is not None and wanted not in (None, classifier.out_features):
        raise ValueError(
            f"The network has {classifier.out_features} outputs, but task {task.name!r} requires {wanted} for this "
            "data: build the network with this number of outputs."
        )


def _class_label(data) -> list[str]:
    """The class names of a user's `datasets.Dataset`, from the ClassLabel of its column "labels" or "label"."""
    features = getattr(data, "features", None) or {}
    found = [features.get(column) for column in ("labels", "label")] if isinstance(features, dict) else []
    return next((list(feature.names) for feature in found if isinstance(feature, ClassLabel)), [])


def _check_classes(classes: list[str], model: nn.Module, exactly: bool) -> None:
    """ValueError if the network's classes are not the data's, or, if not `exactly`, are the same in another order."""
    id2label = getattr(getattr(model, "config", None), "id2label", None)
    if not classes or not id2label:
        return
    names = [str(id2label[number]) for number in sorted(id2label)]
    unnamed = any(all(UNNAMED.fullmatch(name) for name in both) for both in (names, classes))
    same = names == classes or (unnamed and len(names) == len(classes))
    if not same and (exactly or sorted(names) == sorted(classes)):
        raise ValueError(
            f"The network has {len(names)} classes, {names[:5]}, and the data {len(classes)}, {classes[:5]}: they must "
            "be the same in the same order. Build the network with the data's classes, or give class_names to "
            "load_data."
        )


def _set_problem_type(task: Task, model: nn.Module) -> None:
    """Set `problem_type` in the network's configuration, so that transformers evaluates the saved network alike."""
    config, wanted = getattr(model, "config", None), task.card.problem_type
    if not hasattr(config, "problem_type") or (wanted is None and task.reads != "class"):
        return
    if config.problem_type not in (None, wanted or SINGLE_LABEL):
        raise ValueError(
            f"The network's problem_type is {config.problem_type!r}, but that of task {task.name!r} is "
            f"{wanted or SINGLE_LABEL!r}: choose the task of the network, or set problem_type to None in its "
            "configuration."
        )
    config.problem_type = config.problem_type or wanted
