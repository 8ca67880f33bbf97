"""The batch sampler of a stream whose files do not tell how many rows they hold: all is read, from its start."""

import logging
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice

import datasets
import numpy as np
from torch.utils.data import Sampler

from ...errors import DataError
from .order import StreamPlan, row_seeds
from .planned_sampler import Encoded, failing_in_turn, filled
from .prefetch import ahead

logger = logging.getLogger(__name__)

READ = 64  # rows asked of the stream at once


class EndlessSampler(Sampler):
    """As PlannedSampler, of a stream whose files do not tell their rows: read from its start, pass after pass.

    In each pass the shards are in another order, alike on all ranks. Of each `world * batch_size` rows that come, each
    rank takes every world-th one, and the last ones that are fewer are left out. A rank's rows are shuffled in blocks.
    """

    def __init__(
        self, stream: datasets.IterableDataset, columns: tuple[str, str], plan: StreamPlan, home: str | None = None
    ):
        self.stream, self.columns, self.plan, self.home = stream.decode(False), columns, plan, home
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Nothing: passes are counted here, since an epoch has no length."""

    def start(self, epoch: int, skipped: int = 0) -> None:
        """As `set_epoch`: what is skipped has to be read."""
        self.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Encoded] | DataError]:
        return failing_in_turn(self._batches())

    def _batches(self) -> Iterator[list[Encoded]]:
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

    def _pass(self, epoch: int) -> Iterator[list[Encoded]]:
        with closing(ahead(lambda pause: self._blocks(epoch))) as blocks:
            rows = (row for block in blocks for row in block)
            while len(batch := list(islice(rows, self.plan.batch_size))) == self.plan.batch_size:
                yield batch

    def _blocks(self, epoch: int) -> Iterator[list[Encoded]]:
        """This rank's rows of one pass, shuffled in blocks."""
        with closing(self._mine(epoch)) as mine:
            for number in count():
                block = list(islice(mine, self.plan.block))
                if not block:
                    return
                cells = filled([(row.cell, row.label) for row in block], self.home)
                order = self.plan.shuffled(epoch, number, len(block))
                seeds = row_seeds(self.plan.seed, epoch, np.array([row.row for row in block]))
                yield [Encoded(*cells[i], seeds[i], None, block[i].number, block[i].row) for i in order]

    def _mine(self, epoch: int) -> Iterator[Encoded]:
        group, world = [], self.plan.world
        self.stream.set_epoch(1 + int(np.random.SeedSequence((self.plan.seed, epoch)).generate_state(1)[0]))
        number, image, label = 0, *self.columns
        # by `iter`, because plain iteration in a worker process would give it other shards
        for part in self.stream.iter(READ):
            for cell, value in zip(part[image], part[label], strict=True):
                if number % world == self.plan.rank:
                    group.append(Encoded(cell, value, 0, None, number, number))
                number += 1
                if number % (world * self.plan.batch_size) == 0:
                    yield from group  # only once the batch is complete on every rank
                    group = []


class PassSampler(EndlessSampler):
    """An EndlessSampler whose number of rows was told: one pass an epoch, as long on every rank."""

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is the pass of this epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def _batches(self) -> Iterator[list[Encoded]]:
        with closing(self._pass(self.epoch)) as batches:
            given = 0
            for batch in islice(batches, len(self)):
                yield batch
                given += 1
            if next(batches, None) is not None:
                logger.warning(
                    "num_examples=%d is less than the stream holds: the rest of it is never seen.", sum(self.plan.rows)
                )
        if given < len(self):
            raise DataError(
                f"The stream was said to have {sum(self.plan.rows)} rows, but ended after {given} of {len(self)} "
                f"batches of {self.plan.batch_size} on each of {self.plan.world} process(es): give num_examples the "
                "number of rows there are."
            )
