"""Reading units of a stream: whole or in parts, several at the same time, through the cache on the disk."""

import time
from collections.abc import Sequence
from functools import partial

from huggingface_hub.errors import HTTPError

from ...hub.retry import retried
from ..image_paths import ImageDecodeError, read_image_file
from .disk_cache import DiskCache, Row
from .order import Read
from .prefetch import parallel_map
from .remote_files import PATIENCE, TRIES, Sleep, read_error
from .shards import Shards

THREADS = 8  # units read at the same time
WHOLE = 2**26  # bytes of a unit up to which it is read and cached as a whole, if a part of it is needed


class UnitReader:
    """Reads rows of units. A tar file that was read partly stays open for the next read, which continues with it.

    `memory`: bytes of units that may be kept in memory; if they are more, the cache must hold them.
    """

    def __init__(
        self,
        shards: Shards,
        memory: int,
        sleep: Sleep = time.sleep,
        home: str | None = None,
        cache: DiskCache | None = None,
    ):
        self.shards, self.sleep, self.home, self.cache, self.opened = shards, sleep, home, cache, {}
        self.required = sum(unit.bytes for unit in shards.units) > memory

    def read(self, reads: list[Read], kept: dict[int, Sequence[Row]] | None = None) -> list[Sequence[Row]]:
        """The rows of each read; with `kept`, all rows of each unit, which are added to it."""
        places = {}  # of the reads of each unit, which are read one after the other
        for place, read in enumerate(reads):
            places.setdefault(read.unit, []).append(place)
        one = self._part if kept is None else partial(self._whole, kept=kept)
        found = parallel_map(lambda unit: [one(reads[place]) for place in places[unit]], [*places], THREADS)
        by_place = {place: rows for unit, parts in zip(places, found) for place, rows in zip(places[unit], parts)}
        return [by_place[place] for place in range(len(reads))]

    def _whole(self, read: Read, kept: dict[int, Sequence[Row]]) -> Sequence[Row]:
        if read.unit not in kept:
            kept[read.unit] = self._unit(read.unit, self.required)
        return kept[read.unit]

    def _part(self, read: Read) -> list[Row]:
        unit, first, stop = self.shards.units[read.unit], int(read.rows[0]), int(read.rows[-1]) + 1
        if self.cache is not None and (unit.bytes <= WHOLE or len(read.rows) == unit.rows):
            found, first = self._unit(read.unit), 0
        else:
            found = self._rows(read.unit, first, stop)
        return [found[row] for row in (read.rows - first).tolist()]

    def _unit(self, number: int, required: bool = False) -> Sequence[Row]:
        """All rows of a unit, through the cache if there is one; if `required`, DataError unless they are stored."""
        unit = self.shards.units[number]
        read = partial(self._rows, number, 0, unit.rows)
        if self.cache is None:
            return read()
        return self.cache.rows(f"{unit.file} {unit.start} {unit.stop}", read, required)

    def _rows(self, number: int, first: int, stop: int) -> list[Row]:
        unit, opened = self.shards.units[number], self.opened.pop(number, None)
        if opened is None or opened.position > first:
            opened = self.shards.open(unit, self.sleep)
        found = opened.rows(first, stop)
        if stop < unit.rows and opened.position:
            self.opened[number] = opened
        return load_image_files(found, self.home)


def load_image_files(rows: list[tuple[dict | None, object]], home: str | None = None) -> list[tuple]:
    """The rows, with the content of image files in place of paths; paths outside `home` are refused."""
    paths = [cell["path"] for cell, _ in rows if _is_path(cell)]
    if not paths:
        return rows
    contents = iter(parallel_map(partial(_content, home=home), paths, THREADS))
    return [({**cell, "bytes": next(contents)} if _is_path(cell) else cell, label) for cell, label in rows]


def _is_path(cell: dict | None) -> bool:
    return bool(cell) and cell.get("bytes") is None and cell.get("path") is not None


def _content(path: str, home: str | None) -> bytes | None:
    try:
        return retried(lambda: read_image_file(path, home), f"read {path}", tries=TRIES, patience=PATIENCE)
    except ImageDecodeError:
        return None  # the file does not exist: the Stream raises an error or skips the row
    except (HTTPError, OSError) as error:
        raise read_error(path, error) from error
