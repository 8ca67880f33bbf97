"""A split as its model's image processor prepares it: uint8 images that the trainer normalises, or else floats."""

import datasets
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..data import Data, DataError, Images
from ..data.decode import Decoder
from ..data.image_paths import ImageDecodeError
from ..data.images import location
from ..data.labels import column_labels
from ..runs.images import prepare
from ..trainer.preprocessing import preprocessing

TOLERANCE = 1e-4  # between our input of the network and that of the image processor
EXAMPLE = 320  # pixels of the image on which both are compared


def processed_images(processor, data: Data, max_pixels: int | None = None) -> Dataset:
    """The evaluation split: as in a run if the processor resizes, crops, scales to [0, 1] and normalises only."""
    side = side_of(processor)
    if side is None:
        return ProcessedImages(processor, data, max_pixels)
    options = {"labels": data.labels, "home": data.home, "deep": data.deep, "max_pixels": max_pixels}
    return Images(data.eval, data.image_column, data.label_column, side, prepare=prepare(processor), **options)


def side_of(processor) -> int | None:
    """The side of the images that a run would prepare for this processor; None if the processor does more than that."""
    example = Image.effect_noise((EXAMPLE, EXAMPLE), 64).convert("RGB")
    _, normalise = preprocessing(None, processor)
    if normalise is None:
        return None
    wanted = torch.as_tensor(processor(example, return_tensors="pt")["pixel_values"])
    try:
        pixels = prepare(processor)(example)
        given = normalise(pixels[None])
    except (TypeError, ValueError, RuntimeError):  # a processor that needs floats
        return None
    same = pixels.dtype == torch.uint8 and given.shape == wanted.shape and given.shape[-1] == given.shape[-2]
    return pixels.shape[-1] if same and bool((given - wanted).abs().max() < TOLERANCE) else None


class ProcessedImages(Dataset):
    """`{"pixel_values": float (3, H, W), "labels": ...}` for each row, as `processor` prepares the image."""

    skipped = 0

    def __init__(self, processor, data: Data, max_pixels: int | None = None):
        self.processor, self.column, self.split = processor, data.image_column, data.eval_split
        self.decode = Decoder(data.home, max_pixels, data.deep)
        self.labels = column_labels(data.eval, data.label_column, data.labels)
        cells = data.eval.with_format(None).select_columns([self.column])
        self.cells = cells.cast_column(self.column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> dict:
        cell = self.cells[row][self.column]
        where = location(row, self.split, cell)
        try:
            image = self.decode(cell, where)
        except ImageDecodeError as error:
            raise DataError(f"{where} cannot be decoded as an image ({error}).") from error
        item = {"pixel_values": torch.as_tensor(self.processor(image, return_tensors="pt")["pixel_values"])[0]}
        if self.labels is None:
            return item
        label = self.labels[row]
        return {**item, "labels": label if label.dtype == torch.int64 else label.float()}
