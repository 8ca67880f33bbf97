"""The output folder of a run: its lock, and the checks that a run may start or continue in it."""

import logging
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

from ..distributed import has_separate_disks, is_connection_lost, raise_on_all_ranks
from ..errors import ExistingRunError, PeerProcessDied, RunError, SaveError
from ..hub import destination
from ..trainer.checkpointing import last_checkpoint, rank_checkpoints, restore_replaced, warn_about_interrupted
from . import record

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

LOCK = ".lock"

logger = logging.getLogger(__name__)


@contextmanager
def temporary_output_dir(config) -> Iterator[None]:
    """Inside, the configuration's output folder, which transformers' Trainer creates, is a new temporary one."""
    output_dir, config.output_dir = config.output_dir, tempfile.mkdtemp()
    try:
        yield
    finally:
        shutil.rmtree(config.output_dir)
        config.output_dir = output_dir


@contextmanager
def lock_output_dir(folder: Path) -> Iterator[bool]:
    """Create the folder and lock it against other runs; yields whether each machine has a disk of its own.

    The lock ends with the process that holds it. After an error inside, a new folder and its run record are deleted if
    nothing else was written.
    """
    existed, had_record, lock = folder.is_dir(), (folder / record.NAME).exists(), None
    try:
        with raise_on_all_ranks():
            _create(folder)
        separate_disks = has_separate_disks(folder)
        state = PartialState()
        with raise_on_all_ranks():
            if state.is_main_process or (separate_disks and state.is_local_main_process):
                lock = _lock(folder)
                restore_replaced(folder)
        yield separate_disks
    except BaseException as error:
        if lock is not None and not had_record:
            _delete_unused(folder)
        if is_connection_lost(error):
            raise PeerProcessDied(_peer_died_message(folder)) from error
        raise
    finally:
        if lock is not None:
            (folder / LOCK).unlink(missing_ok=True)
            os.close(lock)
        if not existed:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _peer_died_message(folder: Path) -> str:
    last = last_checkpoint(folder)
    last_complete = f"The last complete checkpoint is {last}" if last else "There is no checkpoint yet"
    return (
        f"Process {PartialState().process_index} stopped, because another process of this run ended: see the last "
        f"message of that process for the cause. {last_complete}."
    )


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"output_dir {str(folder)!r} cannot be written to ({error}): choose another.") from error


def _lock(folder: Path) -> int:
    """The descriptor of the open lock file; RunError if a running process holds the lock.

    Without a lock, a warning, on systems that have no file locks of this kind.
    """
    if fcntl is None:
        logger.warning("%s is not locked on this system: do not start another run in it before this one ends.", folder)
        return os.open(os.devnull, os.O_RDONLY)
    while True:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # not flock: data loader workers, which may run seconds longer than this process, would inherit that lock
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(file, 200).decode(errors="replace").strip()
            os.close(file)
            raise RunError(
                f"{folder} is in use by another run ({holder or 'on another machine'}): wait until it ends, stop it, "
                "or choose another --output_dir."
            ) from error
        except OSError:  # a file system without locks
            return file
        with suppress(FileNotFoundError):
            if os.fstat(file).st_ino == os.stat(folder / LOCK).st_ino:
                os.truncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        os.close(file)  # the previous holder deleted the file between opening and locking


def check_output_dir(config, folder: Path, revision: str) -> dict | None:
    """The record of the run to resume, None for a new run; RunError if the folder holds something else.

    `revision`: of the data that the run reads.
    If each machine has a disk of its own, the run is finished only if it is finished on all machines.
    """
    with raise_on_all_ranks():
        previous = _previous_run(config, folder, revision)
    finished = gather_object([previous is not None and previous.get("status") == "finished"])
    return previous if previous is None or all(finished) else {**previous, "status": "running"}


def _previous_run(config, folder: Path, revision: str) -> dict | None:
    previous = record.read(folder)
    if previous is None:
        if last_checkpoint(folder) is not None or (folder / "model.safetensors").exists():
            raise RunError(f"{folder} holds a model but no {record.NAME} with its recipe: choose another --output_dir.")
        return None
    if previous.get("recipe_hash") != config.recipe_hash() and not _data_has_moved(config, previous, revision):
        differing = _differences(previous.get("recipe", {}), config.recipe_dict())
        raise RunError(
            f"{folder} holds a run of another recipe: {differing}. "
            "Continue it with the same values, or choose another --output_dir."
        )
    if not config.resume:
        raise ExistingRunError(
            f"{folder} holds a run of this recipe: continue it with --resume, or choose another --output_dir."
        )
    if previous.get("status") == "finished" and not any(folder.glob("model*.safetensors*")):
        raise RunError(
            f"{folder} holds the record of a finished run, but its model.safetensors is gone: train again in another "
            "--output_dir."
        )
    return previous


