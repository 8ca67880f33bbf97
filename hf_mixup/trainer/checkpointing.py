"""Atomic checkpointing: write the manifest last, delete old checkpoints after it, choose the one to resume from."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.trainer_utils import rotate_checkpoints

from ..distributed import is_connection_lost, raise_on_all_ranks
from ..errors import CheckpointError, SaveError
from ..hub.published_files import CHECKPOINT
from . import manifest
from .checkpoint_files import check_files
from .weights import save_rank_state

REPLACED = ".replaced-"  # prefix of a complete checkpoint while its step is saved again

logger = logging.getLogger(__name__)

# transformers 5.16 and earlier load the optimizer of several CPU processes to "cpu:0", which torch cannot restore
torch.serialization.register_package(
    100, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
)


def checkpoints(run: Path) -> dict[int, Path]:
    """The usable checkpoints of an output folder by step, ascending; interrupted ones are left out."""
    found = {int(match[1]): path for path in run.glob("checkpoint-*") if (match := CHECKPOINT.fullmatch(path.name))}
    return {step: found[step] for step in sorted(found) if manifest.status(found[step]) != manifest.INTERRUPTED}


def last_checkpoint(run: str | Path) -> str | None:
    """The newest usable checkpoint of an output folder, None if there is none."""
    found = checkpoints(Path(run))
    return str(found[max(found)]) if found else None


def interrupted(run: Path) -> list[Path]:
    """The checkpoints of an output folder whose saving was interrupted."""
    found = [path for path in run.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name)]
    return [path for path in sorted(found) if manifest.status(path) == manifest.INTERRUPTED]


def warn_about_interrupted(run: Path) -> None:
    """Log which checkpoints of an output folder are skipped."""
    for path in interrupted(run):
        logger.warning("%s is skipped: it has no %s, so its saving was interrupted.", path, manifest.NAME)


def rank_checkpoints(run: Path, rank: int, world_size: int, recorded: int) -> dict[int, Path]:
    """The usable checkpoints of an output folder that hold the per-rank state of `rank`, by step.

    A run that was started with `recorded` processes, another number, continues without this state.
    """
    found = checkpoints(run)
    if world_size == 1 or world_size != recorded:
        return found
    # a checkpoint without scheduler.pt holds weights only (save_only_model), so it has no per-rank state
    rng = f"rng_state_{rank}.pth"
    return {n: path for n, path in found.items() if (path / rng).is_file() or not (path / "scheduler.pt").is_file()}


def checkpoint_to_resume(trainer, resume_from_checkpoint: str | bool | None) -> Path | None:
    """The given checkpoint, or for True the newest usable one of the output folder, after its files are verified.

    None for None and False. Interrupted checkpoints are skipped with a warning. Raises CheckpointError, on all ranks,
    for a checkpoint that is interrupted, incomplete or damaged.
    """
    if not resume_from_checkpoint:
        return None
    run, args = Path(trainer.args.output_dir), trainer.args
    if args.should_save:
        restore_replaced(run)
    trainer.accelerator.wait_for_everyone()
    with raise_on_all_ranks():
        folder = _newest(run) if resume_from_checkpoint is True else Path(resume_from_checkpoint)
        if args.local_process_index == 0:
            _verify(folder)
    return folder


def _verify(folder: Path) -> None:
    """Raise CheckpointError unless the checkpoint is complete and undamaged, or saved without a manifest."""
    try:
        if manifest.status(folder) == manifest.COMPLETE:
            manifest.verify(folder)
        check_files(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error} The checkpoint cannot be used. {_alternative(folder)}") from None
    state = manifest.status(folder)
    if state == manifest.INTERRUPTED:
        raise CheckpointError(f"{folder} has no {manifest.NAME}: its saving was interrupted. {_alternative(folder)}")
    if state == manifest.UNVERIFIED:
        text = "%s has no %s: transformers' Trainer or hf_mixup 0.1 saved it. It is loaded without verification."
        logger.warning(text, folder, manifest.NAME)


def _newest(run: Path) -> Path:
    warn_about_interrupted(run)
    newest = last_checkpoint(run)
    if newest is None:
        raise CheckpointError(f"No valid checkpoint found in output directory ({run}): train without resuming.")
    return Path(newest)


def _alternative(folder: Path) -> str:
    """How to continue without the checkpoint `folder`, as a sentence for an error message."""
    others = {step: path for step, path in checkpoints(folder.parent).items() if path.name != folder.name}
    if not others:
        return "There is no other checkpoint: start again without resuming."
    return f"Delete this folder to resume from {others[max(others)]}."


@contextmanager
def saving(trainer, run: Path) -> Iterator[Path]:
    """Yield the folder of the present step's checkpoint; at the end, write its manifest and delete old checkpoints.

    Every rank must enter it. `args.should_save` is True on one rank per disk: the first of the run, or of each machine.
    A complete checkpoint of the same step is kept under another name until the new one is complete. SaveError if
    writing fails; the earlier checkpoints are unchanged.
    """
    args, wait = trainer.args, trainer.accelerator.wait_for_everyone
    folder = run / f"checkpoint-{trainer.state.global_step}"
    if args.should_save:
        restore_replaced(run)
        _rename_existing(folder)
    wait()
    try:
        with _without_rotation_and_push(args):
            yield folder
        save_rank_state(folder, trainer.step, args.process_index)
        wait()
        if args.should_save:
            manifest.write(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_connection_lost(error) or "DataLoader worker" in str(error):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        restore_replaced(run)
        raise SaveError(_save_failed(folder, error)) from error
    wait()
    if args.should_save:
        shutil.rmtree(_replaced(folder), ignore_errors=True)
        _rotate(run, args.save_total_limit, trainer.state.best_model_checkpoint)
    wait()


@contextmanager
def _without_rotation_and_push(args) -> Iterator[None]:
    """Disable upstream's deletion of old checkpoints and its push, which it does before the manifest is written."""
    limit, push = args.save_total_limit, args.push_to_hub
    args.save_total_limit, args.push_to_hub = None, False
    try:
        yield
    finally:
        args.save_total_limit, args.push_to_hub = limit, push


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"{REPLACED}{folder.name}")


def _rename_existing(folder: Path) -> None:
    """Rename a complete checkpoint of the same step; delete an interrupted one."""
    if folder.is_dir() and manifest.status(folder) != manifest.INTERRUPTED:
        os.replace(folder, _replaced(folder))
    shutil.rmtree(folder, ignore_errors=True)


def restore_replaced(run: Path) -> None:
    """Restore each complete checkpoint whose process was killed while it saved the same step again."""
    for replaced in run.glob(f"{REPLACED}*"):
        folder = run / replaced.name.removeprefix(REPLACED)
        if manifest.status(folder) == manifest.INTERRUPTED:
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(replaced, folder)
        else:
            shutil.rmtree(replaced, ignore_errors=True)


def _rotate(run: Path, limit: int | None, best: str | None) -> None:
    """Delete interrupted checkpoints, and complete ones except the `limit` newest and the best."""
    if limit is None:
        return
    for path in interrupted(run):
        shutil.rmtree(path, ignore_errors=True)
    rotate_checkpoints(output_dir=str(run), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)


def _save_failed(folder: Path, error: Exception) -> str:
    last = last_checkpoint(folder.parent)
    free = shutil.disk_usage(folder.parent).free / 2**20
    last_complete = f"The last complete checkpoint is {last}" if last else "There is no earlier checkpoint"
    return (
        f"{folder.name} could not be written to {folder.parent} ({error}); {free:.0f} MiB are free there. "
        f"{last_complete}. Free disk space and start again with --resume."
    )
