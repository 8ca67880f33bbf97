"""Evaluation of a trainer's task: which columns and labels it reads, and its metrics."""

import copy
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import EvalPrediction
from transformers.trainer_pt_utils import nested_detach, nested_numpify

from ..tasks._function import FunctionTask
from .task_results import checked_metrics

UPSTREAM_COLUMNS = ("label", "label_ids")  # names that transformers' collators change to "labels"


def prepare(trainer, task_given: bool) -> None:
    """Set the columns and labels that the trainer's task reads; if it was given in code or recipe, also its metrics."""
    task = trainer.task
    named = task_given or getattr(trainer.args, "task", None) is not None
    if named and trainer.compute_metrics is None and not isinstance(task, FunctionTask):
        trainer.compute_metrics = TaskMetrics(trainer)
        _set_direction(trainer)
    if trainer.args.label_names is None:
        trainer.label_names = [] if task.reads == "none" else ["labels"]
    if not isinstance(task, FunctionTask):  # a function may read any column
        names = ("pixel_values", *trainer.label_names)
        trainer._signature_columns = [*names, *(UPSTREAM_COLUMNS if trainer.label_names else ())]


def _set_direction(trainer) -> None:
    """Set `greater_is_better` to the direction that the task gives its metric; the user's arguments are not changed.

    Transformers derives it from the name: lower is better for a name that ends in "loss". A direction that the user
    gave stays; in plain TrainingArguments it can be told from the derived one only if it differs.
    """
    args = trainer.args
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    for split in trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else ():
        name = name.removeprefix(f"{split}_")
    direction, derived = trainer.task.direction(name), not name.endswith("loss")
    given = getattr(args, "direction_given", args.greater_is_better not in (None, derived))
    if direction is not None and not given and args.greater_is_better != direction:
        trainer.args = copy.copy(args)
        trainer.args.greater_is_better = direction


class TaskMetrics:
    """`compute_metrics` of a Trainer for a task, which computes them for a whole split.

    With `batch_eval_metrics`, batches are collected until the last one.
    """

    def __init__(self, trainer):
        self.trainer, self.task, self.batches = trainer, trainer.task, []

    def __call__(self, prediction: EvalPrediction, compute_result: bool | None = None) -> dict[str, float]:
        found = (prediction.predictions, prediction.label_ids)
        if compute_result is not None:
            self.batches.append(nested_numpify(found))
            if not compute_result:
                return {}
            found = joined(self.batches)
            self.batches = []
        outputs, labels = found
        if self.trainer.step.further:  # the Trainer appends the network's further outputs
            outputs = outputs[0]
        if not self.task.gathers_labels:  # the Trainer computes metrics only if there are labels: see `step`
            labels = None
        return checked_metrics(self.task, self.task.metrics(EvalPrediction(predictions=outputs, label_ids=labels)))


def joined(parts: list) -> Any:
    """Nested tuples, lists and dicts of arrays, joined row by row."""
    first = parts[0]
    if isinstance(first, dict):
        return {key: joined([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(joined(same) for same in zip(*parts, strict=True))
    return np.concatenate(parts)


def start(trainer) -> None:
    """Forget the batches of an evaluation that was interrupted."""
    if isinstance(trainer.compute_metrics, TaskMetrics):
        trainer.compute_metrics.batches = []


def mean_loss(rows: Tensor, accelerator: Accelerator) -> Tensor:
    """Mean of the losses (B,) of a batch, in the last batch without the rows that accelerate repeats to fill it.

    The Trainer counts the mean for each row of the batch, and drops the repeated rows at the end of the last rank's.
    """
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return rows.mean()
    kept = state.remainder - accelerator.process_index * len(rows)
    return rows[: max(kept, 1)].mean()


def step(trainer, model, inputs: dict, loss_only: bool, ignored: list[str] | None = None) -> tuple | None:
    """Loss, outputs and labels of a batch whose labels are missing, or are not gathered for the task's metrics.

    Without labels in a task that reads them, there is no loss; further outputs of the network, except those `ignored`,
    follow the outputs, as in transformers' Trainer. Labels that are not gathered are zeros (B,). None for
    any other batch, which upstream's step supports.
    """
    task, read = trainer.task, trainer.label_names
    missing = any(inputs.get(name) is None for name in read)
    if not missing and task.gathers_labels:
        return None
    inputs = trainer._prepare_inputs(inputs)
    with torch.no_grad(), trainer.compute_loss_context_manager():
        if missing:
            with trainer.accelerator.autocast():
                outputs = trainer.step.predict(**inputs)
            if ignored is None:
                ignored = getattr(getattr(trainer.model, "config", None), "keys_to_ignore_at_inference", [])
            further = [value for name, value in trainer.step.further.items() if name not in ignored]
            return None, None if loss_only else nested_detach((outputs, *further) if further else outputs), None
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True)
    rows = len(next(iter(inputs.values())))
    return (loss, None, None) if loss_only else (loss, outputs["logits"], torch.zeros(rows, device=loss.device))
