"""Small streamed data sets whose images carry their row: parquet files and tar files, here or on a hub."""

import io
import os
import tarfile
import time
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub import constants
from PIL import Image

from hf_mixup.data import Stream, StreamLoader, load_data
from hf_mixup.hub import retry

SIDE = 4
CLASSES = 100


def png(row: int) -> bytes:
    """An image whose every pixel is its row's number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE), row % 256, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of_split(rows, corrupt=(), classes=CLASSES, labels=None) -> datasets.Dataset:
    """A data set of encoded images with their row's number for a label."""
    names = [str(number) for number in range(classes)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    images = [{"bytes": b"broken" if row in corrupt else png(row), "path": f"{row}.png"} for row in rows]
    return datasets.Dataset.from_dict(
        {"image": images, "label": labels or [row % classes for row in rows]}, features=features
    )


def write_parquet(root: Path, shards=(40,), group=10, corrupt=(), split="train") -> Path:
    """Parquet files of so many rows each, numbered on, in row groups of `group` rows; with an evaluation split."""
    root.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, rows in enumerate(shards):
        name = f"{split}-{number:05}-of-{len(shards):05}.parquet"
        rows_of_split(range(first, first + rows), corrupt).to_parquet(root / name, batch_size=group)
        first += rows
    if split == "train":
        rows_of_split(range(6)).to_parquet(root / "test-00000-of-00001.parquet")
    return root


def write_tars(root: Path, shards=(40,), split="train") -> Path:
    """WebDataset shards of so many rows each, numbered on; with an evaluation split up to the last class."""
    (root / split).mkdir(parents=True, exist_ok=True)
    first = 0
    for number, rows in enumerate(shards):
        with tarfile.open(root / split / f"{number:05}.tar", "w") as tar:
            for row in [*range(first, first + rows)] if split == "train" else [*range(5), CLASSES - 1]:
                # as others write them: hidden members, more members than are wanted
                members = {"png": png(row), "cls": str(row).encode(), "json": b'{"label": %d}' % row}
                for ending, content in {**members, "txt": b"a caption"}.items():
                    member = tarfile.TarInfo(f"{row:06}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        first += rows
    return write_tars(root, (6,), "test") if split == "train" else root


def opened(data, **options):
    """`load_data` of a streamed data set."""
    return load_data(data=os.fspath(data), streaming=True, **options)


def stream_of(data, block=16, **options) -> Stream:
    """The training split of `load_data`, to be decoded."""
    columns = (data.image_column, data.label_column, SIDE)
    return Stream(data.train, *columns, classes=data.classes, rows=data.train_rows, block=block, **options)


def loader_of(data, rank=0, world=1, workers=0, size=4, seed=0, **options) -> StreamLoader:
    """Its batches on one process."""
    place = {"rank": rank, "world": world, "num_workers": workers}
    return StreamLoader(stream_of(data, **options), size, seed=seed, **place)


def labels(batches) -> list[int]:
    return [row for batch in batches for row in batch["labels"].tolist()]


def point_to(hub, monkeypatch, home: Path, token: str | None = None) -> None:
    """Let every client in this process ask this hub, with caches in `home`, and not wait long between two tries."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setattr(datasets.config, name, home / name)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(retry, "LONGEST", 0.01)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01)))
