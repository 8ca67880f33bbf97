"""The order of a stream as a plan: a pure function of (units, seed, epoch, processes, batch size, memory)."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from ...errors import DataError
from .rolling_buffer import RollingBuffer
from .units import UnitSizes

# keys of the independent random streams
UNIT_ORDER, SPAN_START, ROW_SEEDS, ROW_SHARES, ROW_DRAWS, LANE_ORDER = range(6)
SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15
LANES = 16  # units of a sequential source that are read by turns
EARLY = 4  # batches to read before the first one is drawn, if every unit holds a mixture of the classes
PIECES, MAX_PIECE = 128, 2**23  # reads that the memory holds at least, and bytes of one read
GROWTH = 1.5  # rows that are then read for each row that is drawn, until the memory is full


@dataclass(frozen=True, eq=False)
class Read:
    """Rows of a unit that are read together; `rows` are ascending row numbers in the unit."""

    unit: int
    rows: np.ndarray


Draw = tuple[int, np.ndarray]  # reads that must be complete, and the rows of the batch as row numbers of the split


@dataclass(frozen=True)
class StreamPlan:
    """Which rows this rank reads, and in which order it draws them.

    In each epoch the units are permuted, in the same order on all ranks. Of the N rows each rank gets
    S = N // (world * batch_size) * batch_size: ranks are disjoint and equally long, and fewer than world * batch_size
    rows are dropped, different ones in each epoch. A rank reads its units one after the other into a rolling buffer of
    at most `memory` bytes, and draws each batch from the buffer at random.

    `resident`: the whole split is kept once it was read. Each rank then reads all units in the first epoch, and later
    epochs are permutations of all rows. The number of loader workers has no effect.
    """

    units: UnitSizes
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    memory: int = 2**30
    resident: bool = False

    def __post_init__(self):
        if self.memory < 1:
            raise DataError(f"memory={self.memory} bytes: give a positive number.")
        check_share(sum(self.units.rows), self.batch_size, self.rank, self.world)

    def __len__(self) -> int:
        """Batches of each rank in an epoch."""
        return sum(self.units.rows) // (self.world * self.batch_size)

    @cached_property
    def first_rows(self) -> np.ndarray:
        """The row number in the split of each unit's first row."""
        return np.cumsum([0, *self.units.rows])[:-1]

    def epoch(self, epoch: int, skipped: int = 0, left: np.ndarray | None = None) -> tuple[list[Read], Iterator[Draw]]:
        """What to read, in this order, and the batches of an epoch after the first `skipped` ones.

        `left`: the row numbers, ascending, that the epoch is restricted to; None for all rows.
        """
        rows = _Rows(self.units.rows, left)
        span = rows.total // (self.world * self.batch_size) * self.batch_size
        if self.resident and epoch:
            return self._permutation(rows, span, epoch, skipped)
        reads = (self._shares if self.resident else self._span)(rows, span, epoch)
        return self._rolling(reads, rows, self._rng(ROW_DRAWS, epoch, self.rank), skipped)

    def _permutation(self, rows: "_Rows", span: int, epoch: int, skipped: int) -> tuple[list[Read], Iterator[Draw]]:
        """A permutation of all rows; the units are read in the order in which they are first needed."""
        order = rows.numbers[self._rng(UNIT_ORDER, epoch).permutation(rows.total)]
        drawn = order[self.rank * span : (self.rank + 1) * span][skipped * self.batch_size :]
        units, places = np.unique(rows.unit_of(drawn), return_index=True)
        first = np.argsort(places)
        ends = np.arange(self.batch_size, len(drawn) + 1, self.batch_size)
        needed = np.searchsorted(places[first], ends).tolist()
        reads = [Read(unit, np.arange(self.units.rows[unit])) for unit in units[first].tolist()]
        return reads, zip(needed, drawn.reshape(-1, self.batch_size))

    def _shares(self, rows: "_Rows", span: int, epoch: int) -> list[Read]:
        """All units, with every world-th row of each."""
        rng, reads = self._rng(ROW_SHARES, epoch), []
        position = int(rng.integers(rows.total))
        for unit in self._order(rows, epoch):
            local = rows.of(unit)
            places = (position + rng.permutation(len(local))) % rows.total
            reads.append(Read(unit, local[(places % self.world == self.rank) & (places < span * self.world)]))
            position += len(local)
        return reads

    def _span(self, rows: "_Rows", span: int, epoch: int) -> list[Read]:
        """The units of this rank: a part of the sequence of all rows, which begins at a random row and wraps around."""
        units = self._order(rows, epoch)
        ends = list(accumulate(rows.counts[unit] for unit in units))
        begin = int(self._rng(SPAN_START, epoch).integers(ends[-1])) + self.rank * span
        reads = []
        while span:
            begin %= ends[-1]
            number = bisect_right(ends, begin)
            first = begin - (ends[number - 1] if number else 0)
            taken = min(span, ends[number] - begin)
            reads.append(Read(units[number], rows.of(units[number])[first : first + taken]))
            begin, span = begin + taken, span - taken
        return self._by_turns(reads, epoch) if self.units.sequential else reads

    def _by_turns(self, reads: list[Read], epoch: int) -> list[Read]:
        """The reads of units that are read from their start, cut into pieces; LANES units are read by turns."""
        if len(reads) > 1 and reads[0].unit == reads[-1].unit:  # the sequence wrapped around inside a unit
            *reads, last = reads
            reads[0] = Read(last.unit, np.concatenate([last.rows, reads[0].rows]))
        rng, pieces = self._rng(LANE_ORDER, epoch), []
        for start in range(0, len(reads), LANES):
            lanes = [self._pieces(read) for read in reads[start : start + LANES]]
            turns = rng.permutation(np.repeat(np.arange(len(lanes)), [len(lane) for lane in lanes]))
            iterators = [iter(lane) for lane in lanes]
            pieces += [next(iterators[lane]) for lane in turns]
        return pieces

    def _pieces(self, read: Read) -> list[Read]:
        """A read as reads of at most `piece_bytes(memory)` each."""
        count = -(-len(read.rows) * self.units.row_bytes(read.unit) // piece_bytes(self.memory))
        return [Read(read.unit, part) for part in np.array_split(read.rows, max(1, min(count, len(read.rows))))]

    def _rolling(
        self, reads, rows: "_Rows", rng: np.random.Generator, skipped: int
    ) -> tuple[list[Read], Iterator[Draw]]:
        """The reads that remain after `skipped` batches, and the batches drawn from the rolling buffer."""
        draws = self._draws(reads, rows, rng, buffer := RollingBuffer())
        done = 0
        for _ in range(skipped):
            done, _ = next(draws)
        held, before = np.sort(buffer.rows), []
        for read in reads[:done]:
            wanted = read.rows[np.isin(read.rows + rows.first[read.unit], held, assume_unique=True)]
            before += [Read(read.unit, wanted)] if len(wanted) else []
        return before + reads[done:], ((count - done + len(before), drawn) for count, drawn in draws)

    def _draws(
        self, reads: list[Read], rows: "_Rows", rng: np.random.Generator, buffer: RollingBuffer
    ) -> Iterator[Draw]:
        """All batches; the number of reads is how many were added to the buffer before."""
        done, added, batches = 0, 0, sum(len(read.rows) for read in reads) // self.batch_size
        for batch in range(batches):
            allowed = self.batch_size * (EARLY + GROWTH * batch) if self.units.mixed else float("inf")
            while done < len(reads):
                read, size = reads[done], self.units.row_bytes(reads[done].unit)
                fits = self.resident or buffer.bytes + len(read.rows) * size <= self.memory
                if buffer.count >= self.batch_size and not (fits and added < allowed):
                    break
                buffer.add(read.rows + rows.first[read.unit], size)
                done, added = done + 1, added + len(read.rows)
            yield done, buffer.draw(self.batch_size, rng)

    def _order(self, rows: "_Rows", epoch: int) -> list[int]:
        """The units that have rows, permuted."""
        order = self._rng(UNIT_ORDER, epoch).permutation(len(rows.counts))
        return [int(unit) for unit in order if rows.counts[unit]]

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, *key))))


