"""The order of a map-style split as a plan: a pure function of (seed, epoch, processes, batch size)."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from ..errors import DataError
from .images import Images, collate, ignore_sigterm


class BatchPlan(Sampler):
    """A batch sampler: yields each batch of this rank and the current epoch as a list of `(row, seed)`.

    A new permutation in each epoch is cut into global batches; rank r takes the r-th part of each. So ranks are
    disjoint and equally long, and two ranks with batch size 32 read in each step the rows that one rank reads with 64.
    The `seed` of a row is for its augmentation and depends on (seed, epoch, row) alone. The last rows, too few for a
    full batch on every rank, are dropped (different rows in each epoch). With `drop_last=False` they are divided
    equally among the ranks, and fewer than `world` rows are dropped.

    With `repeats` above 1 a global batch holds `repeats` copies of each of its rows, each with its own seed, and rank r
    takes every world-th entry, so that with `repeats` or more ranks all copies are on different ranks: repeated
    augmentation (Hoffer et al., 2020), as in timm's RepeatAugSampler. An epoch has the same length, and `repeats` times
    fewer different rows.

    `classes`: the class of each row. Then the rows of an epoch are drawn with replacement, each class with the same
    probability and each row of a class too; the seed of each draw is its own, and an epoch has the same length.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
        repeats: int = 1,
        classes: Sequence[int] | np.ndarray | None = None,
    ):
        if repeats < 1:
            raise DataError(f"repeats={repeats}: give 1 (no repetition) or more.")
        needed = world * (batch_size if drop_last else 1)
        if batch_size < 1 or not 0 <= rank < world:
            raise DataError(
                f"batch_size={batch_size}, rank={rank}, world={world}: need batch_size >= 1, 0 <= rank < world."
            )
        if rows < needed:
            raise DataError(
                f"{rows} rows do not fill one batch of {batch_size} on each of {world} process(es), which takes "
                f"{needed}: give a per_device_train_batch_size of at most {rows // world}, fewer processes, or a "
                "larger split."
            )
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world, self.drop_last, self.repeats = rank, world, drop_last, repeats
        self.classes = None if classes is None else _checked(classes, rows)
        self.start(0)

    def start(self, epoch: int, empty: int = 0, done: int = 0, left: np.ndarray | None = None) -> None:
        """Set the epoch of the next iteration. With `left`, row numbers, its first `empty` batches are empty, since
        they will be discarded, and then come the batches of these rows alone, after the first `done` ones."""
        self.epoch, self.empty, self.done, self.left = int(epoch), empty, done, left

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; what `start` set for the same epoch stays."""
        if epoch != self.epoch:
            self.start(epoch)

    def __len__(self) -> int:
        full, tail = divmod(self.rows, self.world * self.batch_size)
        return full + int(not self.drop_last and tail >= self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.left is None:
            yield from self.draw(self.epoch)
            return
        yield from ([] for _ in range(self.empty))
        yield from islice(self.draw(self.epoch, self.left), self.done, self.done + len(self) - self.empty)

    def draw(self, epoch: int, left: np.ndarray | None = None) -> Iterator[list[tuple[int, int]]]:
        """The batches of this rank in an epoch, of all rows or of those with the numbers `left`."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch))))
        order, seeds = self._permuted(rng) if self.classes is None else self._balanced(rng)
        step, batches = self.world * self.batch_size, len(self)
        if left is not None:
            chosen = np.isin(order, left)
            order, seeds = order[chosen], seeds[chosen]
            batches = len(order) // step
        for batch in range(batches):
            positions = slice(batch * step, (batch + 1) * step)
            yield list(zip(self._share(order[positions]), self._share(seeds[positions]), strict=True))

    def _permuted(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an epoch, and the seed of each."""
        order = np.repeat(rng.permutation(self.rows), self.repeats)[: self.rows]
        return order, rng.integers(2**62, size=(self.repeats, self.rows))[np.arange(self.rows) % self.repeats, order]

    def _balanced(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """As `_permuted`, for rows that are drawn with replacement from equally likely classes."""
        by_class = np.argsort(self.classes, kind="stable")
        _, first, count = np.unique(self.classes[by_class], return_index=True, return_counts=True)
        drawn = rng.integers(len(first), size=self.rows)
        rows = by_class[first[drawn] + rng.integers(count[drawn])]
        return np.repeat(rows, self.repeats)[: self.rows], rng.integers(2**62, size=self.rows)

    def _share(self, values: np.ndarray) -> list[int]:
        """This rank's part of a global batch."""
        share = len(values) // self.world
        if self.repeats > 1:
            return values[: share * self.world][self.rank :: self.world].tolist()
        return values[self.rank * share : (self.rank + 1) * share].tolist()


def _checked(classes: Sequence[int] | np.ndarray, rows: int) -> np.ndarray:
    """The class of each row; DataError if there is not one for each."""
    classes = np.asarray(classes)
    without = int((classes < 0).sum())
    if classes.shape != (rows,) or without:
        problem = f"{without} of {rows} rows have none" if without else f"{classes.shape} classes for {rows} rows"
        raise DataError(f"Drawing balanced classes requires the class of each row: {problem}.")
    return classes


class ImageLoader(DataLoader):
    """A DataLoader over `Images`, which are decoded before worker processes start, so that these share one copy."""

    def __iter__(self):
        self.dataset.load()
        return super().__iter__()


class TrainLoader(ImageLoader):
    """Batches `{"pixel_values": uint8 (B, 3, H, W), "labels": int64 (B,)}` in the order of a BatchPlan.

    With accelerate's `skip_first_batches`, skipped batches are not decoded and `set_epoch` stays in effect.
    """

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the plan."""
        self.batch_sampler.set_epoch(epoch)

    def start(self, epoch: int, empty: int = 0, done: int = 0, left: np.ndarray | None = None) -> None:
        """Set where the next iteration starts: see BatchPlan."""
        self.batch_sampler.start(epoch, empty, done, left)


def train_loader(images: Images, plan: BatchPlan, num_workers: int = 0, pin_memory: bool = False) -> TrainLoader:
    """A loader of this rank's batches of the plan, with `set_epoch`; the same batches for any number of workers."""
    if plan.rows != len(images):
        raise DataError(
            f"The plan is for {plan.rows} rows, but there are {len(images)} images: use BatchPlan(len(images), ...)."
        )
    # A generator, because without it a DataLoader draws from the global one in each epoch.
    return TrainLoader(
        images,
        batch_sampler=plan,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=ignore_sigterm,
        generator=torch.Generator(),
    )


def eval_loader(images: Images, batch_size: int, num_workers: int = 0, pin_memory: bool = False) -> ImageLoader:
    """A loader of every row once, in the order of the split; the last batch may be smaller."""
    return ImageLoader(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=ignore_sigterm,
        generator=torch.Generator(),
    )
