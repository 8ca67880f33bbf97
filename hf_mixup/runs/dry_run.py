"""`--dry_run`: the plan of a run, after building all its parts and training one step."""

import torch

from ..config import MixupConfig
from ..data import Data
from ..trainer import MixupTrainer
from . import record
from .output_dir import temporary_output_dir
from .run import make_trainer


def dry_run(config: MixupConfig, data: Data) -> dict:
    """Run one training step on one batch and return the plan of the run; the output folder is not changed."""
    with temporary_output_dir(config):
        trainer, _ = make_trainer(config, data)
        loader = trainer.get_train_dataloader()
        batch = trainer._prepare_inputs(next(iter(loader)))
        optimizer = trainer.create_optimizer()
        trainer.step.train()
        losses = trainer.step(seed=trainer.next_seed(), **batch)
        sum(losses.values()).backward()
        optimizer.step()
    return plan(config, data, trainer, loader, {name: loss.item() for name, loss in losses.items()})


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
