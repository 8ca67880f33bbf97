"""The order of a stream as a plan: a pure function of (seed, epoch, processes, batch size, block size)."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ...errors import DataError

UnitSlice = tuple[int, int, int]  # index of the unit, its first row, and the row after the last one
# keys of the independent random streams
UNIT_ORDER, BLOCK_SHUFFLE, ROW_SEEDS = range(3)
SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class StreamPlan:
    """Which rows of which units this rank reads, and in which order.

    In each epoch the units are permuted, in the same order on all ranks, and the sequence of their rows starts at a
    random row. Of the N rows, rank r reads rows r S to (r + 1) S of this sequence, where
    S = N // (world * batch_size) * batch_size: ranks are disjoint and equally long, and fewer than world * batch_size
    rows are dropped, different ones in each epoch. The rows of a rank are cut into blocks of `block` rows and
    shuffled within a block. The number of loader workers has no effect.
    """

    rows: Sequence[int] | None  # of each unit; None if unknown, then the plan has no length
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    block: int = 2048

    def __post_init__(self):
        if self.batch_size < 1 or self.block < 1 or not 0 <= self.rank < self.world:
            raise DataError(
                f"batch_size={self.batch_size}, block={self.block}, rank={self.rank}, world={self.world}: need "
                "batch_size >= 1, block >= 1, 0 <= rank < world."
            )
        total, needed = sum(self.rows or ()), self.world * self.batch_size
        if self.rows is not None and total < needed:
            raise DataError(
                f"{total} rows do not fill one batch of {self.batch_size} on each of {self.world} process(es), which "
                f"takes {needed}: choose a batch size of at most {total // self.world}, fewer processes, or a larger "
                "split."
            )

    def __len__(self) -> int:
        """Batches of each rank in an epoch."""
        return sum(self.rows) // (self.world * self.batch_size)

    def blocks(self, epoch: int) -> list[list[UnitSlice]]:
        """The unit slices of each block of this rank, in the order in which they are read."""
        rng = self._rng(UNIT_ORDER, epoch)
        units = [int(unit) for unit in rng.permutation(len(self.rows)) if self.rows[unit]]
        ends = list(accumulate(self.rows[unit] for unit in units))
        span = len(self) * self.batch_size
        begin = int(rng.integers(ends[-1])) + self.rank * span
        return [
            _slices(units, ends, begin + start, min(self.block, span - start)) for start in range(0, span, self.block)
        ]

    def shuffled(self, epoch: int, block: int, count: int) -> list[int]:
        """The permutation of the `count` rows of a block."""
        return self._rng(BLOCK_SHUFFLE, epoch, self.rank, block).permutation(count).tolist()

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, *key))))


def row_seeds(seed: int, epoch: int, rows: np.ndarray) -> list[int]:
    """A seed for the transform of each row: 62 bits that depend on (seed, epoch, row) alone, by splitmix64."""
    [start] = np.random.SeedSequence((seed, ROW_SEEDS, epoch)).generate_state(1, np.uint64)
    with np.errstate(over="ignore"):
        x = start + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(SPLITMIX_INCREMENT)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(2)).tolist()


def _slices(units: list[int], ends: list[int], begin: int, count: int) -> list[UnitSlice]:
    """The unit slices that hold `count` rows from row `begin` of the sequence, which wraps around at its end."""
    slices = []
    while count:
        begin %= ends[-1]
        number = bisect_right(ends, begin)
        first = begin - (ends[number - 1] if number else 0)
        taken = min(count, ends[number] - begin)
        slices.append((units[number], first, first + taken))
        begin, count = begin + taken, count - taken
    return slices
