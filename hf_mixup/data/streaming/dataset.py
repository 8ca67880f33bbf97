"""A streamed split: a Dataset that decodes the encoded rows of its sampler, and its DataLoader."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ...errors import DataError
from ..decode import Decoder
from ..image_paths import ImageDecodeError, shortened
from ..images import THREADS, collate, ignore_sigterm
from ..labels import NONE, Labels, value_encoder
from ..pixel_range import DeepImages
from ..transforms import Transform, borrowed_generators, centre_crop, in_views
from .class_spread import ClassWatch, class_numbers
from .disk_cache import DiskCache
from .order import StreamPlan, piece_bytes
from .planned_sampler import EncodedRow, PlannedSampler
from .sequential_sampler import SequentialSampler, Share, SizedSequentialSampler
from .shards import Shards

logger = logging.getLogger(__name__)

MEMORY = 2**30  # bytes


class Stream(Dataset):
    """A streamed split for a `StreamLoader`: decodes and transforms the encoded rows that the loader's sampler reads.

    `source` is `load_data(streaming=True).train`: `Shards`, read in a planned order that can be resumed at any step, or
    a datasets.IterableDataset if the row counts of its files are not known; `rows` is its length, if known. Batches are
    drawn at random from a buffer of `memory` bytes of encoded images. Images are prepared as by `Images`. `cache`: a
    folder and bytes; the encoded images are kept there for later epochs, and with `Shards` for other processes.

    An image that cannot be decoded raises a DataError that names file and row. With `skip_corrupt`, the next good row
    of its batch replaces it, and `skipped` counts such rows in all worker processes. `home`: `Data.home`; image paths
    outside it are refused. `labels`: `Data.labels`, or `classes`: the class names. `max_pixels`, `deep`, `views`: see
    `Images`. `eval_classes`: `Data.eval_classes`; an epoch without one of them logs a warning, in one process.
    """

    def __init__(
        self,
        source: Shards | datasets.IterableDataset,
        image_column: str,
        label_column: str | None,
        size: int,
        *,
        labels: Labels | None = None,
        classes: Sequence[str] = (),
        rows: int | None = None,
        memory: int = MEMORY,
        cache: tuple[str, int] | None = None,
        prepare: Transform | None = None,
        transform: Transform | None = None,
        skip_corrupt: bool = False,
        home: str | None = None,
        max_pixels: int | None = None,
        deep: DeepImages | None = None,
        eval_classes: dict[int, str] | None = None,
        views: int = 1,
    ):
        if prepare and transform:
            raise DataError("prepare and transform exclude each other: give one of them.")
        self.source, self.columns = source, (image_column, label_column)
        given = NONE if label_column is None else Labels("class", list(classes), len(classes))
        self.label_info = labels or given
        self.encode = None if label_column is None else value_encoder(source.features[label_column], self.label_info)
        self.resumable = isinstance(source, Shards)
        self.rows = len(source) if self.resumable else rows
        self.memory, self.skip_corrupt, self.random = memory, skip_corrupt, transform is not None
        self.eval_classes = eval_classes
        self.home, self.decode = home, Decoder(home, max_pixels, deep or DeepImages())
        self.cache = DiskCache(*cache, source.cache_key()) if cache and self.resumable else None
        self.transform = in_views(transform, views) if transform else prepare or centre_crop(size, size)
        # In shared memory, to count the rows that worker processes cannot decode: a flag per row, so that none counts
        # twice; one counter if rows have no fixed numbers.
        flags, counter = (self.rows, torch.bool), (1, torch.int64)
        size, dtype = flags if self.resumable else counter
        self.bad = torch.zeros(size, dtype=dtype).share_memory_()

    @property
    def resident(self) -> bool:
        """Whether all encoded images fit into memory or cache, where they are kept: see StreamPlan."""
        size = sum(unit.bytes for unit in self.source.units) if self.resumable else float("inf")
        return size <= max(self.memory, self.cache.size if self.cache else 0)

    def __len__(self) -> int:
        """Rows of the split; TypeError if unknown."""
        if self.rows is None:
            raise TypeError("The number of rows of this stream is unknown: give num_examples, or train with max_steps.")
        return self.rows

    @property
    def skipped(self) -> int:
        """The number of skipped rows so far; if the source is not Shards, a row is counted again in each pass."""
        return int(self.bad.sum())

    def sampler(self, batch_size: int, *, seed: int, rank: int = 0, world: int = 1):
        """The batch sampler that reads this rank's rows."""
        sampler = self._sampler(batch_size, seed=seed, rank=rank, world=world)
        if rank == 0 and self.label_info.kind in ("class", "classes"):
            sampler.watch = ClassWatch(self._classes, self.memory, self.eval_classes if world == 1 else None, self.rows)
        return sampler

    def _sampler(self, batch_size: int, *, seed: int, rank: int, world: int):
        if self.resumable:
            plan = self.plan(batch_size, seed=seed, rank=rank, world=world, memory=self.memory, resident=self.resident)
            return PlannedSampler(self.source.merged(piece_bytes(self.memory)), plan, self.home, self.cache)
        sampler = SequentialSampler if self.rows is None else SizedSequentialSampler
        share = Share(batch_size, seed, rank, world, self.rows)
        return sampler(self.source, self.columns, share, self.memory, self.home)

    def plan(self, batch_size: int, *, seed: int, rank: int, world: int, memory: int, resident: bool) -> StreamPlan:
        """The order of the rows with `memory` bytes; Shards only."""
        sizes = self.source.merged(piece_bytes(memory)).sizes()
        return StreamPlan(sizes, batch_size, seed, rank, world, memory, resident)

    def _classes(self, rows: Sequence[EncodedRow]) -> list[np.ndarray]:
        return [class_numbers(self.encode(row.label, _location(row))) for row in rows]

    def __getitems__(self, rows: Sequence[EncodedRow] | DataError) -> list[dict]:
        """`{"pixel_values": uint8 (3, size, size), "labels": ...}` of each row; raises `rows` if it is an error."""
        if isinstance(rows, DataError):
            raise rows
        if self.random or get_worker_info() is not None:
            images = [self._image(row) for row in rows]
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                images = list(pool.map(self._image, rows))
        labels = [self._label(row) for row in rows]  # {} without labels
        good = [position for position, image in enumerate(images) if image is not None]
        if not good:
            raise DataError(
                f"None of the {len(rows)} images of a batch can be decoded: check column {self.columns[0]!r}."
            )
        sources = [next((later for later in good if later >= position), good[0]) for position in range(len(rows))]
        return [{"pixel_values": images[source], **labels[source]} for source in sources]

    def _image(self, row: EncodedRow) -> Tensor | None:
        try:
            image = self.decode(row.cell, _location(row))
        except ImageDecodeError as error:
            if not self.skip_corrupt:
                raise DataError(
                    f"{_location(row)} cannot be decoded as an image ({error}). Replace it, or pass skip_corrupt=True "
                    "to skip such rows."
                ) from error
            if not self.skipped:
                logger.warning("%s cannot be decoded and is skipped, as are all further ones.", _location(row))
            if self.resumable:
                self.bad[row.row] = True
            else:
                self.bad += 1
            return None
        if not self.random:
            return self.transform(image)
        with borrowed_generators(row.seed):
            return self.transform(image)

    def _label(self, row: EncodedRow) -> dict:
        return {} if self.encode is None else {"labels": self.encode(row.label, _location(row))}


