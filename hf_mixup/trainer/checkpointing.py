"""Checkpoints that are whole or not there, and what they keep beside the network."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints
from transformers.utils import PushToHubMixin

from ..distributed import is_connection_lost
from ..errors import SaveError
from .optimizers import Averaged
from .step import MixupStep

ASIDE, REPLACED = ".saving", "replaced"
METHOD = "method.safetensors"
FETCHED = ".from_hub"  # marks a checkpoint from the Hub, where training images are not kept


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest complete checkpoint in an output folder, None if there is none."""
    return get_last_checkpoint(str(folder)) if Path(folder).is_dir() else None


def rank_checkpoints(folder: Path, rank: int, world: int) -> dict[int, Path]:
    """The checkpoints in an output folder by their step: those that hold what process `rank` of `world` wrote."""
    found = {int(path.name.split("-")[1]): path for path in folder.glob("checkpoint-*") if _is_checkpoint(path)}
    if world == 1:
        return found
    # without a schedule there are only weights, which are everyone's
    own = f"rng_state_{rank}.pth"
    return {n: path for n, path in found.items() if (path / own).is_file() or not (path / "scheduler.pt").is_file()}


def _is_checkpoint(path: Path) -> bool:
    return path.name.split("-")[1].isdecimal() and any(path.glob("model*.safetensors"))


def save_checkpoint_whole(trainer, save: Callable[[], None], trial=None) -> None:
    """Run `save` in a folder aside, and move the checkpoint to its place when every process has written its part.

    `args.should_save` holds on one process of each folder: the first of the run, or of each machine.
    """
    run, args, state = Path(trainer._get_output_dir(trial)), trainer.args, trainer.state
    aside, name = run / ASIDE, f"checkpoint-{state.global_step}"
    trainer.method_callback.keep(state)
    limit, args.save_total_limit = args.save_total_limit, None
    if args.should_save:
        finish_move(run)
        shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
    trainer.accelerator.wait_for_everyone()
    trainer._saving_in = str(aside)
    try:
        save()
        save_private(aside / name, trainer.step, args.process_index)
        _name_best(state, run, name)
        trainer.accelerator.wait_for_everyone()
        if args.should_save:
            state.save_to_json(str(aside / name / "trainer_state.json"))  # once more, with the best one's final name
            _settle(aside / name)
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_connection_lost(error) or "DataLoader worker" in str(error):
            raise
        shutil.rmtree(aside, ignore_errors=True)
        raise SaveError(_failed(name, run, error)) from error
    finally:
        trainer._saving_in, args.save_total_limit = None, limit
    _take(trainer, aside, run, name)
    if args.push_to_hub:
        trainer._push_from_checkpoint(str(run / name))


def _name_best(state, run: Path, name: str) -> None:
    """On every process: the best checkpoint, where one was saved at the best step, is in `run` and not aside."""
    best = f"checkpoint-{state.best_global_step}"
    if state.best_global_step and (best == name or (run / best).is_dir()):
        state.best_model_checkpoint = str(run / best)


