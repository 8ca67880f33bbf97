"""Streamed parquet files: the footer, and the image and label columns of neighbouring row groups."""

import hashlib
from collections.abc import Callable
from contextlib import suppress

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError
from ...files import cache_folder, write_bytes
from ..parquet_classes import renumbered
from .remote_files import HUB_FILE

ReadRange = Callable[[int, int], bytes]
FOOTER_BYTES = 2**16  # read from the end of a file: nearly every footer is smaller
MAX_GAP = 2**20  # bytes between two columns up to which both are read in one request
IMAGE_FILE_BYTES = 2**17  # assumed size of an image file that a cell names
MAGIC = b"PAR1"
DAMAGED = "is not a complete parquet file"
REUPLOAD = "Upload the file again, or choose a revision in which it is complete."


def read_footer(path: str, size: int, read_range: ReadRange) -> pq.FileMetaData:
    """The footer of a file of `size` bytes; DataError if it has none. A file of the Hub is asked once on a machine."""
    if not HUB_FILE.fullmatch(path):  # a local file may change
        return _parse(path, _footer_bytes(path, size, read_range))
    kept = cache_folder("footers") / hashlib.sha256(path.encode()).hexdigest()[:24]
    with suppress(OSError, DataError):  # missing or damaged
        return _parse(path, kept.read_bytes())
    footer = _footer_bytes(path, size, read_range)
    with suppress(OSError):  # the disk is full, or the cache is read-only
        write_bytes(kept, footer)
    return _parse(path, footer)


def _footer_bytes(path: str, size: int, read_range: ReadRange) -> bytes:
    tail = read_range(max(0, size - FOOTER_BYTES), size)
    if len(tail) < 12 or tail[-4:] != MAGIC:
        raise DataError(f"{path} ({size} bytes) {DAMAGED}: its end is missing. {REUPLOAD}")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size:
        raise DataError(f"{path} ({size} bytes) {DAMAGED}: its footer has {length} bytes. {REUPLOAD}")
    if length > len(tail):
        tail = read_range(size - length, size)
    return tail[-length:]


def _parse(path: str, footer: bytes) -> pq.FileMetaData:
    try:
        return pq.read_metadata(pa.BufferReader(footer))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} {DAMAGED} ({error}). {REUPLOAD}") from error


class RowGroups:
    """Neighbouring row groups in memory, encoded as they are stored: `rows(first, stop)` returns `(image cell, label)`
    pairs.

    The label is None if `columns` has no second column. `numbers`: new class numbers of the labels, None if unchanged.
    """

    position = 0  # the first row that can still be read; constant, because the row groups are in memory

    def __init__(
        self,
        path: str,
        metadata: pq.FileMetaData,
        groups: range,
        columns: tuple[str, ...],
        read_range: ReadRange,
        numbers: dict[int, int] | None = None,
    ):
        self.columns, self.numbers = columns, numbers
        source = RangeFile(_column_ranges(path, [metadata.row_group(group) for group in groups], columns), read_range)
        try:
            self.table = pq.ParquetFile(source, metadata=metadata).read_row_groups(groups, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"Row groups {groups[0]} to {groups[-1]} of {path} cannot be read ({error}). {REUPLOAD}"
            ) from error

    def rows(self, first: int, stop: int) -> list[tuple[dict | None, object]]:
        part = self.table.slice(first, stop - first)
        images, *labels = (part[name] for name in self.columns)
        values = labels[0].to_pylist() if labels else [None] * len(part)
        if self.numbers:
            values = [renumbered(value, self.numbers) for value in values]
        return list(zip([cell for chunk in images.chunks for cell in image_cells(chunk)], values, strict=True))


def image_cells(images: pa.Array) -> list[dict | None]:
    """`{"bytes", "path"}` of each row of a column of encoded images, of bytes or of paths."""
    return datasets.Image().cast_storage(images).to_pylist()


def image_bytes(group: pq.RowGroupMetaData, column: str) -> int:
    """The bytes of the encoded images of a row group in memory; an estimate if the column contains paths."""
    parts = _parts(group, column)
    if all(_has_paths(part) for part in parts if part.path_in_schema in (column, f"{column}.bytes")):
        return IMAGE_FILE_BYTES * group.num_rows
    return sum(part.total_uncompressed_size for part in parts)


def _has_paths(part: pq.ColumnChunkMetaData) -> bool:
    """Whether a column of bytes is empty, or contains text."""
    found = part.statistics
    if found is None:
        return False
    return (found.has_null_count and found.null_count == part.num_values) or found.logical_type.type == "STRING"


def label_limits(group: pq.RowGroupMetaData, column: str | None) -> tuple[int, int] | None:
    """The smallest and the largest label of a row group, if they are integers that the footer contains."""
    for part in _parts(group, column) if column else ():
        found = part.statistics if part.path_in_schema == column else None
        if found is not None and found.has_min_max and type(found.min) is int and type(found.max) is int:
            return found.min, found.max
    return None


def _parts(group: pq.RowGroupMetaData, column: str) -> list[pq.ColumnChunkMetaData]:
    parts = (group.column(number) for number in range(group.num_columns))
    return [part for part in parts if f"{part.path_in_schema}.".startswith(f"{column}.")]


def _column_ranges(path: str, groups: list[pq.RowGroupMetaData], columns: tuple[str, ...]) -> list[tuple[int, int]]:
    """The byte ranges of the columns of row groups, in order; ranges that are close are merged."""
    ranges = []
    for name in columns:
        parts = [part for group in groups for part in _parts(group, name)]
        if not parts:
            raise DataError(
                f"{path} has no column {name!r}, but the first file of its split does: choose another split."
            )
        for part in parts:
            start = min(part.data_page_offset, part.dictionary_page_offset or part.data_page_offset)
            ranges.append((start, start + part.total_compressed_size))
    merged = []
    for start, stop in sorted(ranges):
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