def _location(row: EncodedRow) -> str:
    if row.file is not None:
        return f"Row {row.number} of {row.file}"
    path = (row.cell or {}).get("path")
    return f"Row {row.number} of this pass" + (f" ({shortened(path)})" if path else "")


class StreamLoader(DataLoader):
    """Batches `{"pixel_values": uint8 (B, 3, H, W), "labels": ...}` of this rank, equal for any `num_workers`.

    A thread of this process reads rows; worker processes only decode images. accelerate's `skip_first_batches` discards
    batches: call `start(epoch, empty)` before, so that the discarded ones are not read.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        super().__init__(
            stream,
            batch_sampler=stream.sampler(batch_size, seed=seed, rank=rank, world=world),
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=collate,
            worker_init_fn=ignore_sigterm,
            generator=torch.Generator(),  # without it, a DataLoader draws from the global generator in each epoch
        )

    def __iter__(self):
        batches = super().__iter__()
        try:
            yield from batches
            return
        except DataError as error:
            failed, error.__traceback__ = type(error)(str(error)), None
        # A traceback would keep torch's iterator alive, which then waits for each of its workers when it is deleted.
        del batches
        raise failed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.batch_sampler.set_epoch(epoch)

    def start(self, epoch: int, empty: int = 0, done: int | None = None, left: np.ndarray | None = None) -> None:
        """Set where the next iteration starts: see PlannedSampler."""
        self.batch_sampler.start(epoch, empty, done, left)
