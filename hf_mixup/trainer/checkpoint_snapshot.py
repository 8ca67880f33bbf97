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
from . import manifest

SNAPSHOTS = ".pushing"
PER_RANK = "method-rank*.safetensors"  # per-rank state, which holds training images: not uploaded
NEVER = ("training_args.bin", PER_RANK, ".*")  # upstream's training arguments may hold a token


@dataclass(eq=False)
class Snapshot:
    """The files of one checkpoint in `folder`, and of the best one if that is not uploaded yet.

    `names` are the checkpoints in `folder`, `kept` all checkpoints that the run's folder had at the time.
    """

    name: str
    folder: Path
    names: frozenset[str]
    kept: frozenset[str]

    def files(self) -> dict[str, Path]:
        """The files to upload, by their name in the repository."""
        return {path.relative_to(self.folder).as_posix(): path for path in _files(self.folder)}

    def delete(self) -> None:
        """Delete the links; the checkpoint itself stays."""
        shutil.rmtree(self.folder, ignore_errors=True)


def snapshot(checkpoint: Path, run: Path, uploaded: set[str], beside: tuple[str, ...]) -> Snapshot:
    """Link the files of `checkpoint`, and of the best checkpoint unless `uploaded`; copy the run's files `beside`."""
    folder = run / SNAPSHOTS / f"{time.monotonic_ns()}"
    best = best_name(checkpoint)
    names = {checkpoint.name} | ({best} - uploaded if best and (run / best).is_dir() else set())
    kept = frozenset(path.name for path in run.glob("checkpoint-*"))
    taken = Snapshot(checkpoint.name, folder, frozenset(names), kept)
    try:
        for name in names:
            for path in _files(run / name):
                if not any(fnmatch(path.name, pattern) for pattern in NEVER):
                    _link(path, folder / path.relative_to(run))
            _remove_local_path(folder / name)
        for name in beside:
            shutil.copyfile(run / name, folder / name)
    except (OSError, ValueError):
        taken.delete()
        raise
    return taken


def best_name(checkpoint: Path) -> str | None:
    """The folder name of the best checkpoint so far, None if the run does not select one."""
    best = json.loads((checkpoint / manifest.STATE).read_text()).get("best_model_checkpoint")
    return best and Path(best).name


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def _remove_local_path(folder: Path) -> None:
    """Replace the local path of the best checkpoint by its name, and the manifest; the linked originals stay."""
    state = json.loads((folder / manifest.STATE).read_text())
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    atomic_write(folder / manifest.STATE, json.dumps(state, indent=2) + "\n")
    manifest.update(folder, manifest.STATE)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
