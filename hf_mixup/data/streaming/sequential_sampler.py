"""Batch samplers of a stream without row counts, which is read from its start."""

import logging
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice

import datasets
import numpy as np
from torch.utils.data import Sampler

from ...errors import DataError
from .order import StreamPlan, row_seeds
from .planned_sampler import EncodedRow, defer_errors, load_image_files
from .prefetch import prefetch

logger = logging.getLogger(__name__)

ROWS_PER_READ = 64


class SequentialSampler(Sampler):
    """Yields batches as PlannedSampler does, without end: a stream of unknown length is read pass after pass.

    Each pass permutes the shards, in the same order on all ranks. Of each `world * batch_size` rows, each rank takes
    every world-th row; an incomplete group at the end is dropped. The rows of a rank are shuffled in blocks.
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        columns: tuple[str, str | None],
        plan: StreamPlan,
        home: str | None = None,
    ):
        self.stream, self.columns, self.plan, self.home = stream.decode(False), columns, plan, home
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: an epoch has no length, and the sampler counts its passes."""

    def start(self, epoch: int, skipped: int = 0) -> None:
        """Call `set_epoch`; `skipped` has no effect, because skipped batches must be read as well."""
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[EncodedRow] | DataError]:
        return defer_errors(self._batches())

    def _batches(self) -> Iterator[list[EncodedRow]]:
        for epoch in count(self.epoch):
            with closing(self._pass(epoch)) as batches:
                empty = True
                for batch in batches:
                    empty = False
                    yield batch
            if empty:
                raise DataError(
                    f"The stream does not fill one batch of {self.plan.batch_size} on each of {self.plan.world} "
                    "process(es): choose a smaller batch size, or a larger split."
                )

    def _pass(self, epoch: int) -> Iterator[list[EncodedRow]]:
        """The full batches of one pass."""
        with closing(prefetch(lambda sleep: self._blocks(epoch))) as blocks:
            rows = (row for block in blocks for row in block)
            while len(batch := list(islice(rows, self.plan.batch_size))) == self.plan.batch_size:
                yield batch

    def _blocks(self, epoch: int) -> Iterator[list[EncodedRow]]:
        """This rank's rows of one pass, shuffled in blocks."""
        with closing(self._rank_rows(epoch)) as rows:
            for number in count():
                block = list(islice(rows, self.plan.block))
                if not block:
                    return
                cells = load_image_files([(row.cell, row.label) for row in block], self.home)
                order = self.plan.shuffled(epoch, number, len(block))
                seeds = row_seeds(self.plan.seed, epoch, np.array([row.row for row in block]))
                yield [EncodedRow(*cells[i], seeds[i], None, block[i].number, block[i].row) for i in order]

    def _rank_rows(self, epoch: int) -> Iterator[EncodedRow]:
        """This rank's rows of one pass, in the order of the stream."""
        group, world = [], self.plan.world
        self.stream.set_epoch(1 + int(np.random.SeedSequence((self.plan.seed, epoch)).generate_state(1)[0]))
        number, image, label = 0, *self.columns
        # `iter`, because plain iteration in a loader worker would read only the worker's share of the shards
        for part in self.stream.iter(ROWS_PER_READ):
            labels = [None] * len(part[image]) if label is None else part[label]
            for cell, value in zip(part[image], labels, strict=True):
                if number % world == self.plan.rank:
                    group.append(EncodedRow(cell, value, 0, None, number, number))
                number += 1
                if number % (world * self.plan.batch_size) == 0:
                    yield from group  # only once the batch is complete on every rank
                    group = []


class SizedSequentialSampler(SequentialSampler):
    """A SequentialSampler of a stream of known length: one pass per epoch, equally long on every rank."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, that is the pass, of the next iteration."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def _batches(self) -> Iterator[list[EncodedRow]]:
        with closing(self._pass(self.epoch)) as batches:
            done = 0
            for batch in islice(batches, len(self)):
                yield batch
                done += 1
            if next(batches, None) is not None:
                logger.warning(
                    "The stream has more rows than num_examples=%d: the others are not read. Correct num_examples.",
                    sum(self.plan.rows),
                )
        if done < len(self):
            raise DataError(
                f"num_examples={sum(self.plan.rows)}, but the stream ended after {done} of {len(self)} batches of "
                f"{self.plan.batch_size} on each of {self.plan.world} process(es): correct num_examples."
            )
