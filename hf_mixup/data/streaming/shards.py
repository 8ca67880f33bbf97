"""What a streamed split consists of: files, and in them units of known numbers of rows that can be read by themselves.

Numbers of rows come from the footers of parquet files; of WebDataset shards from the recipe, or from one pass over
them. They are kept in a small file of the cache, by repository, commit, configuration and split.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from datasets import Features
from filelock import FileLock
from huggingface_hub import constants

from ...errors import DataError
from ...files import atomic_write
from . import parquet, webdataset
from .prefetch import in_parallel
from .remote_files import Pause, Remote, fetch, sizes

THREADS = 8  # files asked at the same time
COUNT = "count"
Row = tuple[dict | None, object]
Counts = list[tuple[str, int, list[int]]]


@dataclass(frozen=True)
class Unit:
    """Rows that are read together: a row group of a parquet file, or a tar file."""

    file: str
    size: int  # bytes of the file
    number: int  # of the row group in its file
    first: int  # the unit's first row, counted in its file
    rows: int


@dataclass(frozen=True)
class Shards:
    """A streamed split whose numbers of rows are known: `units`, their two columns, and how to open one."""

    kind: str  # parquet or webdataset
    units: tuple[Unit, ...]
    features: Features
    image_column: str
    label_column: str
    revision: str
    where: str  # "split 'train' of 'user/name'", for messages
    token: str | None = field(default=None, repr=False)
    footers: dict = field(default_factory=dict, repr=False, compare=False)
    locks: dict = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return sum(unit.rows for unit in self.units)

    def digest(self) -> str:
        """16 hexadecimal digits of the files' names and numbers of rows, in order."""
        listed = [(unit.file.rpartition("@")[2], unit.rows) for unit in self.units]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def open(self, unit: Unit, pause: Pause = time.sleep):
        """What gives the rows of a unit by `rows(first, stop)`, from the row `at` on."""
        columns = (self.image_column, self.label_column)
        if self.kind == "webdataset":
            return webdataset.TarRows(unit.file, Remote(unit.file, unit.size, self.token, pause), columns, unit.rows)
        return parquet.RowGroup(unit.file, self._footer(unit, pause), unit.number, columns, self._fetch(unit, pause))

    def _footer(self, unit: Unit, pause: Pause):
        with self.locks.setdefault(unit.file, Lock()):
            if unit.file not in self.footers:
                self.footers[unit.file] = parquet.footer(unit.file, unit.size, self._fetch(unit, pause))
        return self.footers[unit.file]

    def _fetch(self, unit: Unit, pause: Pause) -> Callable[[int, int], bytes]:
        return lambda start, stop: fetch(unit.file, start, stop, self.token, pause)

    def __iter__(self) -> Iterator[Row]:
        """All rows in their order, unit by unit."""
        for unit in self.units:
            if unit.rows:
                yield from self.open(unit).rows(0, unit.rows)

    def __getstate__(self) -> dict:
        return vars(self) | {"token": None, "footers": {}, "locks": {}}  # neither may reach a cache or another process


def find_shards(kind: str, files: list[str], *, per_shard: int | list[int] | str | None, key: str, **about) -> Shards:
    """The units of a split that has these files; `per_shard` are the rows of tar files, `key` names the split's cache.

    DataError for files that are missing, broken or not as said. `about` are the other fields of `Shards`.
    """
    counts, shards = Counted(key, files), Shards(kind, (), **about)
    if kind == "webdataset" and per_shard != COUNT:
        known = _said(per_shard, files, about["where"])
        found = [(path, size, [rows]) for (path, size), rows in zip(sizes(files, shards.token).items(), known)]
    else:
        found = counts.get(lambda: _count(shards, files))
    units = [unit for path, size, rows in found for unit in _units(path, size, rows)]
    shards = replace(shards, units=tuple(units))
    if not len(shards):
        raise DataError(f"The {shards.where} is empty: check the files, or choose another split.")
    return shards


def _units(path: str, size: int, rows: list[int]) -> Iterator[Unit]:
    first = 0
    for number, count in enumerate(rows):
        yield Unit(path, size, number, first, count)
        first += count


def _said(per_shard: int | list[int], files: list[str], where: str) -> list[int]:
    """The rows of each file, as the recipe says."""
    if isinstance(per_shard, int):
        return [per_shard] * len(files)
    if len(per_shard) != len(files):
        raise DataError(
            f"rows_per_shard has {len(per_shard)} numbers, and the {where} has {len(files)} shards: give one number "
            f"for each, in the order of their names, one for all, or {COUNT!r}."
        )
    return per_shard


def _count(shards: Shards, files: list[str]) -> Counts:
    """Name, size and numbers of rows of each file, from the files themselves."""
    found = sizes(files, shards.token)

    def rows(path: str) -> list[int]:
        if shards.kind == "webdataset":
            return [webdataset.count(path, Remote(path, found[path], shards.token))]
        unit = Unit(path, found[path], 0, 0, 0)
        footer = shards._footer(unit, time.sleep)
        return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]

    return [(path, found[path], counted) for path, counted in zip(files, in_parallel(rows, files, THREADS))]


class Counted:
    """Counts of rows that are kept in the cache, and made by one process of a machine at a time."""

    def __init__(self, key: str, files: list[str]):
        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        self.files, self.path = files, Path(constants.HF_HOME) / "hf_mixup" / "rows" / f"{name}.json"

    def get(self, make: Callable[[], Counts]) -> Counts:
        """The counts that are kept, or else those that are made now."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return make()  # a home that cannot be written to
        with FileLock(f"{self.path}.lock"):
            found = self._read()
            if found is None:
                found = make()
                self._write(found)
        return found

    def _read(self) -> Counts | None:
        try:
            found = [tuple(entry) for entry in json.loads(self.path.read_text())["files"]]
            return found if [path for path, _, _ in found] == self.files else None
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours
            return None

    def _write(self, counts: Counts) -> None:
        with suppress(OSError):  # a full disk: counted again next time
            atomic_write(self.path, json.dumps({"files": counts}))
