"""Writing files so that a process that is killed, or a machine that loses power, leaves the old or the new content."""

import os
from pathlib import Path


def atomic_write(file: Path, text: str) -> None:
    """Replace `file` by `text` (UTF-8) in one step; its folder is created if it does not exist."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def flush_to_disk(folder: Path) -> None:
    """Flush every file below `folder`, and the folders, from the operating system's cache to the disk (fsync)."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
