"""The buffer that batches are drawn from, as numbers only: which rows it holds, and what they cost."""

import numpy as np


class RollingBuffer:
    """Row numbers and the bytes of each row; rows are added at the end and drawn at random without replacement."""

    def __init__(self):
        self._rows, self._sizes = np.empty(1024, np.int64), np.empty(1024, np.int64)
        self.count = self.bytes = 0

    @property
    def rows(self) -> np.ndarray:
        """The rows in the buffer, in no particular order."""
        return self._rows[: self.count]

    def add(self, rows: np.ndarray, row_bytes: int) -> None:
        """Add rows of `row_bytes` bytes each."""
        end = self.count + len(rows)
        while end > len(self._rows):
            self._rows, self._sizes = (np.concatenate([a, np.empty_like(a)]) for a in (self._rows, self._sizes))
        self._rows[self.count : end], self._sizes[self.count : end] = rows, row_bytes
        self.count, self.bytes = end, self.bytes + len(rows) * row_bytes

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` rows, drawn at random and removed."""
        places = rng.choice(self.count, count, replace=False)
        drawn, left = self._rows[places], self.count - count
        self.bytes -= int(self._sizes[places].sum())
        # the rows at the end move into the places that become free
        kept = np.ones(count, bool)
        kept[places[places >= left] - left] = False
        free = places[places < left]
        for values in (self._rows, self._sizes):
            values[free] = values[left : self.count][kept]
        self.count = left
        return drawn