def _data_has_moved(config, previous: dict, revision: str) -> bool:
    """Whether the recipe differs from that of a previous run only in the path of local data with the same content."""
    now = config.recipe_dict()
    data = now.pop("data")
    before = {key: value for key, value in previous.get("recipe", {}).items() if key != "data"}
    # the record holds only the last part of other local paths
    return Path(data).expanduser().is_dir() and revision == previous.get("data", {}).get("revision") and now == before


def original_data_commit(config) -> str | None:
    """The commit of the Hub data set that the run to resume started with; None if `revision` was changed since."""
    previous = record.read(config.output_dir) if config.resume else None
    if previous is None or previous.get("recipe", {}).get("revision") != config.revision:
        return None
    commit = str(previous.get("data", {}).get("revision"))
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else None


def common_checkpoint(folder: Path, previous: dict | None) -> str | None:
    """The newest complete checkpoint with the per-rank state of every rank; None if no rank has a checkpoint.

    `previous`: the record of the run to resume; if it had another number of processes, it continues without this state.
    RunError if there are checkpoints, but none is complete for every rank.
    """
    state = PartialState()
    if state.is_local_main_process:
        warn_about_interrupted(folder)
    recorded = previous.get("world_size", 1) if previous else state.num_processes
    checkpoints = rank_checkpoints(folder, state.process_index, state.num_processes, recorded)
    steps_of_ranks = gather_object([sorted(checkpoints)])
    steps = set.intersection(*map(set, steps_of_ranks))
    if steps:
        return str(checkpoints[max(steps)])
    if any(steps_of_ranks) or any(gather_object([last_checkpoint(folder) is not None])):
        each = "; ".join(f"rank {rank}: {steps or 'none'}" for rank, steps in enumerate(steps_of_ranks))
        raise RunError(
            f"No checkpoint is complete on all machines: none in {folder} holds the state of every rank. Steps of the "
            f"checkpoints: {each}. Start each machine with the same rank and folder as before, or choose another "
            "--output_dir."
        )
    return None


def check_same_run(previous: dict | None, now: dict) -> None:
    """RunError if ranks read different data, or a run is resumed with settings other than it started with."""
    revisions = gather_object([now["data"]["revision"]])
    if len(set(revisions)) > 1:
        each = "; ".join(f"rank {rank}: revision {revision}" for rank, revision in enumerate(revisions))
        raise RunError(
            f"The machines hold different data under {now['data']['path']!r} ({each}): copy the same data to all."
        )
    if previous is None:
        return
    for setting, old, new in (
        ("data revision", previous.get("data", {}).get("revision"), now["data"]["revision"]),
        ("mixed precision", previous.get("mixed_precision", now["mixed_precision"]), now["mixed_precision"]),
    ):
        if old != new:
            raise RunError(
                f"The run started with {setting} {old} and cannot be resumed exactly with {new}: use {old} again."
            )


def _differences(previous: dict, now: dict) -> str:
    now = record.portable(now)
    keys = [key for key in sorted({*previous, *now}) if previous.get(key) != now.get(key)]
    return "; ".join(f"{key} was {previous.get(key)!r} and is {now.get(key)!r}" for key in keys) or "local paths differ"


def _delete_unused(folder: Path) -> None:
    """Delete the run record and the destination if the folder holds nothing else."""
    names = (record.NAME, destination.NAME)
    if not any(path.name not in (*names, LOCK) for path in folder.iterdir()):
        for name in names:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def disk_full_as_save_error(folder: Path) -> Iterator[None]:
    """Convert errors of writing files, as on a full disk, into a SaveError with the way to continue."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free / 2**20
        last = last_checkpoint(folder)
        last_complete = f"The last complete checkpoint is {last}" if last else "There is no checkpoint"
        raise SaveError(
            f"The results could not be written to {folder} ({error}); {free:.0f} MiB are free there. {last_complete}. "
            "Free disk space and start again with --resume."
        ) from error
