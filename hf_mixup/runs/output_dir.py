"""The output folder of a run: whose it is, and that a start that fails leaves nothing behind."""

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError

from ..distributed import LeftAlone, disks_differ, ended, together
from ..hub import destination
from ..trainer.checkpointing import SaveError, complete_checkpoints, finish_move, last_checkpoint
from . import record

LOCK = ".lock"


class RunError(ValueError):
    """The run cannot start as asked; the message says what to change. Nothing was written."""


class UsedFolder(RunError):
    """The folder holds a run of this very recipe, and nobody asked to continue it."""


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Makes the folder and keeps other runs out of it; gives whether each machine has one of its own.

    The lock ends with the process that holds it, however that ends. An error inside takes folder and record away again
    where they are new and nothing more was written.
    """
    existed, known, lock = folder.is_dir(), (folder / record.NAME).exists(), None
    try:
        with together():
            _make(folder)
        apart = disks_differ(folder)
        state = PartialState()
        with together():
            if state.is_main_process or (apart and state.is_local_main_process):
                lock = _lock(folder)
                finish_move(folder)
        yield apart
    except BaseException as error:
        if lock is not None and not known:
            _clear(folder)
        if ended(error):
            raise LeftAlone(_alone(folder)) from error
        raise
    finally:
        if lock is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(lock)
        if not existed:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def _alone(folder: Path) -> str:
    last = last_checkpoint(folder)
    kept = f"The last complete checkpoint is {last}" if last else "There is no checkpoint yet"
    return (
        f"Process {PartialState().process_index} stopped, because another process of this run ended: what that one "
        f"said last tells why. {kept}."
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"output_dir {str(folder)!r} cannot be written to ({error}): choose another.") from error


def _lock(folder: Path) -> int:
    """The open file that holds the folder; RunError if a process that lives holds it."""
    while True:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # of the process alone: its data workers, which may outlive it for seconds, do not inherit it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            raise RunError(
                f"{folder} is in use by another run ({holder or 'of another machine'}): wait for its end, stop it, or "
                "choose another --output_dir."
            ) from error
        except OSError:  # a file system that has no locks
            return file
        with suppress(FileNotFoundError):
            if os.fstat(file).st_ino == os.stat(folder / LOCK).st_ino:
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        os.close(file)  # the one before took its file away in between


def check_folder(config, folder: Path) -> dict | None:
    """The record of the run to resume, None for a new one; raise if the folder holds something else.

    Where each machine has a folder of its own, a run is finished when it is on all of them.
    """
    with together():
        before = _found(config, folder)
    finished = gather_object([before is not None and before["status"] == "finished"])
    return before if before is None or all(finished) else {**before, "status": "running"}


def _found(config, folder: Path) -> dict | None:
    before = record.read(folder)
    if before is None:
        if last_checkpoint(folder) is not None or (folder / "model.safetensors").exists():
            raise RunError(
                f"{folder} holds a model but no {record.NAME} to tell its recipe: choose another --output_dir."
            )
        return None
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


def begun_with(config) -> str | None:
    """The commit of a Hub data set that the run to resume began with, if it is asked for in the same words."""
    before = record.read(config.output_dir) if config.resume else None
    if before is None or before["recipe"].get("revision") != config.revision:
        return None
    commit = before["data"]["revision"]
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None


def common_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that every process finds with its own part in it, None where none finds any.

    RunError where some do and others do not.
    """
    state = PartialState()
    mine = complete_checkpoints(folder, state.process_index, state.num_processes)
    found = gather_object([sorted(mine)])
    steps = set.intersection(*map(set, found))
    if steps:
        return str(mine[max(steps)])
    if any(found) or any(gather_object([last_checkpoint(folder) is not None])):
        each = "; ".join(f"process {rank}: {steps or 'none'}" for rank, steps in enumerate(found))
        raise RunError(
            f"No checkpoint is whole on all machines: each process needs its own part, and of {folder} they find the "
            f"steps {each}. Start each machine with the rank it had and the folder it wrote, or choose another "
            "--output_dir."
        )
    return None


def check_world(before: dict | None, now: dict) -> None:
    """Raise if processes read other data than each other, or a run is resumed otherwise than it began."""
    revisions = gather_object([now["data"]["revision"]])
    if len(set(revisions)) > 1:
        each = "; ".join(f"process {rank}: revision {revision}" for rank, revision in enumerate(revisions))
        raise RunError(f"The machines hold different data under {now['data']['path']!r} ({each}): give all the same.")
    if before is None:
        return
    for what, old, new in (
        ("processes", before["world_size"], now["world_size"]),
        ("data revision", before["data"]["revision"], now["data"]["revision"]),
        ("mixed precision", before.get("mixed_precision", now["mixed_precision"]), now["mixed_precision"]),
    ):
        if old != new:
            raise RunError(f"The run began with {what} {old} and cannot go on exactly with {new}: use {old} again.")


def _differences(before: dict, now: dict) -> str:
    now = record.portable(now)
    keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys) or "its folders differ"


def _clear(folder: Path) -> None:
    own = (record.NAME, f".{record.NAME}", destination.NAME)
    if not any(path.name not in (*own, LOCK) for path in folder.iterdir()):
        for name in own:
            (folder / name).unlink(missing_ok=True)


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
