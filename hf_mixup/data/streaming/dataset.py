"""A streamed split as a Dataset that decodes what it is handed, and its loader, which reads it once for all workers."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ...errors import DataError
from ..columns import bad_label
from ..images import THREADS, centre, collate, unstopped
from ..transforms import Transform, Undecodable, borrowed_generators, decode
from .order import StreamPlan
from .planned_sampler import Encoded, PlannedSampler
from .sequential_sampler import EndlessSampler, PassSampler
from .shards import Shards

logger = logging.getLogger(__name__)

ORDER = "stream.json"  # in a checkpoint: what the order of a stream depends on
BLOCK = 2048


class Stream(Dataset):
    """What a `StreamLoader` needs to know of a streamed split, and how its images are decoded.

    `source` is `load_data(streaming=True).train`: `Shards`, whose order is a plan that any step can be resumed from,
    or, where files do not tell their rows, a datasets.IterableDataset, of `rows` rows if they are known. `block` rows
    are shuffled together: two blocks of encoded images are in memory. Images are prepared as by `Images`.

    An image that cannot be read is a DataError that names file and row. With `skip_corrupt` the next good row of its
    batch stands in its place, and `skipped` counts such rows, across worker processes. `home`: `Data.home`, which no
    path may leave.
    """

    def __init__(
        self,
        source: Shards | datasets.IterableDataset,
        image_column: str,
        label_column: str,
        size: int,
        *,
        classes: list[str],
        rows: int | None = None,
        block: int = BLOCK,
        prepare: Transform | None = None,
        transform: Transform | None = None,
        skip_corrupt: bool = False,
        home: str | None = None,
    ):
        if prepare and transform:
            raise DataError("prepare and transform each decide the pixels: give one of them.")
        self.source, self.columns, self.classes = source, (image_column, label_column), classes
        self.resumable = isinstance(source, Shards)
        self.rows = len(source) if self.resumable else rows
        self.block, self.skip_corrupt, self.random = block, skip_corrupt, transform is not None
        self.home = home
        self.transform = transform or prepare or centre(size, size)
        self.numbers = {name: number for number, name in enumerate(classes)}
        # Shared, so that what worker processes find is counted here; by row, where rows have a number that stays.
        flags, counter = (self.rows, torch.bool), (1, torch.int64)
        size, kind = flags if self.resumable else counter
        self.bad = torch.zeros(size, dtype=kind).share_memory_()

    def __len__(self) -> int:
        """Rows of the split; TypeError where they are not known."""
        if self.rows is None:
            raise TypeError("The rows of this stream are not known: give num_examples, or train with max_steps.")
        return self.rows

    @property
    def skipped(self) -> int:
        """The number of rows found so far that do not decode; of a stream without a plan again in each pass."""
        return int(self.bad.sum())

    def sampler(self, batch_size: int, *, seed: int, rank: int = 0, world: int = 1):
        """The batch sampler that reads this rank's rows."""
        if self.resumable:
            rows = tuple(unit.rows for unit in self.source.units)
            plan = StreamPlan(rows, batch_size, seed, rank, world, self.block)
            return PlannedSampler(self.source, plan, self.home)
        rows, kind = (None, EndlessSampler) if self.rows is None else ((self.rows,), PassSampler)
        plan = StreamPlan(rows, batch_size, seed, rank, world, self.block)
        return kind(self.source, self.columns, plan, self.home)

    def __getitems__(self, rows: Sequence[Encoded] | DataError) -> list[dict]:
        """`{"pixel_values": uint8 (3, size, size), "labels": int}` of each row of a batch; raises a failure to read."""
        if isinstance(rows, DataError):
            raise rows
        if self.random or get_worker_info() is not None:
            images = [self._image(row) for row in rows]
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                images = list(pool.map(self._image, rows))
        labels = [self._label(row) for row in rows]
        good = [place for place, image in enumerate(images) if image is not None]
        if not good:
            raise DataError(f"None of the {len(rows)} images of a batch can be read: check column {self.columns[0]!r}.")
        places = [next((other for other in good if other >= place), good[0]) for place in range(len(rows))]
        return [{"pixel_values": images[place], "labels": labels[place]} for place in places]

    def _image(self, row: Encoded) -> Tensor | None:
        try:
            image = decode(row.cell, self.home)
        except Undecodable as error:
            if not self.skip_corrupt:
                raise DataError(
                    f"{_place(row)} is no image that can be read ({error}). Replace it, or pass skip_corrupt=True to "
                    "leave such rows out."
                ) from error
            if not self.skipped:
                logger.warning("%s cannot be read and is skipped, as further ones will be.", _place(row))
            if self.resumable:
                self.bad[row.row] = True
            else:
                self.bad += 1
            return None
        if not self.random:
            return self.transform(image)
        with borrowed_generators(row.seed):
            return self.transform(image)

    def _label(self, row: Encoded) -> int:
        known = self.numbers.get(row.label) if isinstance(row.label, str) else row.label
        if not isinstance(known, int) or not 0 <= known < len(self.classes):
            said = bad_label(row.label, _place(row), self.classes)
            if row.label not in (None, -1):
                said += " A stream whose labels have no names takes its classes from the evaluation split."
            raise DataError(said)
        return int(known)


