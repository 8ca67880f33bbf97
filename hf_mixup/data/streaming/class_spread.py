"""How many classes the batches of a stream hold, compared with independent draws of the same rows."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from ..columns import unseen_classes

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
CHECK_EVERY = 64  # batches
LOWEST = 0.8  # of the classes that independent draws would hold
WAYS_OUT = (
    "raise shuffle_memory, set stream_cache to a folder with space for the data, or write a shuffled copy with "
    "`hf-mixup reshard`"
)


class ClassSpread:
    """The mean number of classes in a batch, and its expectation for independent draws."""

    def __init__(self):
        self.rows, self.batches, self.found = np.zeros(0, np.int64), 0, 0
        self.size = 0  # rows seen

    def add(self, classes: list[np.ndarray]) -> None:
        """Count a batch; `classes` holds the class numbers of each row."""
        numbers = np.concatenate(classes)
        counts = np.bincount(numbers, minlength=len(self.rows))
        counts[: len(self.rows)] += self.rows
        self.rows, self.found = counts, self.found + len(np.unique(numbers))
        self.batches, self.size = self.batches + 1, self.size + len(classes)

    def mean(self) -> float:
        """Classes in a batch."""
        return self.found / self.batches

    def expected(self) -> float:
        """Classes that a batch of independent draws would hold."""
        return float((1 - (1 - self.rows / self.size) ** (self.size / self.batches)).sum())


class ClassWatch:
    """Passes batches on; logs one warning if they hold less than LOWEST of the classes of independent draws.

    `classes`: the class numbers of each row of a batch; `memory`: bytes, for the warning. `wanted`: number and name of
    the classes of the evaluation split; after an epoch of `rows` rows, a warning names those that were not among them.
    """

    def __init__(
        self,
        classes: Callable[[Batch], list[np.ndarray]],
        memory: int,
        wanted: dict[int, str] | None = None,
        rows: int | None = None,
    ):
        self.classes, self.memory, self.wanted, self.rows = classes, memory, wanted or {}, rows
        self.warned = False

    def __call__(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        spread = ClassSpread()
        for batch in batches:
            if batch and (self.wanted or not self.warned):
                spread.add(self.classes(batch))
                sparse = spread.batches % CHECK_EVERY == 0 and spread.mean() < LOWEST * spread.expected()
                if sparse and not self.warned:
                    self._warn(spread)
            yield batch
        if self.rows and spread.batches and spread.size + spread.size // spread.batches > self.rows:
            self._tell_unseen(spread)

    def _tell_unseen(self, spread: ClassSpread) -> None:
        """Warn if an epoch lacked classes of the evaluation split, once."""
        seen, where = np.flatnonzero(spread.rows).tolist(), f"{spread.size:,} images of an epoch of this stream"
        for message in unseen_classes(self.wanted, seen, where):
            logger.warning(message)
        self.wanted = {}

    def _warn(self, spread: ClassSpread) -> None:
        self.warned = True
        logger.warning(
            "Batches of this stream hold %.1f classes on average, and independent draws would hold %.1f: its rows are "
            "sorted by class, and shuffle_memory (%s bytes) is small for them. To shuffle better, %s.",
            spread.mean(),
            spread.expected(),
            f"{self.memory:,}",
            WAYS_OUT,
        )


def class_numbers(label: int | torch.Tensor) -> np.ndarray:
    """The class numbers of an encoded label: those of the ones in a vector; none for a row without a label."""
    if isinstance(label, torch.Tensor):
        return label.nonzero()[:, 0].numpy()
    return np.array([label] if label >= 0 else [], np.int64)
