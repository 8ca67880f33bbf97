"""Tar files of the WebDataset kind, read from start to end: members of one name, but for the ending, are one row.

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

MARK = 1024  # zeros at the end of a tar file
HIDDEN = (".", "__")  # as datasets leaves them out


class TarRows:
    """The rows of one shard: `rows(first, stop)` gives `(image cell, label)` pairs, of places that only grow."""

    def __init__(self, path: str, raw: io.RawIOBase, columns: tuple[str, str], expected: int):
        self.path, self.columns, self.expected, self.at = path, columns, expected, 0
        self.examples = examples(path, io.BufferedReader(raw, 2**20), columns)

    def rows(self, first: int, stop: int) -> list[tuple[dict | None, object]]:
        skipped = sum(1 for _ in islice(self.examples, first - self.at))
        found = list(islice(self.examples, stop - first))
        self.at += skipped + len(found)
        if self.at < stop:
            raise DataError(self._wrong(f"{self.at} rows"))
        if stop == self.expected and next(self.examples, None) is not None:
            raise DataError(self._wrong("more"))
        image, label = self.columns
        return [(_cell(row, image), _label(row, label, self.path)) for row in found]

    def _wrong(self, found: str) -> str:
        return (
            f"{self.path} holds {found}, not {self.expected} as rows_per_shard says: give the right number (or a list "
            "with one for each shard), or rows_per_shard=count."
        )


def examples(path: str, file: BinaryIO, columns: tuple[str, ...]) -> Iterator[dict]:
    """The wanted members of each row, undecoded, with the row's name as "__key__"."""
    wanted, row = {*columns, *(name.partition(".")[0] for name in columns)}, {}
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                name = member.name
                if not member.isreg() or not name or xbasename(name).startswith(HIDDEN):
                    continue
                key, ending = base_plus_ext(name)
                if key is None:
                    continue
                if row and row["__key__"] != key:
                    yield row
                    row = {}
                row["__key__"] = key
                if ending in wanted:
                    row[ending] = tar.extractfile(member).read()
                tar.members = []  # else every header stays in memory
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is no whole tar file ({error}): upload it again.") from error
    if row:
        yield row


def count(path: str, raw: io.RawIOBase) -> int:
    """The rows of a shard, for which it is read once as a whole; DataError for one that was cut off."""
    file = Ending(raw)
    rows = sum(1 for _ in examples(path, io.BufferedReader(file, 2**20), ()))
    while file.read(2**20):  # tarfile stops at the mark, but there is padding
        pass
    if not path.endswith("gz") and file.last != bytes(MARK):
        raise DataError(f"{path} ends without a tar file's end mark, so that rows may be missing: upload it again.")
    return rows


class Ending(io.RawIOBase):
    """A file that is read on, and its last bytes."""

    def __init__(self, raw: io.RawIOBase):
        self.raw, self.last = raw, b""

    def readable(self) -> bool:
        return True

    def readinto(self, target) -> int:
        count = self.raw.readinto(target) or 0
        self.last = (self.last + bytes(target[:count]))[-MARK:]
        return count


def _cell(row: dict, image: str) -> dict | None:
    content = row.get(image)
    return None if content is None else {"bytes": content, "path": f"{row['__key__']}.{image}"}


def _label(row: dict, label: str, path: str) -> object:
    """The decoded label; of a name as "json.label" that key of the json."""
    name, *keys = [label] if label in row else label.split(".")
    content = row.get(name)
    if content is None:
        return None
    try:
        kind = name.rpartition(".")[2].lower()
        value = json.loads(content) if kind in ("json", "jsn") else WebDataset.DECODERS.get(kind, bytes)(content)
        for key in keys:
            value = value[key]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{row['__key__']}.{name} in {path} holds no {label!r} ({error!r}): repair the file."
        ) from error
    return value
