"""A run from its configuration to its folder: train, evaluate, save, document."""

import shutil
import tempfile
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback, set_seed

from . import record
from .callbacks import BarCallback, ReportCallback, StopCallback
from .config import MixupConfig
from .data import Data, Images, Stream, eval_transform, to_rgb, train_transform
from .metrics import compute_metrics
from .models import build_model
from .publish import export, push
from .saving import last_checkpoint
from .trainer import MixupTrainer


class RunError(ValueError):
    """The run cannot start as asked; the message says what to change. Nothing was written."""


class Stopped(KeyboardInterrupt):
    """The run was interrupted; a checkpoint is there to resume from."""


def run(config: MixupConfig, data: Data) -> dict:
    """Train as `config` says on `data`, leave everything in `config.output_dir`, and give the run's record."""
    folder = Path(config.output_dir)
    before = check_folder(config, folder)
    if before is not None and before["status"] == "finished":
        return before
    trainer, processor = make_trainer(config, data)
    opening = record.opening(config, data, trainer.model, trainer.method, trainer.args.world_size)
    check_world(before, opening)
    if trainer.is_world_process_zero():
        record.write(opening, folder)
    stop = StopCallback(trainer.accelerator)
    trainer.add_callback(stop)
    start = last_checkpoint(folder) if config.resume else None
    trainer.train(resume_from_checkpoint=start)
    if stop.stopped:
        raise Stopped(f"Stopped after step {trainer.state.global_step}; {last_checkpoint(folder)} is complete.")
    final = trainer.evaluate()
    skipped = {"train": trainer.train_dataset.skipped, "eval": trainer.eval_dataset.skipped}
    finished = record.closing(opening, trainer, final, skipped)
    if trainer.is_world_process_zero():
        export(folder, trainer, processor, config, finished)
    trainer.accelerator.wait_for_everyone()
    return finished


def publish(config: MixupConfig) -> str:
    """Push the finished run's folder to `hub_model_id` (or the folder's name) and give the repository's address."""
    folder = Path(config.output_dir)
    return push(folder, config.hub_model_id or folder.name, config.hub_private_repo, config.hub_revision)


def make_trainer(config: MixupConfig, data: Data) -> tuple[MixupTrainer, object]:
    """The trainer of a run and the image processor that is saved with it."""
    set_seed(config.seed)
    model, processor = build_model(
        config.model,
        classes=data.classes,
        image_size=config.image_size,
        model_args=config.model_args,
        pretrained=config.pretrained,
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
        crop_pct=config.eval_crop_pct,
    )
    pushes, config.push_to_hub = config.push_to_hub, False  # once, at the end, by us
    try:
        trainer = MixupTrainer(
            model,
            config,
            train_dataset=train_images(config, data, processor),
            eval_dataset=eval_images(config, data, processor),
            processing_class=processor,
            compute_metrics=compute_metrics,
        )
        step = trainer.step
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from error
    finally:
        config.push_to_hub = pushes
    if config.per_device_train_batch_size == 1 and step.normalises_batch:
        raise RunError(
            f"per_device_train_batch_size is 1, and {config.model} has BatchNorm, which needs two images: give 2 or more."
        )
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    for callback in [ReportCallback(), *([] if config.disable_tqdm else [BarCallback()])]:
        trainer.add_callback(callback)
    return trainer, processor


def eval_images(config: MixupConfig, data: Data, processor) -> Images:
    """The evaluation split as uint8 images, prepared as the saved preprocessor prepares them."""
    columns = (data.image_column, data.label_column, config.image_size)
    return Images(data.eval, *columns, prepare=prepare(processor), skip_corrupt=config.skip_corrupt)


def prepare(processor):
    """A PIL image as uint8 (3, H, W), as `processor` gives it before normalisation."""
    if hasattr(processor, "data_config"):
        return eval_transform(processor.data_config)

    def as_processor(image):
        return processor(to_rgb(image), do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]

    return as_processor


