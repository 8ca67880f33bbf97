"""Batch samplers of a stream without row counts, which is read from its start."""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice

import datasets
import numpy as np
from torch.utils.data import Sampler

from ...errors import DataError
from .order import check_share, row_seeds
from .planned_sampler import EncodedRow, defer_errors
from .prefetch import prefetch
from .unit_reader import load_image_files
from .units import ROW_BYTES

logger = logging.getLogger(__name__)

ROWS_PER_READ, AHEAD = 64, 4  # batches that are drawn ahead


@dataclass(frozen=True)
class Share:
    """The rows of this rank: of each `world * batch_size` rows, every world-th one. `rows`: of the stream, if known."""

    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    rows: int | None = None

    def __post_init__(self):
        if self.rows is not None:
            check_share(self.rows, self.batch_size, self.rank, self.world)


class SequentialSampler(Sampler):
    """Yields batches as PlannedSampler does, without end: a stream of unknown length is read pass after pass.

    Each pass permutes the shards, in the same order on all ranks. Of each `world * batch_size` rows, each rank takes
    every world-th row; an incomplete group at the end is dropped. A rank draws its batches at random from a buffer of
    at most `memory` bytes of encoded images.
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        columns: tuple[str, str | None],
        share: Share,
        memory: int,
        home: str | None = None,
    ):
        self.stream, self.columns, self.share, self.home = stream.decode(False), columns, share, home
        self.memory, self.epoch = memory, 0
        self.watch = iter  # a function of the iterator of batches that returns one

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: an epoch has no length, and the sampler counts its passes."""

    def start(self, epoch: int, *_: object) -> None:
        """Call `set_epoch`; skipped batches must be read as well."""
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[EncodedRow] | DataError]:
        return defer_errors(self.watch(self._batches()))

    def _batches(self) -> Iterator[list[EncodedRow]]:
        for epoch in count(self.epoch):
            with closing(self._pass(epoch)) as batches:
                empty = True
                for batch in batches:
                    empty = False
                    yield batch
            if empty:
                raise DataError(
                    f"The stream does not fill one batch of {self.share.batch_size} on each of {self.share.world} "
                    "process(es): choose a smaller batch size, or a larger split."
                )

    def _pass(self, epoch: int) -> Iterator[list[EncodedRow]]:
        """The full batches of one pass, which a thread draws ahead."""
        with closing(prefetch(lambda sleep: self._drawn(epoch), AHEAD)) as batches:
            yield from batches

    def _drawn(self, epoch: int) -> Iterator[list[EncodedRow]]:
        """The full batches of one pass, drawn from a buffer that the rows pass through."""
        size, rng = self.share.batch_size, np.random.default_rng((self.share.seed, epoch, self.share.rank))
        buffer, held, empty = [], 0, False
        with closing(self._rank_rows(epoch)) as rows:
            while True:
                while not empty and (held < self.memory or len(buffer) < size):
                    read = self._read(list(islice(rows, ROWS_PER_READ)), epoch)
                    buffer, held, empty = buffer + read, held + sum(map(row_bytes, read)), not read
                if len(buffer) < size:
                    return
                batch = []
                for place in rng.integers(np.arange(len(buffer), len(buffer) - size, -1)).tolist():
                    buffer[place], buffer[-1] = buffer[-1], buffer[place]
                    batch.append(buffer.pop())
                held -= sum(map(row_bytes, batch))
                yield batch

    def _read(self, rows: list[EncodedRow], epoch: int) -> list[EncodedRow]:
        """The rows with the content of image files and with seeds."""
        if not rows:
            return []
        cells = load_image_files([(row.cell, row.label) for row in rows], self.home)
        seeds = row_seeds(self.share.seed, epoch, np.array([row.row for row in rows]))
        return [EncodedRow(*cell, seed, None, row.number, row.row) for cell, seed, row in zip(cells, seeds, rows)]

    def _rank_rows(self, epoch: int) -> Iterator[EncodedRow]:
        """This rank's rows of one pass, in the order of the stream."""
        group, world = [], self.share.world
        self.stream.set_epoch(1 + int(np.random.SeedSequence((self.share.seed, epoch)).generate_state(1)[0]))
        number, image, label = 0, *self.columns
        # `iter`, because plain iteration in a loader worker would read only the worker's share of the shards
        for part in self.stream.iter(ROWS_PER_READ):
            labels = [None] * len(part[image]) if label is None else part[label]
            for cell, value in zip(part[image], labels, strict=True):
                if number % world == self.share.rank:
                    group.append(EncodedRow(cell, value, 0, None, number, number))
                number += 1
                if number % (world * self.share.batch_size) == 0:
                    yield from group  # only once the batch is complete on every rank
                    group = []


def row_bytes(row: EncodedRow) -> int:
    """The bytes of a row in memory."""
    return len((row.cell or {}).get("bytes") or b"") + ROW_BYTES


class SizedSequentialSampler(SequentialSampler):
    """A SequentialSampler of a stream of known length: one pass per epoch, equally long on every rank."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, that is the pass, of the next iteration."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.share.rows // (self.share.world * self.share.batch_size)

    def _batches(self) -> Iterator[list[EncodedRow]]:
        with closing(self._pass(self.epoch)) as batches:
            done = 0
            for batch in islice(batches, len(self)):
                yield batch
                done += 1
            if next(batches, None) is not None:
                logger.warning(
                    "The stream has more rows than num_examples=%d: the others are not read. Correct num_examples.",
                    self.share.rows,
                )
        if done < len(self):
            raise DataError(
                f"num_examples={self.share.rows}, but the stream ended after {done} of {len(self)} batches of "
                f"{self.share.batch_size} on each of {self.share.world} process(es): correct num_examples."
            )
