"""Evaluation of a trainer's task: which columns and labels it reads, and its metrics."""

import torch
from transformers import EvalPrediction

from ..tasks._function import FunctionTask

UPSTREAM_COLUMNS = ("label", "label_ids")  # names that transformers' collators change to "labels"


def prepare(trainer, task_given: bool) -> None:
    """Set the columns and labels that the trainer's task reads; if it was given in code or recipe, also its metrics."""
    task = trainer.task
    named = task_given or getattr(trainer.args, "task", None) is not None
    if named and trainer.compute_metrics is None and not isinstance(task, FunctionTask):
        trainer.compute_metrics = metrics_of(task)
    if trainer.args.label_names is None:
        trainer.label_names = [] if task.reads == "none" else ["labels"]
    if not isinstance(task, FunctionTask):  # a function may read any column
        names = ("pixel_values", *trainer.label_names)
        trainer._signature_columns = [*names, *(UPSTREAM_COLUMNS if trainer.label_names else ())]


def metrics_of(task):
    """`compute_metrics` of a Trainer for this task."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        if task.reads == "none":  # the Trainer computes metrics only if there are labels: see `step_without_labels`
            prediction = EvalPrediction(predictions=prediction.predictions, label_ids=None)
        return task.metrics(prediction)

    return compute_metrics


def step_without_labels(trainer, model, inputs: dict, loss_only: bool) -> tuple | None:
    """Loss, outputs and labels of a batch without labels; None if it has labels, which upstream's step supports.

    In a task without labels, there is a loss, and the labels are zeros (B,). In another task there is no loss.
    """
    without = trainer.task.reads == "none"
    if not without and all(inputs.get(name) is not None for name in trainer.label_names):
        return None
    inputs = trainer._prepare_inputs(inputs)
    with torch.no_grad(), trainer.compute_loss_context_manager():
        if not without:
            with trainer.accelerator.autocast():
                outputs = trainer.step.predict(**inputs)
            return None, None if loss_only else outputs, None
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True)
    loss, outputs = loss.detach().mean(), outputs["logits"]
    if loss_only:
        return loss, None, None
    rows = len(next(iter(inputs.values())))
    return loss, outputs, torch.zeros(rows, device=loss.device)
