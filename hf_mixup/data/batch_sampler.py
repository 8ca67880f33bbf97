"""The order of the data as a plan: a pure function of (seed, epoch, processes, batch size)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from ..errors import DataError
from .images import Images, collate, unstopped


class BatchPlan(Sampler):
    """A batch sampler: lists of `(row, seed)`, one list a batch, for this rank and the epoch last set.

    A new permutation each epoch, cut into batches of all ranks together; rank r takes the r-th part of each. So ranks
    are disjoint and equally long, and two ranks of 32 see in each step what one of 64 sees. `seed` of a row is for its
    augmentation and depends on (seed, epoch, row) alone. The tail that fills no batch on every rank is dropped (other
    rows each epoch), or with `drop_last=False` shared equally, so that fewer than `world` rows are left out.

    With `repeats` above 1 a batch of all ranks holds so many copies of each of its rows, each with a seed of its own,
    and rank r takes every world-th place, so that copies are on different ranks where these are as many: repeated
    augmentation (Hoffer et al., 2020), as in timm's RepeatAugSampler. An epoch is as long, and sees as many rows fewer.
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
    ):
        if repeats < 1:
            raise DataError(f"repeats={repeats}: give 1, which repeats nothing, or more.")
        needed = world * (batch_size if drop_last else 1)
        if batch_size < 1 or not 0 <= rank < world:
            raise DataError(
                f"batch_size={batch_size}, rank={rank}, world={world}: need batch_size >= 1, 0 <= rank < world."
            )
        if rows < needed:
            raise DataError(
                f"{rows} rows do not fill one batch of {batch_size} on each of {world} process(es), which takes "
                f"{needed}: choose a batch size of at most {rows // world}, fewer processes, or a larger split."
            )
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.world, self.drop_last, self.repeats = rank, world, drop_last, repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives the order of this epoch."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        full, tail = divmod(self.rows, self.world * self.batch_size)
        return full + int(not self.drop_last and tail >= self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, self.epoch))))
        order = np.repeat(rng.permutation(self.rows), self.repeats)[: self.rows]
        seeds = rng.integers(2**62, size=(self.repeats, self.rows))[np.arange(self.rows) % self.repeats, order]
        step = self.world * self.batch_size
        for batch in range(len(self)):
            places = slice(batch * step, (batch + 1) * step)
            yield list(zip(self._share(order[places]), self._share(seeds[places]), strict=True))

    def _share(self, values: np.ndarray) -> list[int]:
        """This rank's part of what all ranks see in a step."""
        share = len(values) // self.world
        if self.repeats > 1:
            return values[: share * self.world][self.rank :: self.world].tolist()
        return values[self.rank * share : (self.rank + 1) * share].tolist()


class ImageLoader(DataLoader):
    """A DataLoader over `Images`, decoded before workers start: they share one copy instead of making each one."""

    def __iter__(self):
        self.dataset.load()
        return super().__iter__()


class TrainLoader(ImageLoader):
    """Batches `{"pixel_values": uint8 (B, 3, H, W), "labels": int64 (B,)}` in the order of a BatchPlan.

    accelerate's `skip_first_batches` wraps the plan itself: it shares the epoch and skips without decoding.
    """

    def set_epoch(self, epoch: int) -> None:
        """Forwards the epoch to the plan."""
        self.batch_sampler.set_epoch(epoch)


def train_loader(images: Images, plan: BatchPlan, num_workers: int = 0, pin_memory: bool = False) -> TrainLoader:
    """A loader of this rank's batches of the plan, with `set_epoch`; the same batches for any number of workers."""
    if plan.rows != len(images):
        raise DataError(
            f"The plan is for {plan.rows} rows, the images are {len(images)}: use BatchPlan(len(images), ...)."
        )
    # Its own generator: a DataLoader without one draws from the global one each epoch.
    return TrainLoader(
        images,
        batch_sampler=plan,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=unstopped,
        generator=torch.Generator(),
    )


def eval_loader(images: Images, batch_size: int, num_workers: int = 0, pin_memory: bool = False) -> ImageLoader:
    """A loader of every row once, in the split's order; the last batch may be smaller."""
    return ImageLoader(
        images,
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=unstopped,
        generator=torch.Generator(),
    )
