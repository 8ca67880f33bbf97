"""A streamed split as units with known row counts, each of which can be read without the others.

Row counts come from the footers of parquet files; for WebDataset tar files from `rows_per_shard`, or from reading
the files once. The units are cached by repository, commit, configuration and split.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from threading import Lock

from datasets import Features, IterableDataset

from ...errors import DataError
from ..open_dataset import OpenedDataset, Split
from ..parquet_classes import class_numbers
from . import parquet, webdataset
from .cache import UnitCache
from .prefetch import parallel_map
from .remote_files import RemoteFile, Sleep, file_sizes, read_range
from .units import ROW_BYTES, Unit, UnitSizes, merged, mixed

THREADS = 8  # files counted at the same time
COUNT = "count"
Row = tuple[dict | None, object]


@dataclass(frozen=True)
class Shards:
    """A streamed split with known row counts: its units, and the columns that are read from them."""

    format: str  # parquet or webdataset
    units: tuple[Unit, ...]
    features: Features
    image_column: str
    label_column: str | None
    revision: str
    where: str  # "split 'train' of 'user/name'", for messages
    token: str | None = field(default=None, repr=False)
    footers: dict = field(default_factory=dict, repr=False, compare=False)
    locks: dict = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return sum(unit.rows for unit in self.units)

    def merged(self, target: int) -> "Shards":
        """The same rows in larger units: neighbours in a file are merged up to `target` bytes."""
        return replace(self, units=merged(self.units, target))

    def sizes(self) -> UnitSizes:
        """What the order of the rows depends on."""
        whole_tars = self.format == "webdataset" and any(
            not unit.start and unit.stop == unit.size for unit in self.units
        )
        rows, sizes = ([getattr(unit, name) for unit in self.units] for name in ("rows", "bytes"))
        return UnitSizes(tuple(rows), tuple(sizes), whole_tars, mixed(self.units))

    def digest(self) -> str:
        """16 hexadecimal digits of the files' names and row counts, in order."""
        listed = [(unit.file.rpartition("@")[2], unit.rows) for unit in self.units]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def cache_key(self) -> str:
        """What the rows of a unit depend on, beside the unit."""
        return json.dumps([self.revision, self.image_column, self.label_column])

    def open(self, unit: Unit, sleep: Sleep = time.sleep) -> parquet.RowGroups | webdataset.TarRows:
        """A reader of the unit: `rows(first, stop)`, where `first` must not be below its `position`."""
        columns = (self.image_column, *([] if self.label_column is None else [self.label_column]))
        if self.format == "webdataset":
            file = RemoteFile(unit.file, unit.start, unit.stop, self.token, sleep)
            return webdataset.TarRows(unit.file, file, columns, unit.rows)
        footer = self.footer(unit.file, unit.size, sleep)
        schema, feature = footer.schema.to_arrow_schema(), self.features.get(self.label_column)
        numbers = class_numbers(schema, self.label_column, feature, unit.file)
        groups = range(unit.start, unit.stop)
        return parquet.RowGroups(unit.file, footer, groups, columns, self._reader(unit.file, sleep), numbers)

    def footer(self, file: str, size: int, sleep: Sleep = time.sleep):
        """The footer of a parquet file, which is read once."""
        with self.locks.setdefault(file, Lock()):
            if file not in self.footers:
                self.footers[file] = parquet.read_footer(file, size, self._reader(file, sleep))
        return self.footers[file]

    def _reader(self, file: str, sleep: Sleep) -> Callable[[int, int], bytes]:
        return lambda start, stop: read_range(file, start, stop, self.token, sleep)

    def __iter__(self) -> Iterator[Row]:
        """All rows in their order, unit by unit."""
        for unit in self.units:
            if unit.rows:
                yield from self.open(unit).rows(0, unit.rows)

    def __getstate__(self) -> dict:
        return vars(self) | {"token": None, "footers": {}, "locks": {}}  # pickles are written to caches


def find_shards(
    source: OpenedDataset,
    split: Split,
    name: str,
    columns: tuple[str, ...],
    where: str,
    *,
    key: str,
    rows_per_shard: int | list[int] | str | None = None,
    token: str | None = None,
) -> Shards | IterableDataset:
    """The split as Shards, or unchanged if the rows of its files are not known.

    `name` may be a sum "a+b"; `columns` are image and, if there are labels, label; `key` identifies data set,
    configuration and commit.
    Raises DataError for files that are missing or damaged, or that do not match `rows_per_shard`.
    """
    files = [file for part in name.split("+") for file in source.files.get(part, [])]
    if rows_per_shard is not None:
        _check_rows_per_shard(rows_per_shard, source.format)
    if not files or (source.format == "webdataset" and rows_per_shard is None):
        return split
    image, label = (*columns, None)[:2]
    shards = Shards(source.format, (), split.features, image, label, source.revision, where, token)
    if source.format == "webdataset" and rows_per_shard != COUNT:
        units = _configured_units(shards, files, rows_per_shard)
    else:
        units = UnitCache(f"{key} {name}", files).get(lambda: _find_units(shards, files))
    shards = replace(shards, units=tuple(units))
    if not len(shards):
        raise DataError(f"The {where} is empty: check the files, or choose another split.")
    return shards


def _check_rows_per_shard(value: int | list[int] | str, format: str) -> None:
    if format != "webdataset":
        raise DataError(
            f"rows_per_shard={value!r} is for streamed WebDataset tar files, but the format of these files is "
            f"{format or 'another one'}: leave it out."
        )
    numbers = value if isinstance(value, list) else [value]
    if value != COUNT and not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise DataError(f"rows_per_shard={value!r}: give a number of rows, a list of numbers, or {COUNT!r}.")


def _configured_units(shards: Shards, files: list[str], rows_per_shard: int | list[int]) -> list[Unit]:
    """A unit for each tar file, with the row counts that `rows_per_shard` gives."""
    numbers = [rows_per_shard] * len(files) if isinstance(rows_per_shard, int) else rows_per_shard
    if len(numbers) != len(files):
        raise DataError(
            f"rows_per_shard has {len(numbers)} numbers, but the {shards.where} has {len(files)} shards: give one "
            f"number per shard, in the order of their names, one number for all, or {COUNT!r}."
        )
    sizes = file_sizes(files, shards.token).items()
    return [Unit(path, size, 0, rows, size + ROW_BYTES * rows, 0, size) for (path, size), rows in zip(sizes, numbers)]


def _find_units(shards: Shards, files: list[str]) -> list[Unit]:
    """The row groups of parquet files, from their footers, or the sections of tar files, which are read once."""
    sizes = file_sizes(files, shards.token)

    def units(path: str) -> list[Unit]:
        size = sizes[path]
        if shards.format == "webdataset":
            found = webdataset.find_sections(path, RemoteFile(path, 0, size, shards.token), size)
            parts = [(rows, stop - start + ROW_BYTES * rows, start, stop) for rows, start, stop in found]
        else:
            parts = list(_row_groups(shards, path, size))
        firsts = accumulate((rows for rows, *_ in parts), initial=0)
        return [Unit(path, size, first, *part) for first, part in zip(firsts, parts)]

    return [unit for found in parallel_map(units, files, THREADS) for unit in found]


def _row_groups(shards: Shards, path: str, size: int) -> Iterator[tuple[int, int, int, int, tuple[int, int] | None]]:
    footer = shards.footer(path, size)
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        size = parquet.image_bytes(group, shards.image_column) + ROW_BYTES * group.num_rows
        yield group.num_rows, size, number, number + 1, parquet.label_limits(group, shards.label_column)
