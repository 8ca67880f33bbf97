"""A streamed split as units with known row counts, each of which can be read without the others.

Row counts come from the footers of parquet files; for WebDataset tar files from `rows_per_shard`, or from reading
the files once. Counts are cached by repository, commit, configuration and split.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from threading import Lock

from datasets import Features, IterableDataset

from ...errors import DataError
from ..open_dataset import OpenedDataset, Split
from ..parquet_classes import class_numbers
from . import parquet, webdataset
from .cache import RowCountCache, RowCounts
from .prefetch import parallel_map
from .remote_files import RemoteFile, Sleep, file_sizes, read_range

THREADS = 8  # files counted at the same time
COUNT = "count"
Row = tuple[dict | None, object]


@dataclass(frozen=True)
class Unit:
    """Rows that are read together: a row group of a parquet file, or a tar file."""

    file: str
    size: int  # bytes of the file
    number: int  # index of the row group in its file; 0 for a tar file
    first: int  # row number of the unit's first row in its file
    rows: int


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

    def digest(self) -> str:
        """16 hexadecimal digits of the files' names and row counts, in order."""
        listed = [(unit.file.rpartition("@")[2], unit.rows) for unit in self.units]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def open(self, unit: Unit, sleep: Sleep = time.sleep) -> parquet.RowGroup | webdataset.TarRows:
        """A reader of the unit: `rows(first, stop)`, where `first` must not be below its `position`."""
        columns = (self.image_column, *([] if self.label_column is None else [self.label_column]))
        if self.format == "webdataset":
            file = RemoteFile(unit.file, unit.size, self.token, sleep)
            return webdataset.TarRows(unit.file, file, columns, unit.rows)
        footer = self.footer(unit.file, unit.size, sleep)
        schema, feature = footer.schema.to_arrow_schema(), self.features.get(self.label_column)
        numbers = class_numbers(schema, self.label_column, feature, unit.file)
        return parquet.RowGroup(unit.file, footer, unit.number, columns, self._reader(unit.file, sleep), numbers)

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
        counts = _configured_counts(shards, files, rows_per_shard)
    else:
        counts = RowCountCache(f"{key} {name}", files).get(lambda: _count_rows(shards, files))
    shards = replace(shards, units=tuple(unit for file in counts for unit in _units(*file)))
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


def _units(path: str, size: int, rows: list[int]) -> Iterator[Unit]:
    first = 0
    for number, count in enumerate(rows):
        yield Unit(path, size, number, first, count)
        first += count


def _configured_counts(shards: Shards, files: list[str], rows_per_shard: int | list[int]) -> RowCounts:
    """The row counts that `rows_per_shard` gives, with the sizes of the files."""
    numbers = [rows_per_shard] * len(files) if isinstance(rows_per_shard, int) else rows_per_shard
    if len(numbers) != len(files):
        raise DataError(
            f"rows_per_shard has {len(numbers)} numbers, but the {shards.where} has {len(files)} shards: give one "
            f"number per shard, in the order of their names, one number for all, or {COUNT!r}."
        )
    return [(path, size, [rows]) for (path, size), rows in zip(file_sizes(files, shards.token).items(), numbers)]


def _count_rows(shards: Shards, files: list[str]) -> RowCounts:
    """The row counts of the files, read from parquet footers or counted in tar files."""
    sizes = file_sizes(files, shards.token)

    def rows(path: str) -> list[int]:
        if shards.format == "webdataset":
            return [webdataset.count_rows(path, RemoteFile(path, sizes[path], shards.token))]
        footer = shards.footer(path, sizes[path])
        return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]

    return [(path, sizes[path], counts) for path, counts in zip(files, parallel_map(rows, files, THREADS))]
