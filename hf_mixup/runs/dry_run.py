"""`--dry_run`: the plan of a run, after building all its parts and training one step."""

import torch

from ..config import MixupConfig
from ..data import Data
from ..errors import RunError
from ..trainer import MixupTrainer
from . import record
from .first_steps import STEPS, check_finite, memory_as_run_error, ways_out, weight_sums
from .output_dir import temporary_output_dir
from .run import make_trainer


def dry_run(config: MixupConfig, data: Data) -> dict:
    """Run two training steps and evaluate one batch; return the plan of the run; the output folder is not changed.

    RunError if the loss or a weight is not finite, or no weight changes.
    """
    with temporary_output_dir(config), memory_as_run_error():
        trainer, _ = make_trainer(config, data)
        loader = trainer.get_train_dataloader()
        losses = _first_steps(trainer, trainer._prepare_inputs(next(iter(loader))))
        if trainer.args.eval_strategy != "no":
            trainer.step.eval().evaluate(**trainer._prepare_inputs(next(iter(trainer.get_eval_dataloader()))))
    return plan(config, data, trainer, loader, losses)


def _first_steps(trainer: MixupTrainer, batch: dict) -> dict[str, float]:
    """Train on a batch without a schedule; the losses of the first step."""
    args, first = trainer.args, {}
    optimizer, step = trainer.create_optimizer(), trainer.step.train()
    before = weight_sums(step)
    for number in range(1, STEPS + 1):
        losses = step(seed=trainer.next_seed(), **batch)
        sum(losses.values()).backward()
        if args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(step.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        check_finite(step, number, args, losses)
        first = first or {name: loss.item() for name, loss in losses.items()}
    if weight_sums(step) == before:
        raise RunError(f"The first {STEPS} steps do not change any weight, so the run cannot train. {ways_out(args)}")
    return first


def plan(config: MixupConfig, data: Data, trainer: MixupTrainer, loader, losses: dict[str, float]) -> dict[str, str]:
    """The plan of a run: the text of each line by its title."""
    steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
    parameters = sum(p.numel() for p in trainer.model.parameters())
    evaluated = f" (evaluated at {config.eval_image_size})" if config.eval_image_size else ""
    return {
        "task": f"{_call(trainer.task.name, trainer.task.settings())}, {_describe(data)}; {_metrics(trainer)}",
        "model": f"{config.model}, {parameters:,} parameters",
        "method": _call(trainer.method.name, trainer.method.hyperparameters()),
        "data": f"{data.path}, revision {data.revision}, "
        + ", ".join(f"{split} {rows}" for split, rows in data.splits.items()),
        "images": f"{config.image_size} x {config.image_size}{evaluated}, "
        f"{config.per_device_train_batch_size} per batch, {trainer.args.world_size} process(es), "
        f"{config.gradient_accumulation_steps} batch(es) per optimizer step and process",
        "steps": f"{steps} over {config.num_train_epochs:g} epochs",
        "first step": _loss(losses),
        "device": record.device_name(torch.device(trainer.args.device)),
        "output_dir": str(config.output_dir),
    }


def _loss(losses: dict[str, float]) -> str:
    """The loss, and its terms if there are several."""
    terms = " + ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return f"loss {sum(losses.values()):.4f}" + (f" = {terms}" if len(losses) > 1 else "")


def _call(name: str, arguments: dict) -> str:
    listed = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name} ({listed})" if listed else name


def _describe(data: Data) -> str:
    """What the labels of the data are."""
    labels = data.labels
    if labels.kind == "none":
        return "no labels"
    return f"{data.num_classes} classes" if labels.classes else f"{labels.kind} of {labels.size}"


def _metrics(trainer: MixupTrainer) -> str:
    """The metrics of the task, and which one selects the best checkpoint."""
    names = list(dict.fromkeys([*(metric.key for metric in trainer.task.card.metrics), trainer.task.metric]))
    best = trainer.args.metric_for_best_model if trainer.args.load_best_model_at_end else None
    return f"metrics {', '.join(names)}" + (f"; the best checkpoint is that of the best {best}" if best else "")
