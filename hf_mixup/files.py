"""Files of hub_cards/, names without local folders, and writing files.

A killed process or a power failure leaves the old or the new content of a file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants

STAGING = ".staging"
READ = os.O_RDWR if os.name == "nt" else os.O_RDONLY  # Windows flushes only files that are open for writing


def hub_card(name: str) -> Path:
    """The path of a file of hub_cards/, in the package or in the checkout."""
    spec = find_spec("hf_mixup.hub_cards")
    folder = Path(spec.submodule_search_locations[0]) if spec else Path(__file__).parents[1] / "hub_cards"
    return folder / name


def cache_folder(name: str) -> Path:
    """The folder `name` of the package's cache."""
    return Path(constants.HF_HOME) / "hf_mixup" / name


def portable(value):
    """`value` as JSON data without local paths: an absolute path is shortened to its last part, as `./name`."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return local_name(value) if isinstance(value, str) and value.startswith(("/", "~")) else value


def local_name(path: str) -> str:
    """The name of a local folder, without its parents, as `./name`."""
    return f"./{Path(path).expanduser().resolve().name}"


def atomic_write(file: Path, text: str) -> None:
    """Replace the content of `file` by `text` (UTF-8) in one step; missing folders are created."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, *contents: bytes) -> None:
    """Replace the content of `file` by `contents`, one after the other, in one step; missing folders are created."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        with open(partial, "wb") as opened:
            opened.writelines(contents)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def flush_to_disk(folder: Path) -> None:
    """Flush every file below `folder`, and the folders, from the operating system's cache to the disk (fsync).

    Windows cannot open folders, so only files are flushed there.
    """
    for path in (*folder.rglob("*"), folder):
        try:
            descriptor = os.open(path, READ)
        except PermissionError:
            if path.is_dir():
                continue
            raise
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """A staging folder whose files move into `folder` one by one once all are written; the file `last` moves last."""
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        yield staging
        flush_to_disk(staging)
        for path in sorted(filter(Path.is_file, staging.rglob("*")), key=lambda path: path.name == last):
            target = folder / path.relative_to(staging)
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