def _settle(folder: Path) -> None:
    """Have all that is in `folder` on the disk itself, so that a machine that fails cannot keep its name alone."""
    for path in (*folder.rglob("*"), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _take(trainer, aside: Path, run: Path, name: str) -> None:
    """Move the checkpoint to its place, and delete old ones when it is in place on every machine."""
    wait, args = trainer.accelerator.wait_for_everyone, trainer.args
    wait()  # until it is on every machine's disk
    if args.should_save:
        _move(aside, run, name)
    wait()
    if args.should_save:
        best = trainer.state.best_model_checkpoint
        rotate_checkpoints(output_dir=str(run), save_total_limit=args.save_total_limit, best_model_checkpoint=best)
    wait()


def _move(aside: Path, run: Path, name: str) -> None:
    if (run / name).exists():
        os.replace(run / name, aside / REPLACED)
    os.replace(aside / name, run / name)
    shutil.rmtree(aside)


def finish_move(run: Path) -> None:
    """Put a checkpoint in its place that was whole, and whose process ended between two steps of moving it there."""
    if (run / ASIDE / REPLACED).is_dir():
        for path in (run / ASIDE).glob("checkpoint-*"):
            if not (run / path.name).exists():
                os.replace(path, run / path.name)


def _failed(name: str, run: Path, error: Exception) -> str:
    last = last_checkpoint(run)
    free = shutil.disk_usage(run).free / 2**20
    kept = f"The last complete checkpoint is {last}" if last else "There is no earlier checkpoint"
    return (
        f"{name} could not be written to {run} ({error}); {free:.0f} MiB are free there. {kept}. Make room and start "
        "again with --resume."
    )


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """A folder aside, whose files go to `folder` one by one when all are written; the file `last` goes last."""
    aside = folder / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        _settle(aside)
        for path in sorted(filter(Path.is_file, aside.rglob("*")), key=lambda path: path.name == last):
            target = folder / path.relative_to(aside)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save_network(model: nn.Module, folder: Path, as_checkpoint: bool, weights: dict | None = None) -> None:
    """Write weights and configuration for `from_pretrained`; of a module that is not transformers', the weights.

    `weights`: the whole ones of a network that is in parts.
    """
    if isinstance(model, PushToHubMixin):
        # else some native networks' weights get their old names, which the Trainer does not know when it loads them
        with save_on_this_rank(model):
            model.save_pretrained(folder, save_original_format=not as_checkpoint, state_dict=weights)
    else:
        save_file(_copies(weights or model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})


@contextmanager
def save_on_this_rank(model: nn.Module) -> Iterator[None]:
    """Inside, `save_pretrained` writes on this process: transformers leaves all but the first of the run out."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def save_extra(folder: Path, step: MixupStep, averaged: Averaged | None) -> None:
    """Write what method, task and averaging keep: `method.safetensors` and so on, each only if there is something."""
    weights = {METHOD: split_state(step.method)[0]}
    if isinstance(step.task, nn.Module):
        weights["task.safetensors"] = step.task.state_dict()
    if averaged is not None:
        weights |= dict([averaged.beside()])
    for name, state in weights.items():
        if state:
            save_file(_copies(state), folder / name)


def split_state(method: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What of a method's state may be published, and what is of training images and of this process alone.

    A teacher that is made again by its name is in neither.
    """
    parts = dict(method.named_modules())
    private = {f"{name}.{key}".lstrip(".") for name, part in parts.items() for key in getattr(part, "private", ())}
    remade = tuple(f"{name}." for name, part in parts.items() if getattr(part, "remade", False))
    state = {key: value for key, value in method.state_dict().items() if not key.startswith(remade)}
    return {k: v for k, v in state.items() if k not in private}, {k: v for k, v in state.items() if k in private}


def save_private(folder: Path, step: MixupStep, rank: int) -> None:
    """Write what this process's method keeps of its own, if it does."""
    if private := split_state(step.method)[1]:
        save_file(_copies(private), folder / f"method-rank{rank}.safetensors")


def load_method(folder: Path, method: nn.Module, rank: int | None = None) -> None:
    """Read a method's state back; of a checkpoint also what the process `rank` kept of its own."""
    public, private = split_state(method)
    remade = {key: value for key, value in method.state_dict().items() if key not in public | private}
    state = _read(folder / METHOD) if public else {}
    if private and rank is not None and not (folder / FETCHED).is_file():
        private = _read(folder / f"method-rank{rank}.safetensors")
    method.load_state_dict(remade | state | private)


def _copies(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Safetensors refuses tensors that share memory."""
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}


def load_extra(folder: Path, step: MixupStep, averaged: Averaged | None, rank: int = 0) -> None:
    """Read back what `save_extra` and `save_private` wrote."""
    if step.method.state_dict():
        load_method(folder, step.method, rank)
    if isinstance(step.task, nn.Module) and step.task.state_dict():
        step.task.load_state_dict(_read(folder / "task.safetensors"))
    if averaged is not None:
        averaged.restore(_read(folder / averaged.beside()[0]))


def _read(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: the checkpoint was written with other settings. Resume with the recipe it was made by."
        )
    return load_file(file)
