"""A batch sampler that reads: it yields batches of encoded rows, which a background thread reads one block ahead."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat

import numpy as np
from huggingface_hub.errors import HTTPError
from torch.utils.data import Sampler

from ...errors import DataError
from ...hub.retry import retried
from ..transforms import ImageDecodeError, read_image_file
from .order import StreamPlan, UnitSlice, row_seeds
from .prefetch import parallel_map, prefetch
from .remote_files import PATIENCE, TRIES, Sleep, read_error
from .shards import Shards

THREADS = 8  # units read at the same time


@dataclass(frozen=True)
class EncodedRow:
    """A row as it is stored, not decoded."""

    cell: dict | None
    label: object
    seed: int
    file: str | None  # None if the source is not Shards
    number: int  # row number in `file`, or in the pass if `file` is None
    row: int  # row number in the split, or in the pass if `file` is None


def defer_errors(batches: Iterator[list[EncodedRow]]) -> Iterator[list[EncodedRow] | DataError]:
    """The batches. A DataError is yielded in place of a batch, and the Stream raises it.

    The sampler runs ahead of the loader workers: an error raised here would reach the user before earlier batches do.
    """
    try:
        yield from batches
    except DataError as error:
        yield from repeat(error)


class PlannedSampler(Sampler):
    """Yields this rank's batches of the current epoch as lists of EncodedRow, in the order of a StreamPlan."""

    def __init__(self, shards: Shards, plan: StreamPlan, home: str | None = None):
        self.shards, self.plan, self.home = shards, plan, home
        self.first_rows = np.cumsum([0, *plan.rows])[:-1]
        self.epoch = self.skipped = 0

    def start(self, epoch: int, skipped: int = 0) -> None:
        """Set the epoch of the next iteration. Its first `skipped` batches are empty, since they will be discarded."""
        self.epoch, self.skipped = int(epoch), skipped

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; `skipped` batches set by `start` for the same epoch stay skipped."""
        if epoch != self.epoch:
            self.start(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[EncodedRow] | DataError]:
        return defer_errors(self._batches())

    def _batches(self) -> Iterator[list[EncodedRow]]:
        skipped, self.skipped = min(self.skipped, len(self)), 0
        size, epoch = self.plan.batch_size, self.epoch
        yield from ([] for _ in range(skipped))
        with closing(self._rows(epoch, skipped * size)) as rows:
            for _ in range(skipped, len(self)):
                yield list(islice(rows, size))

    def _rows(self, epoch: int, skipped: int) -> Iterator[EncodedRow]:
        """The rank's rows after the first `skipped` ones; blocks that are skipped entirely are not read."""
        first, inside = divmod(skipped, self.plan.block)
        blocks = list(enumerate(self.plan.blocks(epoch)))[first:]

        def read_blocks(sleep: Sleep) -> Iterator[list[EncodedRow]]:
            reader = UnitReader(self.shards, sleep, self.home)
            for number, slices in blocks:
                rows = [row for rows in parallel_map(reader.rows, slices, THREADS) for row in rows]
                yield self._encoded(epoch, number, slices, rows)

        with closing(prefetch(read_blocks)) as fetched:
            for block in fetched:
                yield from islice(block, inside, None)
                inside = 0

    def _encoded(self, epoch: int, number: int, slices: list[UnitSlice], rows: list) -> list[EncodedRow]:
        """The `rows` of block `number`, which are those of its unit slices, shuffled and with seeds."""
        order = self.plan.shuffled(epoch, number, len(rows))
        units = [(self.shards.units[unit], self.first_rows[unit], first, stop) for unit, first, stop in slices]
        locations = [(unit.file, unit.first + row) for unit, _, first, stop in units for row in range(first, stop)]
        row_numbers = np.concatenate([np.arange(first, stop) + start for _, start, first, stop in units])
        seeds = row_seeds(self.plan.seed, epoch, row_numbers)
        return [EncodedRow(*rows[i], seeds[i], *locations[i], int(row_numbers[i])) for i in order]


class UnitReader:
    """Reads unit slices. A unit that was read partly stays open for the next block, which continues with it."""

    def __init__(self, shards: Shards, sleep: Sleep = time.sleep, home: str | None = None):
        self.shards, self.sleep, self.home, self.open_units = shards, sleep, home, {}

    def rows(self, unit_slice: UnitSlice) -> list:
        """The pairs of cell and label of a unit slice; safe to call from several threads."""
        number, first, stop = unit_slice
        unit = self.shards.units[number]
        opened = self.open_units.pop(number, None)
        if opened is None or opened.position > first:
            opened = self.shards.open(unit, self.sleep)
        rows = opened.rows(first, stop)
        if stop < unit.rows:
            self.open_units[number] = opened
        return load_image_files(rows, self.home)


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
