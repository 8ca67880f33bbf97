"""The output folder of a run: whose it is, and that a start that fails leaves nothing behind."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from safetensors import SafetensorError

from . import destination, record
from .saving import SaveError, last_checkpoint


class RunError(ValueError):
    """The run cannot start as asked; the message says what to change. Nothing was written."""


class UsedFolder(RunError):
    """The folder holds a run of this very recipe, and nobody asked to continue it."""


def check_folder(config, folder: Path) -> dict | None:
    """The record of the run to resume, None for a new one; raise if the folder holds something else."""
    before = record.read(folder)
    used = before is not None or last_checkpoint(folder) is not None or (folder / "model.safetensors").exists()
    PartialState().wait_for_everyone()
    if not used:
        return None
    if before is None:
        raise RunError(f"{folder} holds a model but no {record.NAME} to tell its recipe: choose another --output_dir.")
    if before["recipe_hash"] != config.recipe_hash():
        raise RunError(
            f"{folder} holds a run of another recipe: {_differences(before['recipe'], config.recipe_dict())}. "
            "Continue it with the same values, or choose another --output_dir."
        )
    if not config.resume:
        raise UsedFolder(
            f"{folder} holds a run of this recipe: continue it with --resume, or choose another --output_dir."
        )
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
    now = record.portable(now)
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys) or "its folders differ"


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Makes the folder; an error inside takes it, or the record in it, away again unless more was written."""
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"output_dir {str(folder)!r} cannot be written to ({error}): choose another.") from error
    try:
        yield
    except BaseException:
        if PartialState().is_main_process:
            _clear(folder, existed)
        raise


def _clear(folder: Path, keep: bool) -> None:
    own = (record.NAME, f".{record.NAME}", destination.NAME)
    if any(path.name not in own for path in folder.iterdir()):
        return
    for name in own:
        (folder / name).unlink(missing_ok=True)
    if not keep:
        folder.rmdir()


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Turns what a full disk raises inside into a SaveError that says how to go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free / 2**20
        last = last_checkpoint(folder)
        kept = f"The last complete checkpoint is {last}" if last else "There is no checkpoint"
        raise SaveError(
            f"The results could not be written to {folder} ({error}); {free:.0f} MiB are free there. {kept}. Make room "
            "and start again with --resume."
        ) from error
