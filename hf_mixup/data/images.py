"""A split as a map-style torch Dataset of uint8 images; a small split is decoded once and kept in memory."""

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

from ..errors import DataError
from .decode import Decoder
from .image_paths import ImageDecodeError, shortened
from .labels import NONE, Labels, column_labels
from .pixel_range import DeepImages
from .transforms import Transform, borrowed_generators, centre_crop, in_views

logger = logging.getLogger(__name__)

# keep="auto" keeps a split in memory if its resized images take at most this many bytes.
KEEP_LIMIT = 2**30
# Rows read from the Arrow file at once while a split is decoded.
CHUNK = 512
THREADS = min(8, os.cpu_count() or 1)
# Row numbers listed in the log message about skipped images.
LOGGED_ROWS = 5


class Images(Dataset):
    """`images[row]` is `{"pixel_values": uint8 (3, size, size), "labels": ...}`; rows are ints or `(row, seed)` pairs.

    `labels`: `Data.labels`, by default class indices; the label of an item is an int (class), a float32 tensor (number,
    vector, or 1 for each of several classes), or missing (`label_column` None).

    Without `transform`, images are prepared without randomness: by `prepare` (such as `eval_transform(cfg)`), or by
    default the shorter side is resized to `resize` (default `size`), bicubic, and the centre is cropped. Such a split
    is decoded once and kept as one tensor if it takes at most 1 GiB (`keep="auto"`; True and False override this).
    `transform`, such as `train_transform(...)`, runs on each RGB image instead, with the row's seed; none is kept. With
    several `views` it runs that often on each image: (views, 3, size, size).

    An image that cannot be decoded raises a DataError that names split and row. With `skip_corrupt`, a kept split omits
    such rows (`rows` holds the remaining row numbers); otherwise the next good row replaces them, so that the length
    does not change. `skipped` counts them in all worker processes. `home`: `Data.home`; image paths outside it are
    refused. `max_pixels`: of an image; if None, Pillow's limit. `deep`: `Data.deep`, which counts images of more than 8
    bits.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        image_column: str,
        label_column: str | None,
        size: int,
        *,
        labels: Labels | None = None,
        resize: int | None = None,
        prepare: Transform | None = None,
        transform: Transform | None = None,
        skip_corrupt: bool = False,
        keep: bool | str = "auto",
        home: str | None = None,
        max_pixels: int | None = None,
        deep: DeepImages | None = None,
        views: int = 1,
    ):
        if sum(option is not None for option in (resize, prepare, transform)) > 1:
            raise DataError("resize, prepare and transform exclude each other: give one of them.")
        if keep not in (True, False, "auto") or (keep is True and transform is not None):
            raise DataError(f"keep={keep!r}: choose 'auto', False, or (without a transform) True.")
        self.split = str(dataset.split or "data")
        self.size, self.skip_corrupt, self.image_column = size, skip_corrupt, image_column
        self.decode = Decoder(home, max_pixels, deep or DeepImages())
        self.label_info = labels or _class_labels(dataset, label_column)
        self.labels = column_labels(dataset, label_column, self.label_info)
        self.cells = _encoded_images(dataset, image_column)
        self.random = transform is not None
        self.shape = (3, size, size) if transform is None or views == 1 else (views, 3, size, size)
        self.transform = in_views(transform, views) if transform else prepare or centre_crop(size, resize or size)
        small = len(dataset) * 3 * size * size <= KEEP_LIMIT
        self.kept = not self.random and (small if keep == "auto" else keep)
        self.pixels: Tensor | None = None
        self.rows: Sequence[int] = range(len(dataset))
        # In shared memory, to count the rows that worker processes cannot decode; a flag per row, so that none counts
        # twice.
        self.bad = torch.zeros(len(dataset), dtype=torch.bool).share_memory_()

    @property
    def skipped(self) -> int:
        """The number of rows so far that could not be decoded."""
        return int(self.bad.sum())

    def __len__(self) -> int:
        if self.kept and self.skip_corrupt:
            self.load()
        return len(self.rows)

    def __getitem__(self, row: int | tuple[int, int]) -> dict:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int | tuple[int, int]]) -> list[dict]:
        # Not in a worker, which would decode the whole split again.
        if self.kept and get_worker_info() is None:
            self.load()
        numbers, seeds = zip(*(self._row_and_seed(row) for row in rows), strict=True)
        if self.pixels is not None:
            pixels = self.pixels[list(numbers)].unbind()
        else:
            numbers, pixels = self._decode_rows([self.rows[number] for number in numbers], seeds)
        if self.labels is None:
            return [{"pixel_values": image} for image in pixels]
        labels = self.labels[list(numbers)]
        labels = labels.tolist() if self.label_info.kind == "class" else labels.float().unbind()
        return [{"pixel_values": image, "labels": label} for image, label in zip(pixels, labels, strict=True)]

    def load(self) -> None:
        """Decode the split into memory, if it is kept and this has not been done."""
        if not self.kept or self.pixels is not None:
            return
        total = len(self.cells)
        pixels = torch.empty(total, 3, self.size, self.size, dtype=torch.uint8)
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, total, CHUNK):
                rows = range(start, min(start + CHUNK, total))
                for row, image in zip(rows, pool.map(self._image, self._read(rows), rows), strict=True):
                    if image is not None:
                        pixels[row] = image
        if self.skipped:
            good = torch.nonzero(~self.bad)[:, 0]
            pixels, self.rows = pixels[good], good.tolist()
            self.labels = None if self.labels is None else self.labels[good]
            self._log_skipped()
        self._check_any_good()
        self.pixels = pixels

    def _row_and_seed(self, row: int | tuple[int, int]) -> tuple[int, int]:
        number, seed = row if isinstance(row, tuple) else (row, None)
        if self.random and seed is None:
            raise DataError(
                f"Row {number} has no seed, which the transform requires: index with (row, seed), as BatchPlan does."
            )
        if not -len(self.rows) <= number < len(self.rows):
            raise IndexError(f"Row {number} is out of range: split {self.split!r} has {len(self.rows)} rows.")
        return int(number) % len(self.rows), seed

    def _read(self, rows: Sequence[int]) -> list[dict | None]:
        return self.cells[list(rows)][self.image_column]

    def _decode_rows(self, rows: list[int], seeds: Sequence[int | None]) -> tuple[list[int], list[Tensor]]:
        """Row numbers and images; a skipped row is replaced by the next good one."""
        skipped_before = self.skipped
        decoded = []
        for row, cell, seed in zip(rows, self._read(rows), seeds, strict=True):
            image = self._image(cell, row, seed)
            while image is None:
                self._check_any_good()
                row = (row + 1) % len(self.bad)
                image = None if self.bad[row] else self._image(self._read([row])[0], row, seed)
            decoded.append((row, image))
        if self.skipped and not skipped_before:
            self._log_skipped()
        return [row for row, _ in decoded], [image for _, image in decoded]

    def _image(self, cell: dict | None, row: int, seed: int | None = None) -> Tensor | None:
        """The prepared image, or None if it cannot be decoded and `skip_corrupt` is set."""
        where = location(row, self.split, cell)
        try:
            image = self.decode(cell, where)
        except ImageDecodeError as error:
            if not self.skip_corrupt:
                raise DataError(
                    f"{where} cannot be decoded as an image ({error}). Replace it, or pass skip_corrupt=True to skip "
                    "such rows."
                ) from error
            self.bad[row] = True
            return None
        if self.random:
            with borrowed_generators(seed):
                pixels = self.transform(image)
        else:
            pixels = self.transform(image)
        if pixels.dtype != torch.uint8 or pixels.shape != self.shape:
            shape = tuple(pixels.shape)
            raise DataError(f"The transform returns {pixels.dtype} {shape} instead of uint8 {self.shape}.")
        return pixels

    def _check_any_good(self) -> None:
        if bool(self.bad.all()):
            raise DataError(
                f"None of the {len(self.bad)} images of split {self.split!r} can be decoded: check the image column."
            )

    def _log_skipped(self) -> None:
        first = torch.nonzero(self.bad)[:LOGGED_ROWS, 0].tolist()
        logger.warning(
            "Split %r: %d image(s) cannot be decoded and are skipped; first rows: %s", self.split, self.skipped, first
        )


def location(row: int, split: str, cell: dict | None) -> str:
    """A row in words, with the name of its file if the cell has one."""
    path = (cell or {}).get("path")
    return f"Row {row} of split {split!r}" + (f" ({shortened(path)})" if path else "")


def _class_labels(dataset: datasets.Dataset, column: str | None) -> Labels:
    """Labels of a column of class indices; NONE without a column."""
    if column is None:
        return NONE
    names = list(getattr(dataset.features[column], "names", []))
    return Labels("class", names, len(names))


def _encoded_images(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    """The data set with the image column only; its rows are not decoded."""
    return dataset.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))


def ignore_sigterm(worker: int) -> None:
    """A `worker_init_fn`: SIGTERM to the process group must not end a worker before the last checkpoint is saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def collate(samples: Sequence[dict]) -> dict[str, Tensor]:
    """`{"pixel_values": uint8 (B, 3, H, W), "labels": ...}` of a list of items of `Images`; class indices are int64."""
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
    if "labels" not in samples[0]:
        return batch
    labels = [sample["labels"] for sample in samples]
    if isinstance(labels[0], Tensor):
        return {**batch, "labels": torch.stack(labels)}
    return {**batch, "labels": torch.from_numpy(np.array(labels, dtype=np.int64))}
