"""One split as a map-style torch Dataset of uint8 images, decoded once and kept in memory where that is small."""

import logging
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from ..errors import DataError
from .columns import integer_labels
from .transforms import Transform, Undecodable, borrowed_generators, decode, to_rgb

logger = logging.getLogger(__name__)

# A split of at most this many bytes, resized, is kept in memory with keep="auto".
KEEP_LIMIT = 2**30
# Rows read from the Arrow file at once while the split is decoded.
CHUNK = 512
THREADS = min(8, os.cpu_count() or 1)
# Row numbers named in the log of skipped images.
NAMED_ROWS = 5


class Images(Dataset):
    """`images[row]` is `{"pixel_values": uint8 (3, size, size), "labels": int}`; rows are ints or `(row, seed)` pairs.

    Without `transform`, an image is prepared the same way each time: by `prepare` (such as `eval_transform(cfg)`), or
    by default its shorter side is resized to `resize` (default `size`), bicubic, and the centre is cropped. Such a
    split is decoded once and kept as one tensor if it takes at most 1 GiB (`keep="auto"`; or True, or False).
    `transform`, such as `train_transform(...)`, runs instead on each RGB image, under the row's seed; nothing is kept.

    An image that cannot be read is a DataError that names split and row. With `skip_corrupt`, a kept split leaves such
    rows out (`rows` holds the row numbers that stay); one that is not kept gives the next good row instead, so that its
    length stands. `skipped` counts them, across worker processes. `home`: `Data.home`, which no path may leave.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        image_column: str,
        label_column: str,
        size: int,
        *,
        resize: int | None = None,
        prepare: Transform | None = None,
        transform: Transform | None = None,
        skip_corrupt: bool = False,
        keep: bool | str = "auto",
        home: str | None = None,
    ):
        if sum(option is not None for option in (resize, prepare, transform)) > 1:
            raise DataError("resize, prepare and transform each decide the pixels: give one of them.")
        if keep not in (True, False, "auto") or (keep is True and transform is not None):
            raise DataError(f"keep={keep!r}: choose 'auto', False, or (without a transform) True.")
        self.split = str(dataset.split or "data")
        self.size, self.skip_corrupt, self.image_column, self.home = size, skip_corrupt, image_column, home
        self.labels = torch.from_numpy(integer_labels(dataset, label_column))
        self.cells = _undecoded(dataset, image_column)
        self.random = transform is not None
        self.transform = transform or prepare or centre(size, resize or size)
        small = len(dataset) * 3 * size * size <= KEEP_LIMIT
        self.kept = not self.random and (small if keep == "auto" else keep)
        self.pixels: Tensor | None = None
        self.rows: Sequence[int] = range(len(dataset))
        # Shared, so that what worker processes find is counted here; a flag a row, so that nothing is counted twice.
        self.bad = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()

    @property
    def skipped(self) -> int:
        """The number of rows found so far that do not decode."""
        return int(self.bad.sum())

    def __len__(self) -> int:
        if self.kept and self.skip_corrupt:
            self.load()
        return len(self.rows)

    def __getitem__(self, row: int | tuple[int, int]) -> dict:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int | tuple[int, int]]) -> list[dict]:
        # In a worker the split would be decoded whole once more; decoding the rows asked for is cheaper.
        if self.kept and get_worker_info() is None:
            self.load()
        numbers, seeds = zip(*(self._row_and_seed(row) for row in rows), strict=True)
        if self.pixels is not None:
            pixels = self.pixels[list(numbers)].unbind()
        else:
            numbers, pixels = self._decode_rows([self.rows[number] for number in numbers], seeds)
        labels = self.labels[list(numbers)].tolist()
        return [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]

    def load(self) -> None:
        """Decodes the split into memory if it is one to keep and is not there yet."""
        if not self.kept or self.pixels is not None:
            return
        total = len(self.cells)
        pixels = torch.empty(total, 3, self.size, self.size, dtype=torch.uint8)
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, total, CHUNK):
                rows = range(start, min(start + CHUNK, total))
                for row, image in zip(rows, pool.map(self._try, self._read(rows), rows), strict=True):
                    if image is not None:
                        pixels[row] = image
        if self.skipped:
            good = torch.nonzero(~self.bad)[:, 0]
            pixels, self.labels, self.rows = pixels[good], self.labels[good], good.tolist()
            self._log()
        self._some_are_left()
        self.pixels = pixels

    def _row_and_seed(self, row: int | tuple[int, int]) -> tuple[int, int]:
        number, seed = row if isinstance(row, tuple) else (row, None)
        if self.random and seed is None:
            raise DataError(
                f"Row {number} comes without a seed for its transform: index with (row, seed), as BatchPlan does."
            )
        if not -len(self.rows) <= number < len(self.rows):
            raise IndexError(f"Row {number} of {len(self.rows)} in split {self.split!r}.")
        return int(number) % len(self.rows), seed

    def _read(self, rows: Sequence[int]) -> list[dict | None]:
        return self.cells[list(rows)][self.image_column]

    def _decode_rows(self, rows: list[int], seeds: Sequence[int | None]) -> tuple[list[int], list[Tensor]]:
        """Row numbers and images, both of the next good row where one is bad and skipped."""
        known = self.skipped
        found = []
        for row, cell, seed in zip(rows, self._read(rows), seeds, strict=True):
            image = self._try(cell, row, seed)
            while image is None:
                self._some_are_left()
                row = (row + 1) % len(self.bad)
                image = None if self.bad[row] else self._try(self._read([row])[0], row, seed)
            found.append((row, image))
        if self.skipped and not known:
            self._log()
        return [row for row, _ in found], [image for _, image in found]

    def _try(self, cell: dict | None, row: int, seed: int | None = None) -> Tensor | None:
        """The image, or None if it is bad and bad ones are skipped."""
        try:
            image = decode(cell, self.home)
        except Undecodable as error:
            if not self.skip_corrupt:
                raise DataError(
                    f"Row {row} of split {self.split!r} is no image that can be read ({error}). Replace it, or pass "
                    "skip_corrupt=True to leave such rows out."
                ) from error
            self.bad[row] = True
            return None
        if self.random:
            with borrowed_generators(seed):
                pixels = self.transform(image)
        else:
            pixels = self.transform(image)
        if pixels.dtype != torch.uint8 or pixels.shape != (3, self.size, self.size):
            wanted = (3, self.size, self.size)
            raise DataError(f"The transform gives {pixels.dtype} {tuple(pixels.shape)} where uint8 {wanted} is needed.")
        return pixels

    def _some_are_left(self) -> None:
        if bool(self.bad.all()):
            raise DataError(
                f"None of the {len(self.bad)} images of split {self.split!r} can be read: check the image column."
            )

    def _log(self) -> None:
        first = torch.nonzero(self.bad)[:NAMED_ROWS, 0].tolist()
        logger.warning(
            "Split %r: %d image(s) cannot be read and are skipped; first rows: %s", self.split, self.skipped, first
        )


def _undecoded(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    """The images of a data set as they are stored."""
    return dataset.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))


def centre(size: int, resize: int) -> Transform:
    """A callable from PIL to uint8 (3, size, size): the shorter side resized to `resize`, bicubic, then the centre."""
    if resize < size:
        raise DataError(f"resize={resize} is smaller than the crop: give at least size={size}.")
    steps = [transforms.Resize(resize, InterpolationMode.BICUBIC), transforms.CenterCrop(size)]
    return transforms.Compose([to_rgb, *steps, transforms.PILToTensor()])


def unstopped(worker: int) -> None:
    """For `worker_init_fn`: a worker goes on when its process group is told to stop, for the last save to be whole."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def collate(samples: Sequence[dict]) -> dict[str, Tensor]:
    """`{"pixel_values": uint8 (B, 3, H, W), "labels": int64 (B,)}` from a list of the items of `Images`."""
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.from_numpy(np.array([sample["labels"] for sample in samples], dtype=np.int64)),
    }
