"""Snapshots of checkpoints for upload: hard links that stay when the checkpoint itself is deleted by rotation."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..files import atomic_write
from ..plain_data import read_json
from . import manifest

SNAPSHOTS = ".pushing"
PER_RANK = "method-rank*.safetensors"  # per-rank state, which holds training images: not uploaded
NEVER_UPLOADED = ("training_args.bin", PER_RANK, ".*")  # upstream's training arguments may hold a token


@dataclass(eq=False)
class Snapshot:
    """A folder with links to the files of the checkpoint `name`, and of the best one if it is not uploaded yet.

    `names`: the checkpoints in `folder`. `existing`: all checkpoints in the run's folder when the snapshot was taken.
    """

    name: str
    folder: Path
    names: frozenset[str]
    existing: frozenset[str]

    def files(self) -> dict[str, Path]:
        """The files to upload, by their name in the repository."""
        return {path.relative_to(self.folder).as_posix(): path for path in _files(self.folder)}

    def delete(self) -> None:
        """Delete the links; the checkpoint itself stays."""
        shutil.rmtree(self.folder, ignore_errors=True)


def take_snapshot(checkpoint: Path, run: Path, uploaded: set[str], run_files: tuple[str, ...]) -> Snapshot:
    """Link the files of `checkpoint`, and of the best checkpoint unless it is in `uploaded`; copy the `run_files`."""
    folder = run / SNAPSHOTS / f"{time.monotonic_ns()}"
    best = best_name(checkpoint)
    names = {checkpoint.name} | ({best} - uploaded if best and (run / best).is_dir() else set())
    existing = frozenset(path.name for path in run.glob("checkpoint-*"))
    taken = Snapshot(checkpoint.name, folder, frozenset(names), existing)
    try:
        for name in names:
            for path in _files(run / name):
                if not any(fnmatch(path.name, pattern) for pattern in NEVER_UPLOADED):
                    _link(path, folder / path.relative_to(run))
            _remove_local_path(folder / name)
        for name in run_files:
            shutil.copyfile(run / name, folder / name)
    except (OSError, ValueError):
        taken.delete()
        raise
    return taken


def best_name(checkpoint: Path) -> str | None:
    """The folder name of the best checkpoint so far, None if the run does not select one."""
    best = read_json(checkpoint / manifest.STATE).get("best_model_checkpoint")
    return best and Path(best).name


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def _remove_local_path(folder: Path) -> None:
    """Replace the local path of the best checkpoint by its name, and update the manifest; the linked files stay."""
    state = read_json(folder / manifest.STATE)
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    atomic_write(folder / manifest.STATE, json.dumps(state, indent=2) + "\n")
    manifest.update(folder, manifest.STATE)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
