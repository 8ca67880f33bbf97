"""The images that the input paths are measured on, on a Hub of this machine.

Photographs are not part of the package: these are its sample, enlarged, coloured and with noise of all scales, so that
a file has about the bytes of a photograph of its size, and takes as long to decode.
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
OCTAVES = 5  # of noise, each with twice the side and half the strength
STRENGTH = 24  # of the coarsest noise, grey levels
QUALITY = 90  # of JPEG


@dataclass(frozen=True)
class Case:
    """Images of one size, as a recipe of that size has them: files of `side` pixels, crops of `size`."""

    size: int
    side: int
    file: str
    rows: int
    batch: int
    classes: int = 10

    @property
    def resized(self) -> bool:
        """Whether a random share is cropped and resized, instead of a padded image cropped."""
        return self.side > self.size

    @property
    def name(self) -> str:
        """The repository on the local Hub."""
        return f"user/images-{self.size}"


CASES = (Case(32, 32, "PNG", 20_480, 128), Case(224, 256, "JPEG", 2048, 64))
# rows that are classes of their own, so that labels tell whether each was seen once
QUICK = (Case(32, 32, "PNG", 64, 4, classes=64), Case(224, 256, "JPEG", 64, 4, classes=64))


def made(case: Case) -> datasets.DatasetDict:
    """Training and test split of `case`, the same each time."""
    sample = load_data().train.with_format("numpy")["image"]
    names = datasets.ClassLabel(names=[str(number) for number in range(case.classes)])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    splits = {}
    for seed, (split, rows) in enumerate((("train", case.rows), ("test", min(TEST_ROWS, case.rows)))):
        rng = np.random.default_rng(seed)
        files = [picture(sample[row % len(sample)], case, rng) for row in range(rows)]
        columns = {
            "image": [{"bytes": file, "path": None} for file in files],
            "label": [row % case.classes for row in range(rows)],
        }
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    return datasets.DatasetDict(splits)


def picture(pixels: np.ndarray, case: Case, rng: np.random.Generator) -> bytes:
    """The encoded image: `pixels` enlarged to `case.side`, in a random colour, under noise."""
    shape = (case.side, case.side)
    grey = np.asarray(Image.fromarray(np.asarray(pixels)).convert("L").resize(shape, Image.Resampling.BICUBIC))
    x = grey[..., None] * rng.uniform(0.4, 1, 3)
    for octave in range(OCTAVES):
        side = max(1, case.side >> (OCTAVES - 1 - octave))
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        x = x + (np.asarray(noise.resize(shape, Image.Resampling.BILINEAR)) / 127.5 - 1) * (STRENGTH / 2**octave)
    file = BytesIO()
    options = {"quality": QUALITY} if case.file == "JPEG" else {}
    Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(file, case.file, **options)
    return file.getvalue()


def own(folder: Path, case: Case) -> datasets.DatasetDict:
    """The splits of a folder that `datasets` loads, cut to whole batches in every shard; DataError if too few."""
    columns = ["image", "label"]
    data = load_data(data=str(folder))
    whole = SHARDS * case.batch
    rows = min(case.rows, len(data.train)) // whole * whole
    if not rows:
        raise DataError(f"{folder} has {len(data.train)} training images: give at least {whole}, or leave --data out.")
    test = data.eval.select(range(min(TEST_ROWS, len(data.eval))))
    train = data.train.shuffle(seed=0).select(range(rows))
    return datasets.DatasetDict({"train": train.select_columns(columns), "test": test.select_columns(columns)})


def publish(splits: datasets.DatasetDict, case: Case) -> dict:
    """Push the splits to the Hub of this process's environment, and say what they are."""
    splits.push_to_hub(case.name, num_shards={"train": SHARDS, "test": 1})
    files = encoded(splits["train"])
    return {
        "rows": len(files),
        "shards": SHARDS,
        "bytes_an_image": round(sum(map(len, files)) / len(files)),
        "sha256": hashlib.sha256(b"".join(files)).hexdigest(),
    }


def encoded(split: datasets.Dataset) -> list[bytes]:
    """The file of each image."""
    cells = split.cast_column("image", datasets.Image(decode=False))["image"]
    return [cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes() for cell in cells]