def _place(row: Encoded) -> str:
    if row.file is not None:
        return f"Row {row.number} of {row.file}"
    path = (row.cell or {}).get("path")
    return f"Row {row.number} of this pass" + (f" ({path})" if path else "")


class StreamLoader(DataLoader):
    """Batches `{"pixel_values": uint8 (B, 3, H, W), "labels": int64 (B,)}` of this rank, the same for any workers.

    This process reads, in a thread; worker processes only decode. `start(epoch, skipped)` says that the first so many
    batches of the next iteration will be thrown away, as accelerate's `skip_first_batches` does: they are not read.
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
            worker_init_fn=unstopped,
            generator=torch.Generator(),  # else one draws from the global one each epoch
        )

    def __iter__(self):
        batches = super().__iter__()
        try:
            yield from batches
            return
        except DataError as error:
            failed, error.__traceback__ = type(error)(str(error)), None
        # torch's iterator, if it hangs on the traceback of what it raised, waits for each of its workers when it goes
        del batches
        raise failed

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives the order of this epoch."""
        self.batch_sampler.set_epoch(epoch)

    def start(self, epoch: int, skipped: int = 0) -> None:
        """The next iteration is of this epoch, and its first `skipped` batches come empty."""
        self.batch_sampler.start(epoch, skipped)


def order_of(stream: Stream, **settings: int) -> dict:
    """What the order of a stream depends on: the data, and settings such as seed and number of processes."""
    if not stream.resumable:
        return {}
    source = stream.source
    return {**settings, "shuffle_block": stream.block, "data revision": source.revision, "rows": source.digest()}


def write_order(folder: Path, order: dict) -> None:
    """Keep in a checkpoint what the order depends on."""
    (folder / ORDER).write_text(json.dumps(order, indent=2) + "\n")


def check_order(folder: Path, order: dict) -> None:
    """DataError if a run cannot go on from the checkpoint with the same samples in the same order."""
    if not order:
        raise DataError(
            "A streamed run can go on from a checkpoint where the rows of each file are known, and here they are not: "
            "give rows_per_shard (WebDataset), choose a copy in parquet, or train without streaming."
        )
    file = folder / ORDER
    if not file.is_file():
        raise DataError(
            f"{folder} is no checkpoint of a streamed run: resume without streaming, or choose another output_dir."
        )
    before = json.loads(file.read_text())
    for name, new in order.items():
        if before.get(name) != new:
            raise DataError(
                f"The run began with {name} {before.get(name)} and cannot go on exactly with {new}: use "
                f"{before.get(name)} again."
            )
