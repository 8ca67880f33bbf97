"""Write hf_mixup/data/sample/{train,test}.parquet: 200 + 50 images of each class of Fashion-MNIST.

    python scripts/make_sample.py FOLDER

FOLDER contains the four files of github.com/zalandoresearch/fashion-mnist, such as train-images-idx3-ubyte.gz (also in
Debian's package dataset-fashion-mnist). Training rows are drawn from train, test rows from t10k, for each class by
numpy's PCG64 with seed 0, and keep the order of the file. Rows and pixels are reproducible; PNG bytes depend on the
version of Pillow.
"""

import argparse
import gzip
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PER_CLASS = {"train": 200, "test": 50}
FILES = {"train": "train", "test": "t10k"}
SEED = 0
SIDE = 28
# bytes before the data in an IDX file: a magic number and one length per dimension
IMAGE_HEADER, LABEL_HEADER = 16, 8
TARGET = Path(__file__).parents[1] / "hf_mixup" / "data" / "sample"


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (rows, 28, 28) and labels (rows,) of one split, uint8."""
    images = gzip.decompress((folder / f"{FILES[split]}-images-idx3-ubyte.gz").read_bytes())[IMAGE_HEADER:]
    labels = gzip.decompress((folder / f"{FILES[split]}-labels-idx1-ubyte.gz").read_bytes())[LABEL_HEADER:]
    return np.frombuffer(images, np.uint8).reshape(-1, SIDE, SIDE), np.frombuffer(labels, np.uint8)


def choose(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Sorted row numbers: `per_class` of each class, drawn without replacement."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    rows = [rng.choice(np.flatnonzero(labels == name), per_class, replace=False) for name in range(len(NAMES))]
    return np.sort(np.concatenate(rows))


def png(pixels: np.ndarray) -> dict:
    """The value of an Image column for one image."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return {"bytes": buffer.getvalue(), "path": None}


def main() -> None:
    """Write both files and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the four .gz files")
    folder = parser.parse_args().folder
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    TARGET.mkdir(parents=True, exist_ok=True)
    for split, per_class in PER_CLASS.items():
        images, labels = read(folder, split)
        rows = choose(labels, per_class)
        columns = {"image": [png(images[row]) for row in rows], "label": labels[rows].tolist()}
        path = TARGET / f"{split}.parquet"
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
        print(f"{path}: {len(rows)} rows, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
