"""The order of a stream as a plan: a pure function of (seed, epoch, processes, batch size, block size)."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ...errors import DataError

Piece = tuple[int, int, int]  # unit, its first row that is meant, and the one after the last
ORDER, SHUFFLE, ROWS = range(3)  # streams of numbers
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class StreamPlan:
    """Which rows of which units this rank sees, and when.

    Units are put in a new order each epoch, alike on all ranks, and the sequence of their rows begins at a random
    place. Of its N rows, rank r takes those from r S to (r + 1) S, where S = N // (world * batch_size) * batch_size:
    so ranks are disjoint and equally long, and fewer than world * batch_size rows are left out, others each epoch. A
    rank's rows are cut into blocks of `block` rows, and shuffled inside a block. Loader workers have no part in it.
    """

    rows: Sequence[int] | None  # of each unit; None where nobody knows, and the plan has no length
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
        """The batches of each rank in an epoch."""
        return sum(self.rows) // (self.world * self.batch_size)

    def blocks(self, epoch: int) -> list[list[Piece]]:
        """The pieces of each block of this rank, in the order in which they are read."""
        rng = self._rng(ORDER, epoch)
        units = [int(unit) for unit in rng.permutation(len(self.rows)) if self.rows[unit]]
        ends = list(accumulate(self.rows[unit] for unit in units))
        span = len(self) * self.batch_size
        begin = int(rng.integers(ends[-1])) + self.rank * span
        return [
            _pieces(units, ends, begin + start, min(self.block, span - start)) for start in range(0, span, self.block)
        ]

    def shuffled(self, epoch: int, block: int, count: int) -> list[int]:
        """The order of the `count` rows of a block."""
        return self._rng(SHUFFLE, epoch, self.rank, block).permutation(count).tolist()

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, *key))))


def row_seeds(seed: int, epoch: int, rows: np.ndarray) -> list[int]:
    """A seed for the transform of each row: 62 bits that depend on (seed, epoch, row) alone, by splitmix64."""
    [start] = np.random.SeedSequence((seed, ROWS, epoch)).generate_state(1, np.uint64)
    with np.errstate(over="ignore"):
        x = start + (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(2)).tolist()


def _pieces(units: list[int], ends: list[int], begin: int, count: int) -> list[Piece]:
    """The parts of units that hold `count` rows from place `begin` of their sequence on, which goes round."""
    pieces = []
    while count:
        begin %= ends[-1]
        number = bisect_right(ends, begin)
        first = begin - (ends[number - 1] if number else 0)
        taken = min(count, ends[number] - begin)
        pieces.append((units[number], first, first + taken))
        begin, count = begin + taken, count - taken
    return pieces
