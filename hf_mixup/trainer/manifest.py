"""The manifest of a checkpoint: names, sizes and SHA-256 of its files. A checkpoint is complete once it is written."""

import hashlib
import json
import zipfile
from pathlib import Path

from ..errors import CheckpointError
from ..files import atomic_write, flush_to_disk
from ..plain_data import Damaged, read_json

NAME = "manifest.json"
STATE = "trainer_state.json"
OWN_TIMES = "hf_mixup_times"  # what TimeCallback keeps in `stateful_callbacks` of trainer_state.json
OWN_STATE = "hf_mixup"  # our entry of `stateful_callbacks` in trainer_state.json, which version 0.1 did not write
COMPLETE, UNVERIFIED, INTERRUPTED = "complete", "unverified", "interrupted"


def write(folder: Path) -> None:
    """Flush all files of a checkpoint to the disk, then write its manifest. Hidden files are not listed.

    OSError if a file of torch.save is cut off: on a full disk, torch 2.7 truncates the file without an error.
    """
    for path in (*folder.glob("*.pt"), *folder.glob("*.pth")):
        if not zipfile.is_zipfile(path):
            raise OSError(f"{path.name} was not written completely")
    flush_to_disk(folder)
    _write(folder, {name: _entry(path) for name, path in _files(folder).items()})
    flush_to_disk(folder)


def update(folder: Path, changed: str) -> None:
    """Update the entry of the edited file `changed` and remove entries of missing files, if there is a manifest."""
    if not (folder / NAME).is_file():
        return
    listed = read_json(folder / NAME)["files"]
    kept = {name: entry for name, entry in listed.items() if (folder / name).is_file()}
    kept[changed] = _entry(folder / changed)
    _write(folder, kept)


def status(folder: Path) -> str:
    """COMPLETE with a manifest, UNVERIFIED if saved by transformers' Trainer or hf_mixup 0.1, else INTERRUPTED.

    Nothing but the manifest's presence is checked: see `verify`.
    """
    if (folder / NAME).is_file():
        return COMPLETE
    try:
        state = read_json(folder / STATE)
        ours = OWN_STATE in state.get("stateful_callbacks", {})
    except (Damaged, AttributeError, TypeError):
        return INTERRUPTED
    weights = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    return UNVERIFIED if weights and not ours else INTERRUPTED


def verify(folder: Path) -> None:
    """CheckpointError, with the name of the file, if a file of the manifest is missing or differs from it."""
    try:
        listed = read_json(folder / NAME)["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in listed.items()}
    except Damaged as error:
        raise CheckpointError(f"{folder / NAME} cannot be read: {error}.") from None
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / NAME} cannot be read: it does not list files with size and sha256.") from None
    for name, (size, sha256) in expected.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing.")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes instead of {size}.")
        if _sha256(path) != sha256:
            raise CheckpointError(f"{path} is damaged: its SHA-256 differs from the manifest's.")


def _files(folder: Path) -> dict[str, Path]:
    """The files below `folder` by relative name, without the manifest and hidden files."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name != NAME and not path.name.startswith(".")}


def _write(folder: Path, files: dict[str, dict]) -> None:
    atomic_write(folder / NAME, json.dumps({"version": 1, "files": files}, indent=1) + "\n")


def _entry(path: Path) -> dict:
    return {"size": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
