"""A cache of a stream's units on the disk of a machine, bounded in size and shared by its processes."""

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock

from ...errors import DataError
from ...files import write_bytes

Row = tuple[dict | None, object]  # image cell and label
LOCKS = 64  # lock files of a cache; two units with the same one are not read at the same time


class DiskCache:
    """Units of one split in the folder `root`; `size`: the bytes that all splits in `root` may take.

    `key` identifies data set, commit and columns. If the space is used up, the splits that were used longest ago are
    deleted, but none of this one's units: what does not fit is not stored.
    """

    def __init__(self, root: str | Path, size: int, key: str):
        self.root, self.size = Path(root).expanduser(), size
        self.folder = self.root / hashlib.sha256(key.encode()).hexdigest()[:24]

    def rows(self, unit: str, read: Callable[[], list[Row]], required: bool = False) -> Sequence[Row]:
        """The rows of a unit: from the disk, or else from `read`, stored if they fit; DataError if they must and do
        not."""
        file = self.folder / f"{hashlib.sha256(unit.encode()).hexdigest()[:24]}.rows"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f"{int(file.stem, 16) % LOCKS}.lock"):
                with suppress(OSError, ValueError, KeyError):  # missing or damaged
                    return StoredRows(file)
                rows = read()
                stored = self._store(file, rows)
        except OSError as error:
            raise DataError(
                f"The stream_cache {self.root} cannot be used ({error}): make space, choose another folder, or leave "
                "it out."
            ) from error
        if required and stored is None:
            raise DataError(
                f"The stream_cache {self.root} cannot hold all rows, though stream_cache_size is {self.size:,} bytes: "
                "other splits use its space, or labels are no plain data. Choose another folder, or leave it out."
            )
        return rows if stored is None else stored

    def _store(self, file: Path, rows: list[Row]) -> "StoredRows | None":
        """The rows as they were written; None if they do not fit, or JSON cannot hold their labels."""
        contents = [(cell or {}).get("bytes") for cell, _ in rows]
        paths = [None if cell is None else cell.get("path") for cell, _ in rows]
        lengths = [-1 if content is None else len(content) for content in contents]
        try:
            head = json.dumps({"lengths": lengths, "paths": paths, "labels": [label for _, label in rows]}).encode()
        except (TypeError, ValueError):
            return None
        start = len(head).to_bytes(8, "little")
        parts = (start, head, *filter(None, contents))
        with FileLock(self.root / "space.lock"):  # files are written and deleted by one process at a time
            if not self._make_space(sum(map(len, parts))):
                return None
            write_bytes(file, *parts)
            return StoredRows(file)

    def _make_space(self, size: int) -> bool:
        """Whether `size` bytes fit, after deleting splits if need be, and the unfinished files of killed processes."""
        self.folder.mkdir(exist_ok=True)
        os.utime(self.folder)  # used now
        for unfinished in self.root.glob("*/.*.new"):
            unfinished.unlink()
        folders = sorted((path for path in self.root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        used = {folder: sum(entry.stat().st_size for entry in os.scandir(folder)) for folder in folders}
        for folder in folders:
            if sum(used.values()) + size <= self.size or folder == self.folder:
                break
            shutil.rmtree(folder, ignore_errors=True)
            del used[folder]
        return sum(used.values()) + size <= self.size


class StoredRows(Sequence):
    """The rows of a file of DiskCache, each read when it is used; ValueError if the file is damaged."""

    def __init__(self, file: Path):
        with open(file, "rb") as opened:
            self.content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(self.content[:8], "little")
        head = json.loads(self.content[8:start])
        self.paths, self.labels, self.lengths = head["paths"], head["labels"], head["lengths"]
        self.ends = start + np.cumsum(np.maximum(self.lengths, 0))
        if (self.ends[-1] if len(self.ends) else start) != len(self.content):
            raise ValueError(f"{file} is damaged")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Row:
        length, end = self.lengths[row], int(self.ends[row])
        content = None if length < 0 else self.content[end - length : end]
        cell = None if content is None and self.paths[row] is None else {"bytes": content, "path": self.paths[row]}
        return cell, self.labels[row]
