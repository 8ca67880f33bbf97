"""A batch sampler that reads: it yields batches of encoded rows, which a background thread reads ahead."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np
from torch.utils.data import Sampler

from ...errors import DataError
from .disk_cache import DiskCache, Row
from .order import Read, StreamPlan, row_seeds
from .prefetch import prefetch
from .remote_files import Sleep
from .shards import Shards
from .unit_reader import THREADS, UnitReader
from .units import UnitSizes

PREFETCH_BYTES = 2**26  # of units that are read at the same time


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

    def __init__(self, shards: Shards, plan: StreamPlan, home: str | None = None, cache: DiskCache | None = None):
        self.shards, self.plan, self.home, self.cache = shards, plan, home, cache
        self.start(0)
        self.watch = iter  # a function of the iterator of batches that returns one
        self.kept: dict[int, Sequence[Row]] = {}  # the rows of each unit, if the split is resident

    def start(self, epoch: int, empty: int = 0, done: int | None = None, left: np.ndarray | None = None) -> None:
        """Set the epoch of the next iteration. Its first `empty` batches are empty, since they will be discarded; then
        come those after the first `done` ones (None: `empty`), of all rows or of those with the numbers `left`."""
        self.epoch, self.empty, self.done, self.left = int(epoch), empty, empty if done is None else done, left

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; what `start` set for the same epoch stays."""
        if epoch != self.epoch:
            self.start(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[EncodedRow] | DataError]:
        return defer_errors(self.watch(self._batches()))

    def _batches(self) -> Iterator[list[EncodedRow]]:
        epoch, empty, done, left = self.epoch, min(self.empty, len(self)), self.done, self.left
        self.start(epoch)
        yield from ([] for _ in range(empty))
        reads, draws = self.plan.epoch(epoch, done, left)
        read_count, held = 0, {}
        with closing(self._read(reads)) as parts:
            for needed, numbers in islice(draws, len(self) - empty):
                for read, rows in islice(parts, needed - read_count):
                    if not self.plan.resident:
                        held |= zip((read.rows + self.plan.first_rows[read.unit]).tolist(), rows, strict=True)
                read_count = needed
                yield self._encoded(epoch, numbers, held)

    def _read(self, reads: list[Read]) -> Iterator[tuple[Read, Sequence[Row]]]:
        """Each read with its rows; a thread reads ahead."""

        def groups(sleep: Sleep) -> Iterator[zip]:
            reader = UnitReader(self.shards, self.plan.memory, sleep, self.home, self.cache)
            for group in _groups(reads, self.plan.units):
                yield zip(group, reader.read(group, self.kept if self.plan.resident else None))

        with closing(prefetch(groups)) as fetched:
            for group in fetched:
                yield from group

    def _encoded(self, epoch: int, numbers: np.ndarray, held: dict[int, Row]) -> list[EncodedRow]:
        """The rows with these numbers in the split, taken from `held` or the rows that are kept."""
        seeds, first_rows = row_seeds(self.plan.seed, epoch, numbers), self.plan.first_rows
        units = np.searchsorted(first_rows, numbers, side="right") - 1
        found = []
        for number, unit, seed, place in zip(
            numbers.tolist(), units.tolist(), seeds, (numbers - first_rows[units]).tolist()
        ):
            row = self.kept[unit][place] if self.plan.resident else held.pop(number)
            source = self.shards.units[unit]
            found.append(EncodedRow(*row, seed, source.file, source.first + place, number))
        return found


def _groups(reads: list[Read], units: UnitSizes) -> Iterator[list[Read]]:
    """The reads, in groups of up to THREADS reads and PREFETCH_BYTES bytes that are read at the same time."""
    group, size = [], 0
    for read in reads:
        if group and (len(group) == THREADS or size + units.bytes[read.unit] > PREFETCH_BYTES):
            yield group
            group, size = [], 0
        group.append(read)
        size += units.bytes[read.unit]
    if group:
        yield group
