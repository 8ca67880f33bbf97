"""WebDataset tar files, read from start to end: consecutive members with the same name up to the extension form a row.

Columns are named and labels decoded as by `datasets`: `jpg`, `cls`, ...
"""

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext
from datasets.utils.file_utils import xbasename

from ...errors import DataError

SECTION_BYTES = 2**18
END_MARK_BYTES = 1024  # zeros at the end of a tar file
HIDDEN_PREFIXES = (".", "__")  # members that `datasets` ignores as well


class TarRows:
    """The rows of one shard: `rows(first, stop)` returns `(image cell, label)` pairs; `first` must never decrease.

    The label is None if `columns` has no second column.
    """

    def __init__(self, path: str, raw: io.RawIOBase, columns: tuple[str, ...], expected: int):
        self.path, self.columns, self.expected, self.position = path, columns, expected, 0
        self.examples = examples(path, io.BufferedReader(raw, 2**20), columns)

    def rows(self, first: int, stop: int) -> list[tuple[dict | None, object]]:
        skipped = sum(1 for _ in islice(self.examples, first - self.position))
        members = list(islice(self.examples, stop - first))
        self.position += skipped + len(members)
        if self.position < stop:
            raise DataError(self._wrong_count(f"{self.position} rows"))
        if stop == self.expected and next(self.examples, None) is not None:
            raise DataError(self._wrong_count(f"more than {self.expected} rows"))
        image, *label = self.columns
        return [(_cell(row, image), _label(row, label[0], self.path) if label else None) for row in members]

    def _wrong_count(self, actual: str) -> str:
        return (
            f"{self.path} holds {actual}, but {self.expected} rows were expected: correct rows_per_shard (one "
            "number, or a list with one number per shard), or give rows_per_shard=count."
        )


def examples(path: str, file: BinaryIO, columns: tuple[str, ...]) -> Iterator[dict]:
    """For each row, the content of its members that `columns` name, not decoded; the row's name as "__key__", and its
    first byte in the file as "__start__"."""
    wanted, row = {*columns, *(name.partition(".")[0] for name in columns)}, {}
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                name = member.name
                if not member.isreg() or not name or xbasename(name).startswith(HIDDEN_PREFIXES):
                    continue
                key, extension = base_plus_ext(name)
                if key is None:
                    continue
                if row and row["__key__"] != key:
                    yield row
                    row = {}
                row.setdefault("__start__", member.offset)
                row["__key__"] = key
                if extension in wanted:
                    row[extension] = tar.extractfile(member).read()
                tar.members = []  # else every header stays in memory
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a complete tar file ({error}): upload it again.") from error
    if row:
        yield row


def find_sections(path: str, raw: io.RawIOBase, size: int) -> list[tuple[int, int, int]]:
    """Rows, first byte and end of the sections of a shard, each of SECTION_BYTES or more, which can be read by
    themselves. A compressed shard is one section.

    The shard is read once from start to end; DataError if it is truncated.
    """
    file, starts = TailRecorder(raw), []
    for row in examples(path, io.BufferedReader(file, 2**20), ()):
        starts.append(row["__start__"])
    while file.read(2**20):  # tarfile stops at the end mark, but padding follows
        pass
    if path.endswith("gz"):
        return [(len(starts), 0, size)]
    if file.tail != bytes(END_MARK_BYTES):
        raise DataError(f"{path} has no end mark of a tar file, so rows may be missing: upload it again.")
    sections, first = [], 0
    for row in range(1, len(starts) + 1):
        stop = starts[row] if row < len(starts) else size
        if stop - starts[first] >= SECTION_BYTES or row == len(starts):
            sections.append((row - first, starts[first], stop))
            first = row
    return sections or [(0, 0, size)]


class TailRecorder(io.RawIOBase):
    """Reads `raw` and keeps the last END_MARK_BYTES bytes in `tail`."""

    def __init__(self, raw: io.RawIOBase):
        self.raw, self.tail = raw, b""

    def readable(self) -> bool:
        return True

    def readinto(self, target) -> int:
        count = self.raw.readinto(target) or 0
        self.tail = (self.tail + bytes(target[:count]))[-END_MARK_BYTES:]
        return count


def _cell(row: dict, image: str) -> dict | None:
    content = row.get(image)
    return None if content is None else {"bytes": content, "path": f"{row['__key__']}.{image}"}


def _label(row: dict, label: str, path: str) -> object:
    """The decoded label; for a name such as "json.label", the value of that key of the json."""
    name, *keys = [label] if label in row else label.split(".")
    content = row.get(name)
    if content is None:
        return None
    try:
        extension = name.rpartition(".")[2].lower()
        decode = json.loads if extension in ("json", "jsn") else WebDataset.DECODERS.get(extension, bytes)
        value = decode(content)
        for key in keys:
            value = value[key]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{row['__key__']}.{name} in {path} holds no {label!r} ({error!r}): repair the file."
        ) from error
    return value
