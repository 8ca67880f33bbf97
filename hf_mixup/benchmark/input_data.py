"""The images for measuring input paths, pushed to a local Hub.

The package contains no photographs. The images are its built-in sample, enlarged, coloured and with noise of several
scales, so that files are about as large, and as slow to decode, as photographs of the same size.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from ..data import load_data
from ..errors import DataError

SHARDS = 8
TEST_ROWS = 64
OCTAVES = 5  # of noise, each with twice the side and half the amplitude of the one before
AMPLITUDE = 24  # of the coarsest noise, grey levels
QUALITY = 90  # of JPEG


@dataclass(frozen=True)
class Case:
    """Images of one size as in recipes: files of `side` pixels, crops of `size` pixels."""

    size: int
    side: int
    file: str
    rows: int
    batch: int
    classes: int = 10

    @property
    def resized(self) -> bool:
        """Whether augmentation is a random resized crop; otherwise a crop of the padded image."""
        return self.side > self.size

    @property
    def name(self) -> str:
        """The repository on the local Hub."""
        return f"user/images-{self.size}"


CASES = (Case(32, 32, "PNG", 20_480, 128), Case(224, 256, "JPEG", 2048, 64))
# each row has its own class, so that labels show whether every row is read once
QUICK = (Case(32, 32, "PNG", 64, 4, classes=64), Case(224, 256, "JPEG", 64, 4, classes=64))


def generated_splits(case: Case) -> datasets.DatasetDict:
    """Training and test split of `case`, equal in every call."""
    sample = load_data().train.with_format("numpy")["image"]
    names = datasets.ClassLabel(names=[str(number) for number in range(case.classes)])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    splits = {}
    for seed, (split, rows) in enumerate((("train", case.rows), ("test", min(TEST_ROWS, case.rows)))):
        rng = np.random.default_rng(seed)
        files = [generated_image(sample[row % len(sample)], case, rng) for row in range(rows)]
        columns = {
            "image": [{"bytes": file, "path": None} for file in files],
            "label": [row % case.classes for row in range(rows)],
        }
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    return datasets.DatasetDict(splits)


def generated_image(pixels: np.ndarray, case: Case, rng: np.random.Generator) -> bytes:
    """The encoded image: `pixels` enlarged to `case.side`, in a random colour, with noise."""
    shape = (case.side, case.side)
    grey = np.asarray(Image.fromarray(np.asarray(pixels)).convert("L").resize(shape, Image.Resampling.BICUBIC))
    x = grey[..., None] * rng.uniform(0.4, 1, 3)
    for octave in range(OCTAVES):
        side = max(1, case.side >> (OCTAVES - 1 - octave))
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        x = x + (np.asarray(noise.resize(shape, Image.Resampling.BILINEAR)) / 127.5 - 1) * (AMPLITUDE / 2**octave)
    file = BytesIO()
    options = {"quality": QUALITY} if case.file == "JPEG" else {}
    Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(file, case.file, **options)
    return file.getvalue()


def splits_of_folder(folder: Path, case: Case) -> datasets.DatasetDict:
    """The splits of a folder that `datasets` loads, cut to full batches in every shard; DataError if it has too few."""
    columns = ["image", "label"]
    data = load_data(data=str(folder))
    least = SHARDS * case.batch
    rows = min(case.rows, len(data.train)) // least * least
    if not rows:
        raise DataError(f"{folder} has {len(data.train)} training images: give at least {least}, or leave --data out.")
    test = data.eval.select(range(min(TEST_ROWS, len(data.eval))))
    train = data.train.shuffle(seed=0).select(range(rows))
    return datasets.DatasetDict({"train": train.select_columns(columns), "test": test.select_columns(columns)})


def push(splits: datasets.DatasetDict, case: Case) -> dict:
    """Push the splits to the Hub of the environment variables, and return their description for the record."""
    splits.push_to_hub(case.name, num_shards={"train": SHARDS, "test": 1})
    files = encoded_images(splits["train"])
    return {
        "rows": len(files),
        "shards": SHARDS,
        "bytes_an_image": round(sum(map(len, files)) / len(files)),
        "sha256": hashlib.sha256(b"".join(files)).hexdigest(),
    }


def encoded_images(split: datasets.Dataset) -> list[bytes]:
    """The encoded file of each image."""
    cells = split.cast_column("image", datasets.Image(decode=False))["image"]
    return [cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes() for cell in cells]