def train_images(config: MixupConfig, data: Data, processor) -> Images | Stream:
    """The training split as uint8 batches, with per-image transforms only where the recipe asks for them."""
    transform = train_transform(
        config.image_size,
        scale=config.random_resized_crop,
        interpolation=config.interpolation or "bilinear",
        randaugment=config.randaugment,
    )
    shared = {"transform": transform, "skip_corrupt": config.skip_corrupt}
    shared["prepare"] = None if transform else prepare(processor)
    columns = (data.image_column, data.label_column, config.image_size)
    if not config.streaming:
        return Images(data.train, *columns, **shared)
    state = PartialState()
    return Stream(
        data.train,
        *columns,
        config.per_device_train_batch_size,
        classes=data.classes,
        seed=config.seed,
        rank=state.process_index,
        world=state.num_processes,
        num_examples=data.train_rows,
        **shared,
    )


def check_folder(config: MixupConfig, folder: Path) -> dict | None:
    """The record of the run to resume, None for a new one; raise if the folder holds something else."""
    before = record.read(folder)
    used = before is not None or last_checkpoint(folder) is not None or (folder / "model.safetensors").exists()
    PartialState().wait_for_everyone()
    if not used:
        return None
    command = f"scripts/train.py {config.recipe} --output_dir {folder} --resume"
    if not config.resume:
        raise RunError(
            f"{folder} holds a run already. Continue it with `python {command}`, or choose another --output_dir."
        )
    if before is None:
        raise RunError(f"{folder} has no {record.NAME}, so it cannot be told which recipe it is of: choose another --output_dir.")
    if before["recipe_hash"] != config.recipe_hash():
        raise RunError(f"{folder} holds a run of another recipe: {_differences(before['recipe'], config.recipe_dict())}. "
                       "Resume with the same values, or choose another --output_dir.")
    return before


def check_world(before: dict | None, now: dict) -> None:
    """Raise if a run is resumed with other processes or data than it began with."""
    for what, old, new in (
        ("processes", before and before["world_size"], now["world_size"]),
        ("data revision", before and before["data"]["revision"], now["data"]["revision"]),
    ):
        if before is not None and old != new:
            raise RunError(f"The run began with {what} {old} and cannot go on exactly with {new}: use {old} again.")


def _differences(before: dict, now: dict) -> str:
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys) or "its fields differ"


def dry_run(config: MixupConfig, data: Data) -> dict:
    """The plan of a run, after one training step on one batch; the output folder is not touched."""
    planned, config.output_dir = config.output_dir, tempfile.mkdtemp()
    try:
        trainer, _ = make_trainer(config, data)
        loader = trainer.get_train_dataloader()
        batch = trainer._prepare_inputs(next(iter(loader)))
        optimizer = trainer.create_optimizer()
        trainer.step.train()
        losses = trainer.step(seed=trainer.next_seed(), **batch)
        sum(losses.values()).backward()
        optimizer.step()
    finally:
        shutil.rmtree(config.output_dir)
        config.output_dir = planned
    return plan(config, data, trainer, loader, {name: float(loss) for name, loss in losses.items()})


def plan(config: MixupConfig, data: Data, trainer: MixupTrainer, loader, losses: dict[str, float]) -> dict[str, str]:
    """What a run is going to do, a line each."""
    steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
    arguments = ", ".join(f"{key}={value}" for key, value in trainer.method.hyperparameters().items())
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return {
        "model": f"{config.model}, {parameters:,} parameters, {data.num_classes} classes",
        "method": f"{trainer.method.name} ({arguments})",
        "data": f"{data.path}, revision {data.revision}, "
        + ", ".join(f"{split} {rows}" for split, rows in data.splits.items()),
        "images": f"{config.image_size} x {config.image_size}, batches of {config.per_device_train_batch_size} on "
        f"{trainer.args.world_size} process(es), {config.gradient_accumulation_steps} a step",
        "steps": f"{steps} over {config.num_train_epochs:g} epochs",
        "first step": ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()),
        "device": record.device_name(torch.device(trainer.args.device)),
        "results": str(config.output_dir),
    }
