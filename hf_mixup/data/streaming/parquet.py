"""Parquet files as they lie on the Hub: rows of each row group, and the cells of two columns of one of them."""

from collections.abc import Callable

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError

Fetch = Callable[[int, int], bytes]
TAIL = 2**16  # bytes from the end that nearly always hold the footer
GAP = 2**20  # bytes between two columns that are read along rather than asked around
MAGIC = b"PAR1"


def footer(path: str, size: int, fetch: Fetch) -> pq.FileMetaData:
    """The footer of a file of so many bytes; DataError if it has none."""
    tail = fetch(max(0, size - TAIL), size)
    if len(tail) < 12 or tail[-4:] != MAGIC:
        raise DataError(f"{path} ({size} bytes) {BROKEN}: its end is missing. {WHOLE}")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length > size:
        raise DataError(f"{path} ({size} bytes) {BROKEN}: its footer has {length} bytes. {WHOLE}")
    if length > len(tail):
        tail = fetch(size - length, size)
    try:
        return pq.read_metadata(pa.BufferReader(tail[-length:]))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} {BROKEN} ({error}). {WHOLE}") from error


BROKEN = "is no whole parquet file"
WHOLE = "Upload the file again, or choose a revision that has it whole."


class RowGroup:
    """One row group in memory, encoded as it is stored: `rows(first, stop)` gives `(image cell, label)` pairs."""

    at = 0  # the first row that can still be had

    def __init__(self, path: str, metadata: pq.FileMetaData, group: int, columns: tuple[str, str], fetch: Fetch):
        self.columns = columns
        source = Ranges(_ranges(path, metadata.row_group(group), columns), fetch)
        try:
            self.table = pq.ParquetFile(source, metadata=metadata).read_row_group(group, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"Row group {group} of {path} cannot be read ({error}). {WHOLE}") from error

    def rows(self, first: int, stop: int) -> list[tuple[dict | None, object]]:
        part = self.table.slice(first, stop - first)
        images, labels = (part[name].combine_chunks() for name in self.columns)
        return list(zip(cells(images), labels.to_pylist(), strict=True))


def cells(images: pa.Array) -> list[dict | None]:
    """`{"bytes", "path"}` of each row of a column of encoded images, of bytes or of paths."""
    return datasets.Image().cast_storage(images).to_pylist()


def _ranges(path: str, group: pq.RowGroupMetaData, columns: tuple[str, str]) -> list[tuple[int, int]]:
    """Where the columns of a row group lie: few ranges of bytes, in order."""
    found = {name: [] for name in columns}
    for number in range(group.num_columns):
        column = group.column(number)
        name = next((n for n in columns if f"{column.path_in_schema}.".startswith(f"{n}.")), None)
        if name is not None:
            start = column.data_page_offset
            if column.dictionary_page_offset:
                start = min(start, column.dictionary_page_offset)
            found[name].append((start, start + column.total_compressed_size))
    for name, ranges in found.items():
        if not ranges:
            raise DataError(f"{path} has no column {name!r}, as the first file of its split has: choose another split.")
    merged = []
    for start, stop in sorted(range_ for ranges in found.values() for range_ in ranges):
        if merged and start - merged[-1][1] <= GAP:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


class Ranges:
    """A file for pyarrow of which only some ranges are fetched, each in one go."""

    closed = False

    def __init__(self, ranges: list[tuple[int, int]], fetch: Fetch):
        self.parts = [(start, memoryview(fetch(start, stop))) for start, stop in ranges]
        self.size = max((start + len(part) for start, part in self.parts), default=0)
        self.fetch, self.place = fetch, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (0, self.place, self.size)[whence]
        return self.place

    def read(self, count: int = -1) -> bytes:
        stop = self.size if count < 0 else self.place + count
        start, self.place = self.place, stop
        for first, part in self.parts:
            if first <= start and stop <= first + len(part):
                return bytes(part[start - first : stop - first])
        return self.fetch(start, stop)

    def close(self) -> None:
        self.closed = True
