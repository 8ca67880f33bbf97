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
        trainer.compute_metrics = metrics_of(trainer)
    if trainer.args.label_names is None:
        trainer.label_names = [] if task.reads == "none" else ["labels"]
    if not isinstance(task, FunctionTask):  # a function may read any column
        names = ("pixel_values", *trainer.label_names)
        trainer._signature_columns = [*names, *(UPSTREAM_COLUMNS if trainer.label_names else ())]


def metrics_of(trainer):
    """`compute_metrics` of a trainer for its task."""
    task = trainer.task

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        outputs, labels = prediction.predictions, prediction.label_ids
        if trainer.step.further:  # the Trainer appends the network's further outputs
            outputs = outputs[0]
        # without labels there are zeros, since the Trainer computes metrics only if there are labels: see `step`
        return task.metrics(EvalPrediction(predictions=outputs, label_ids=labels if task.gathers_labels else None))

    return compute_metrics


def step(trainer, model, inputs: dict, loss_only: bool) -> tuple | None:
    """Loss, outputs and labels of a batch whose labels are missing, or are not gathered for the task's metrics.

    Without labels in a task that reads them, there is no loss. Labels that are not gathered are zeros (B,). None for
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
            return None, None if loss_only else outputs, None
        loss, outputs = trainer.compute_loss(model, inputs, return_outputs=True)
    rows = len(next(iter(inputs.values())))
    return (loss, None, None) if loss_only else (loss, outputs["logits"], torch.zeros(rows, device=loss.device))
