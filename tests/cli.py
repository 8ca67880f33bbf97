"""Runs small enough for tests: a recipe of a few seconds, folders of images, and the command line in this process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from hf_mixup.__main__ import main

ROOT = Path(__file__).parents[1]
RECIPE = {
    "data": "sample",
    "image_size": 16,
    "model": "resnet18",
    "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
    "optimizer": "momentum",
    "learning_rate": 0.05,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 100,
    "use_cpu": True,
    "disable_tqdm": True,
}


def picture(seed: int, size=(12, 14), mode="RGB") -> Image.Image:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def folder_of(root: Path, classes=("cat", "dog"), rows=6, splits=("train", "test")) -> Path:
    """A data set of class folders, `rows` images of each class in each split."""
    for split in splits:
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for row in range(rows):
                picture(100 * number + row).save(root / split / name / f"{row}.png")
    return root


def recipe_of(path: Path, data="sample", **fields) -> Path:
    """A recipe file of a tiny run, with these fields over its own."""
    values = RECIPE | {"data": str(data)} | fields
    path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items()))
    return path


def start(*argv) -> int:
    """The exit status of the command line with these words, run here."""
    return main([str(word) for word in argv])


def command(*argv, **options) -> subprocess.Popen:
    """The command line in a process of its own."""
    return python("-m", "hf_mixup", *argv, **options)


def python(*argv, environment=None, **options) -> subprocess.Popen:
    """Python in a process of its own, one thread, no network; its output is kept as text."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": variables}
    return subprocess.Popen([sys.executable, *map(str, argv)], **kept | options)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def hub_environment(hub, home: Path) -> dict[str, str]:
    """What `python(..., environment=...)` needs to talk to this hub, with a cache of its own in `home`."""
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_COLOR": "1"}
    return {**hub.env, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), **quiet}
