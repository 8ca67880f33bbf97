"""A batch sampler that reads: lists of encoded rows for the decoder, from a background thread that is a block ahead."""

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
from ..transforms import Undecodable, read
from .order import Piece, StreamPlan, row_seeds
from .prefetch import ahead, in_parallel
from .remote_files import PATIENCE, TRIES, Pause, unreadable
from .shards import Shards

THREADS = 8  # units read at the same time


@dataclass(frozen=True)
class Encoded:
    """A row as it is stored. `number` counts it in its file, or where there is none from the start of the pass."""

    cell: dict | None
    label: object
    seed: int
    file: str | None
    number: int
    row: int  # counted over the split, or over the pass


def failing_in_turn(batches: Iterator[list[Encoded]]) -> Iterator[list[Encoded] | DataError]:
    """The batches; a failure to read them stands in the place of a batch, for the decoder to raise."""
    try:
        yield from batches
    except DataError as error:
        yield from repeat(error)  # raised here, it would overtake the batches before it


class PlannedSampler(Sampler):
    """One list of `Encoded` a batch, of this rank's batches of the epoch last set, in the order of a StreamPlan."""

    def __init__(self, shards: Shards, plan: StreamPlan, home: str | None = None):
        self.shards, self.plan, self.home = shards, plan, home
        self.first_rows = np.cumsum([0, *plan.rows])[:-1]
        self.epoch = self.skipped = 0

    def start(self, epoch: int, skipped: int = 0) -> None:
        """The next iteration is of this epoch. Its first so many batches will be thrown away: they come empty."""
        self.epoch, self.skipped = int(epoch), skipped

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is of this epoch, from its start unless `start` said otherwise of the same epoch."""
        if epoch != self.epoch:
            self.start(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[Encoded] | DataError]:
        return failing_in_turn(self._batches())

    def _batches(self) -> Iterator[list[Encoded]]:
        skipped, self.skipped = min(self.skipped, len(self)), 0
        size, epoch = self.plan.batch_size, self.epoch
        yield from ([] for _ in range(skipped))
        with closing(self._rows(epoch, skipped * size)) as rows:
            for _ in range(skipped, len(self)):
                yield list(islice(rows, size))

    def _rows(self, epoch: int, skipped: int) -> Iterator[Encoded]:
        """The rank's rows but for the first ones, of which whole blocks are not even asked for."""
        first, inside = divmod(skipped, self.plan.block)
        blocks = list(enumerate(self.plan.blocks(epoch)))[first:]

        def make(pause: Pause) -> Iterator[list[Encoded]]:
            reader = UnitReader(self.shards, pause, self.home)
            for number, pieces in blocks:
                rows = [row for rows in in_parallel(reader.rows, pieces, THREADS) for row in rows]
                yield self._encoded(epoch, number, pieces, rows)

        with closing(ahead(make)) as read_blocks:
            for block in read_blocks:
                yield from islice(block, inside, None)
                inside = 0

    def _encoded(self, epoch: int, number: int, pieces: list[Piece], rows: list) -> list[Encoded]:
        order = self.plan.shuffled(epoch, number, len(rows))
        units = [(self.shards.units[unit], self.first_rows[unit], first, stop) for unit, first, stop in pieces]
        names = [(unit.file, unit.first + row) for unit, _, first, stop in units for row in range(first, stop)]
        places = np.concatenate([np.arange(first, stop) + start for _, start, first, stop in units])
        seeds = row_seeds(self.plan.seed, epoch, places)
        return [Encoded(*rows[i], seeds[i], *names[i], int(places[i])) for i in order]


class UnitReader:
    """The rows of pieces of units. A unit that is read in part stays open, for the block that goes on with it."""

    def __init__(self, shards: Shards, pause: Pause = time.sleep, home: str | None = None):
        self.shards, self.pause, self.home, self.left = shards, pause, home, {}

    def rows(self, piece: Piece) -> list:
        """The pairs of cell and label of a piece; safe to call from several threads."""
        number, first, stop = piece
        unit = self.shards.units[number]
        opened = self.left.pop(number, None)
        if opened is None or opened.at > first:
            opened = self.shards.open(unit, self.pause)
        found = opened.rows(first, stop)
        if stop < unit.rows:
            self.left[number] = opened
        return filled(found, self.home)


def filled(rows: list[tuple[dict | None, object]], home: str | None = None) -> list[tuple[dict | None, object]]:
    """The rows with the bytes of images that are stored as files of their own, below `home`."""
    paths = [cell["path"] for cell, _ in rows if _is_path(cell)]
    if not paths:
        return rows
    found = iter(in_parallel(partial(_content, home=home), paths, THREADS))
    return [({**cell, "bytes": next(found)} if _is_path(cell) else cell, label) for cell, label in rows]


def _is_path(cell: dict | None) -> bool:
    return bool(cell) and cell.get("bytes") is None and cell.get("path") is not None


def _content(path: str, home: str | None) -> bytes | None:
    try:
        return retried(lambda: read(path, home), f"read {path}", tries=TRIES, patience=PATIENCE)
    except Undecodable:
        return None  # a missing file: the decoder says so, or leaves the row out
    except (HTTPError, OSError) as error:
        raise unreadable(path, error) from error