class _Rows:
    """The rows of each unit, all or those that are `left`."""

    def __init__(self, counts: tuple[int, ...], left: np.ndarray | None):
        self.ends = np.cumsum(counts)
        self.first, self.left = self.ends - counts, left
        self.counts = counts if left is None else np.diff(np.searchsorted(left, [0, *self.ends])).tolist()
        self.total = sum(self.counts)

    @property
    def numbers(self) -> np.ndarray:
        return np.arange(self.total) if self.left is None else self.left

    def of(self, unit: int) -> np.ndarray:
        """The rows of a unit, as row numbers in the unit."""
        if self.left is None:
            return np.arange(self.counts[unit])
        start, stop = np.searchsorted(self.left, [self.first[unit], self.ends[unit]])
        return self.left[start:stop] - self.first[unit]

    def unit_of(self, rows: np.ndarray) -> np.ndarray:
        """The unit of each row of the split."""
        return np.searchsorted(self.ends, rows, side="right")


def check_share(rows: int, batch_size: int, rank: int, world: int) -> None:
    """DataError unless `rows` rows fill a batch on each rank."""
    if batch_size < 1 or not 0 <= rank < world:
        raise DataError(
            f"batch_size={batch_size}, rank={rank}, world={world}: need batch_size >= 1, 0 <= rank < world."
        )
    if rows < world * batch_size:
        raise DataError(
            f"{rows} rows do not fill one batch of {batch_size} on each of {world} process(es), which takes "
            f"{world * batch_size}: give a per_device_train_batch_size of at most {rows // world}, fewer processes, or "
            "a larger split."
        )


def piece_bytes(memory: int) -> int:
    """The bytes to read at once: small beside the memory, so that a buffer holds rows of many places of the split."""
    return min(max(memory // PIECES, 1), MAX_PIECE)


def row_seeds(seed: int, epoch: int, rows: np.ndarray) -> list[int]:
    """A seed for the transform of each row: 62 bits that depend on (seed, epoch, row) alone, by splitmix64."""
    [start] = np.random.SeedSequence((seed, ROW_SEEDS, epoch)).generate_state(1, np.uint64)
    with np.errstate(over="ignore"):
        x = start + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(SPLITMIX_INCREMENT)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(2)).tolist()
