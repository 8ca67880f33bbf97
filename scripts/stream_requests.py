"""Count the requests of streams: python scripts/stream_requests.py

Splits of several layouts are pushed to a local Hub. Each reader then makes two passes over each split, in a process of
its own, and the Hub counts its requests: for file content (`ranges`), for the address of a file (`resolved`), and all
others (`others`). Images are random bytes and are not decoded. Writes hub_cards/records/stream_requests.json. Requires
`pip install 'hf_mixup[testing]'`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub import HfApi

from hf_mixup.data import Stream, load_data
from hf_mixup.files import atomic_write
from hf_mixup.runs.record import commit, versions
from hf_mixup.testing import LocalHub

RECORD = Path(__file__).parents[1] / "hub_cards" / "records" / "stream_requests.json"
FILES, BATCH, EPOCHS = 8, 64, 2
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
# Rows of the split, bytes of an image, rows of a row group.
LAYOUTS = {
    "2 kB images, a row group a file": (20_480, 2000, 20_480),
    "2 kB images, row groups of 100": (20_480, 2000, 100),
    "110 kB images, row groups of 100": (4096, 110_000, 100),
}
# Bytes of shuffle_memory and of stream_cache, relative to the split's images, and processes.
OURS = {
    "hf_mixup, all in memory": (2, 0, 1),
    "hf_mixup, an eighth in memory": (1 / 8, 0, 1),
    "hf_mixup, an eighth in the memory of each of 4 processes": (1 / 8, 0, 4),
    "hf_mixup, an eighth in the memory of each of 4 processes, stream_cache": (1 / 8, 2, 4),
}
DATASETS = "datasets, shuffle(buffer_size=1000)"


def push(hub: LocalHub, name: str, rows: int, size: int, group: int) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    rng, api = np.random.default_rng(0), HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(name, repo_type="dataset")
    for split, count, files in (("train", rows, FILES), ("test", 10, 1)):
        for number in range(files):
            cells = [{"bytes": rng.bytes(size), "path": None} for _ in range(count // files)]
            table = {"image": cells, "label": [row % 10 for row in range(len(cells))]}
            with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
                datasets.Dataset.from_dict(table, features=features).to_parquet(file.name, batch_size=group)
                target = f"data/{split}-{number:05}-of-{files:05}.parquet"
                api.upload_file(path_or_fileobj=file.name, path_in_repo=target, repo_id=name, repo_type="dataset")


def passes(reader: str, name: str, size: int, folder: str):
    """Read the split twice; yields the number of rows after each pass."""
    if reader == DATASETS:
        split = datasets.load_dataset(name, split="train", streaming=True)
        split = split.cast_column("image", datasets.Image(decode=False)).shuffle(seed=0, buffer_size=1000)
        for epoch in range(EPOCHS):
            split.set_epoch(epoch)
            yield sum(1 for _ in split)
        return
    memory, cached, world = OURS[reader]
    data = load_data(data=name, streaming=True)
    cache = (f"{folder}/images", cached * size) if cached else None
    options = {"labels": data.labels, "memory": int(memory * size), "cache": cache}
    streams = [Stream(data.train, "image", "label", 32, **options) for _ in range(world)]
    samplers = [stream.sampler(BATCH, seed=0, rank=rank, world=world) for rank, stream in enumerate(streams)]
    for epoch in range(EPOCHS):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        yield sum(_rows(batch) for sampler in samplers for batch in sampler)


def _rows(batch: list | Exception) -> int:
    if isinstance(batch, Exception):
        raise batch
    return len(batch)


def counted(requests: list) -> dict:
    """The number of requests of each kind."""
    kinds = Counter(_kind(request.path) for request in requests)
    return {kind: kinds[kind] for kind in ("ranges", "resolved", "others")}


def _kind(path: str) -> str:
    return "ranges" if "/_large/" in path else "resolved" if "/resolve/" in path else "others"


def measured(hub: LocalHub, reader: str, name: str, rows: int, size: int) -> dict:
    """Requests of a new process until the first pass ends, and of its later passes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = hub.env | {"HF_HOME": f"{folder}/home", **QUIET}
        command = [sys.executable, __file__, reader, name, str(rows * size), folder]
        before, found = len(hub.requests), {}
        with subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True) as process:
            for epoch, line in enumerate(process.stdout):
                after = len(hub.requests)
                found[f"epoch {epoch}"] = counted(hub.requests[before:after]) | {"rows": int(line)}
                before = after
        if process.returncode:
            raise SystemExit(f"{reader} failed.")
    return found


def main() -> None:
    if len(sys.argv) > 1:
        reader, name, size, folder = sys.argv[1:]
        for rows in passes(reader, name, int(size), folder):
            print(rows, flush=True)
        return
    record = {"commit": commit(), "versions": versions(), "batch": BATCH, "files": FILES, "layouts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for number, (layout, (rows, size, group)) in enumerate(LAYOUTS.items()):
            with LocalHub(f"{folder}/{number}") as hub:
                push(hub, "user/images", rows, size, group)
                found = {reader: measured(hub, reader, "user/images", rows, size) for reader in [*OURS, DATASETS]}
            record["layouts"][layout] = {"rows": rows, "image_bytes": size, "readers": found}
            print(layout, json.dumps(found, indent=1), flush=True)
    atomic_write(RECORD, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
