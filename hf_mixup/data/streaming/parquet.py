"""Streamed parquet files: the footer, and the image and label columns of one row group."""

from collections.abc import Callable

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError
from ..parquet_classes import renumbered

ReadRange = Callable[[int, int], bytes]
FOOTER_BYTES = 2**16  # read from the end of a file: nearly every footer is smaller
MAX_GAP = 2**20  # bytes between two columns up to which both are read in one request
MAGIC = b"PAR1"
DAMAGED = "is not a complete parquet file"
REUPLOAD = "Upload the file again, or choose a revision in which it is complete."


def read_footer(path: str, size: int, read_range: ReadRange) -> pq.FileMetaData:
    """The footer of a file of `size` bytes; DataError if it has none."""
    tail = read_range(max(0, size - FOOTER_BYTES), size)
    if len(tail) < 12 or tail[-4:] != MAGIC:
        raise DataError(f"{path} ({size} bytes) {DAMAGED}: its end is missing. {REUPLOAD}")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size:
        raise DataError(f"{path} ({size} bytes) {DAMAGED}: its footer has {length} bytes. {REUPLOAD}")
    if length > len(tail):
        tail = read_range(size - length, size)
    try:
        return pq.read_metadata(pa.BufferReader(tail[-length:]))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} {DAMAGED} ({error}). {REUPLOAD}") from error


class RowGroup:
    """One row group in memory, encoded as it is stored: `rows(first, stop)` returns `(image cell, label)` pairs.

    The label is None if `columns` has no second column. `numbers`: new class numbers of the labels, None if unchanged.
    """

    position = 0  # the first row that can still be read; constant, because the row group is in memory

    def __init__(
        self,
        path: str,
        metadata: pq.FileMetaData,
        group: int,
        columns: tuple[str, ...],
        read_range: ReadRange,
        numbers: dict[int, int] | None = None,
    ):
        self.columns, self.numbers = columns, numbers
        source = RangeFile(_column_ranges(path, metadata.row_group(group), columns), read_range)
        try:
            self.table = pq.ParquetFile(source, metadata=metadata).read_row_group(group, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"Row group {group} of {path} cannot be read ({error}). {REUPLOAD}") from error

    def rows(self, first: int, stop: int) -> list[tuple[dict | None, object]]:
        part = self.table.slice(first, stop - first)
        images, *labels = (part[name].combine_chunks() for name in self.columns)
        values = labels[0].to_pylist() if labels else [None] * len(images)
        if self.numbers:
            values = [renumbered(value, self.numbers) for value in values]
        return list(zip(image_cells(images), values, strict=True))


def image_cells(images: pa.Array) -> list[dict | None]:
    """`{"bytes", "path"}` of each row of a column of encoded images, of bytes or of paths."""
    return datasets.Image().cast_storage(images).to_pylist()


def _column_ranges(path: str, group: pq.RowGroupMetaData, columns: tuple[str, ...]) -> list[tuple[int, int]]:
    """The byte ranges of the columns of a row group, in order; ranges that are close are merged."""
    column_ranges = {name: [] for name in columns}
    for number in range(group.num_columns):
        column = group.column(number)
        name = next((n for n in columns if f"{column.path_in_schema}.".startswith(f"{n}.")), None)
        if name is not None:
            start = column.data_page_offset
            if column.dictionary_page_offset:
                start = min(start, column.dictionary_page_offset)
            column_ranges[name].append((start, start + column.total_compressed_size))
    for name, ranges in column_ranges.items():
        if not ranges:
            raise DataError(
                f"{path} has no column {name!r}, but the first file of its split does: choose another split."
            )
    merged = []
    for start, stop in sorted(range_ for ranges in column_ranges.values() for range_ in ranges):
        if merged and start - merged[-1][1] <= MAX_GAP:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


class RangeFile:
    """A file object for pyarrow. The byte `ranges` are fetched when it is created, any other range when it is read."""

    closed = False

    def __init__(self, ranges: list[tuple[int, int]], read_range: ReadRange):
        self.parts = [(start, memoryview(read_range(start, stop))) for start, stop in ranges]
        self.size = max((start + len(part) for start, part in self.parts), default=0)
        self.read_range, self.position = read_range, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def read(self, count: int = -1) -> bytes:
        stop = self.size if count < 0 else self.position + count
        start, self.position = self.position, stop
        for first, part in self.parts:
            if first <= start and stop <= first + len(part):
                return bytes(part[start - first : stop - first])
        return self.read_range(start, stop)

    def close(self) -> None:
        self.closed = True
