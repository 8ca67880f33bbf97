"""A streamed split as a torch IterableDataset of ready batches, shuffled and split over ranks."""

import logging
from collections.abc import Iterator
from itertools import islice

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .columns import bad_label
from .errors import DataError
from .images import centre
from .transforms import Transform, Undecodable, borrowed_generators, decode

logger = logging.getLogger(__name__)

# Rows taken from the stream at once.
READ = 64
Row = tuple[int, dict | None, object]


class Stream(IterableDataset):
    """Batches `{"pixel_values": uint8 (B, 3, size, size), "labels": int64 (B,)}`: give DataLoader `batch_size=None`.

    The order is a function of (seed, epoch): shards are permuted, and a buffer of `buffer_size` encoded images shuffles
    their rows. Ranks are disjoint. With `num_examples` every rank gives `len(stream)` = num_examples // (world *
    batch_size) batches, and reads its own shards where their number divides by `world` (if those hold too few rows, it
    begins them again). Otherwise each rank reads all and takes every world-th row, and a last batch that is incomplete
    on any rank is dropped. Any number of workers gives the same batches: worker w of W decodes batches w, w + W, ...
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        image_column: str,
        label_column: str,
        size: int,
        batch_size: int,
        *,
        classes: list[str],
        seed: int,
        rank: int = 0,
        world: int = 1,
        num_examples: int | None = None,
        buffer_size: int = 1000,
        prepare: Transform | None = None,
        transform: Transform | None = None,
        skip_corrupt: bool = False,
    ):
        self.dataset = dataset.decode(False)
        self.image_column, self.label_column, self.classes = image_column, label_column, classes
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.buffer_size, self.skip_corrupt, self.num_examples = buffer_size, skip_corrupt, num_examples
        self.batches = _batches(num_examples, batch_size, world)
        self.by_shard = self.batches is not None and dataset.num_shards % world == 0
        self.random = transform is not None
        self.transform = transform or prepare or centre(size, size)
        self.numbers = {name: number for number, name in enumerate(classes)}
        self.bad = torch.zeros((), dtype=torch.int64).share_memory_()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives the order of this epoch."""
        self.epoch = int(epoch)

    @property
    def skipped(self) -> int:
        """The number of images left out so far because they do not decode."""
        return int(self.bad)

    def __len__(self) -> int:
        if self.batches is None:
            raise TypeError("The length of this stream is not known: pass num_examples=..., or train with max_steps.")
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        rows = self._passes()
        number = 0
        while self.batches is None or number < self.batches:
            batch = list(islice(rows, self.batch_size))
            if len(batch) < self.batch_size:
                self._check_end(number)
                return
            if number % step == first:
                yield self._decode(batch, number)
            number += 1

    def _check_end(self, number: int) -> None:
        if self.batches is not None:
            raise DataError(
                f"num_examples={self.num_examples}, but the stream ended after {number} of {self.batches} batches of "
                f"{self.batch_size} on each of {self.world} process(es): give the number of rows there are."
            )

    def _passes(self) -> Iterator[Row]:
        """This rank's rows in shuffled order: one pass, and further ones where its own shards hold too few rows."""
        yield from self._shuffled(self._pass(), 0)
        again = 0
        while self.by_shard:
            again += 1
            logger.warning("Rank %d begins its shards again: they hold fewer rows than its share.", self.rank)
            rows = list(islice(self._shuffled(self._pass(), again), self.batches * self.batch_size))
            if not rows:
                return
            yield from rows

    def _pass(self) -> Iterator[Row]:
        """This rank's rows `(number, cell, label)` in the order of the permuted shards."""
        # The key permutes the shards, alike on all ranks; datasets' own shuffle would add a slow buffer of its own.
        self.dataset.set_epoch(self._key())
        dataset = self.dataset
        if self.by_shard and self.world > 1:
            dataset = split_dataset_by_node(dataset, self.rank, self.world, strategy="shards")
        number, mine = 0, []
        # By `iter` because plain iteration would give each worker process other shards.
        for batch in dataset.iter(READ):
            for cell, label in zip(batch[self.image_column], batch[self.label_column], strict=True):
                if self.by_shard:
                    yield number, cell, label
                elif number % self.world == self.rank:
                    mine.append((number, cell, label))
                number += 1
                if not self.by_shard and number % (self.world * self.batch_size) == 0:
                    # Only once the batch is complete on every rank.
                    yield from mine
                    mine = []

    def _shuffled(self, rows: Iterator[Row], again: int) -> Iterator[Row]:
        """The rows through a buffer: a random one leaves for each that comes."""
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch, self.rank, again)))
        buffer = list(islice(rows, self.buffer_size))
        for row in rows:
            place = int(rng.integers(len(buffer)))
            leaving, buffer[place] = buffer[place], row
            yield leaving
        for place in rng.permutation(len(buffer)):
            yield buffer[place]

    def _key(self) -> int:
        return 1 + int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0])

    def _decode(self, batch: list[Row], number: int) -> dict[str, Tensor]:
        """The batch as tensors; in the place of a bad image that is skipped stands the next good one of the batch."""
        seeds = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch, self.rank, 1, number)))
        seeds = seeds.integers(2**62, size=len(batch)).tolist()
        images = [self._image(row, seed) for row, seed in zip(batch, seeds, strict=True)]
        labels = [self._label(row) for row in batch]
        good = [place for place, image in enumerate(images) if image is not None]
        if not good:
            raise DataError(
                f"None of the {len(batch)} images of a batch can be read: check column {self.image_column!r}."
            )
        places = [next((other for other in good if other >= place), good[0]) for place in range(len(batch))]
        return {
            "pixel_values": torch.stack([images[place] for place in places]),
            "labels": torch.tensor([labels[place] for place in places]),
        }

    def _image(self, row: Row, seed: int) -> Tensor | None:
        number, cell, _ = row
        try:
            image = decode(cell)
        except Undecodable as error:
            place = (
                f"Row {number} of this pass (epoch {self.epoch}, rank {self.rank}, path {(cell or {}).get('path')!r})"
            )
            if not self.skip_corrupt:
                raise DataError(
                    f"{place} is no image that can be read ({error}). Replace it, or pass skip_corrupt=True to leave "
                    "such rows out."
                ) from error
            if not self.skipped:
                logger.warning("%s cannot be read and is skipped, as further ones will be: see `skipped`.", place)
            self.bad += 1
            return None
        if not self.random:
            return self.transform(image)
        with borrowed_generators(seed):
            return self.transform(image)

    def _label(self, row: Row) -> int:
        number, _, label = row
        known = self.numbers.get(label) if isinstance(label, str) else label
        if known is None or not 0 <= known < len(self.classes):
            raise DataError(bad_label(label, f"Row {number} of this pass (epoch {self.epoch})", self.classes))
        return int(known)


def _batches(num_examples: int | None, batch_size: int, world: int) -> int | None:
    """The batches of each rank, None if the number of rows is not known."""
    if num_examples is None:
        return None
    if num_examples < world * batch_size:
        raise DataError(
            f"num_examples={num_examples} do not fill one batch of {batch_size} on each of {world} process(es): choose "
            f"a batch size of at most {num_examples // world}."
        )
    return num_examples // (world * batch_size)


class StreamLoader(DataLoader):
    """The ready batches of a `Stream`, with `set_epoch`."""

    def __init__(self, stream: Stream, num_workers: int = 0, pin_memory: bool = False):
        # its own generator: a DataLoader without one draws from the global one each epoch
        rng = torch.Generator()
        super().__init__(stream, batch_size=None, num_workers=num_workers, pin_memory=pin_memory, generator=rng)

    def set_epoch(self, epoch: int) -> None:
        """Forwards the epoch to the stream."""
        self.dataset.set_epoch(epoch)
