"""Measure the throughput of input paths in images per second: python -m hf_mixup.benchmark.input

Our loaders, timm's streaming reader and the data path of transformers' example script read the same images, from a
local Hub in a separate process or from the disk; decoding alone and reading alone are upper limits. In each round every
path makes one pass over the data, in random order, on one thread, with and without worker processes. Afterwards each
path feeds a simulated model whose step takes longer than a batch, which gives the share of time spent waiting for data.
Requires `pip install 'hf_mixup[testing]'`.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import datasets
import torch

from ..errors import DataError
from ..runs.record import commit
from ..testing import LocalHub
from .input_data import CASES, QUICK, Case, generated_splits, push, splits_of_folder
from .input_peers import FLIP, PADDING, SCALE, InputPath, limits, paths
from .timing import machine, quartiles, write

WARM_UP = 4  # batches before the first round
STEP_FACTOR = 1.5  # duration of the simulated model's step, relative to the time per batch of the path
STEPS = 48  # of the simulated model
# not measured, because it would be most of the time of a pass over so few images
EXCLUDED = "the 5 s that datasets sleeps at the end of a shuffled pass, which timm's reader has"
SCHEMA_VERSION = 1
EXHAUSTED = object()


@dataclass
class Pass:
    """One pass over the data: images; seconds to the first batch, to the last batch, and from there to the end."""

    rows: int = 0
    first: float = 0.0
    seconds: float = 0.0
    end: float = 0.0
    labels: list[torch.Tensor] = field(default_factory=list)


def one_pass(path: InputPath, epoch: int, max_batches: int | None = None) -> Pass:
    """The wall time of a pass over all batches, or over the first `max_batches`."""
    result, start = Pass(), time.perf_counter()
    for batch in islice(path.open(epoch), max_batches):
        rows, labels = path.ready(batch)
        result.seconds = time.perf_counter() - start
        result.first = result.first or result.seconds
        result.rows += rows
        if labels is not None:
            result.labels.append(labels)
    result.end = time.perf_counter() - start - result.seconds
    return result


def in_rounds(candidates: dict[str, InputPath], rounds: int, warm_up: int) -> dict[str, list[Pass]]:
    """The passes of each candidate; each round runs all of them in random order."""
    if warm_up:
        for path in candidates.values():
            one_pass(path, 0, warm_up)
    order, passes = list(candidates), {name: [] for name in candidates}
    for epoch in range(rounds):
        random.Random(epoch).shuffle(order)
        for name in order:
            passes[name].append(one_pass(candidates[name], epoch))
    return passes


def summary(passes: list[Pass], expected: torch.Tensor) -> dict:
    """Images per second with quartiles, seconds to the first and after the last batch, whether all images were read."""
    low, median, high = quartiles([one.rows / one.seconds for one in passes])
    return {
        "images_per_s": {"median": round(median, 1), "low": round(low, 1), "high": round(high, 1)},
        "first_s": round(quartiles([one.first for one in passes])[1], 4),
        "end_s": round(quartiles([one.end for one in passes])[1], 4),
        "rounds": len(passes),
        "rows": passes[0].rows,
        **({"covers": all(_covers(one, expected) for one in passes)} if passes[0].labels else {}),
    }


def _covers(one: Pass, expected: torch.Tensor) -> bool:
    return torch.equal(torch.cat(one.labels).bincount(minlength=len(expected)), expected)


def measure_waiting(path: InputPath, step: float, steps: int) -> dict:
    """Share of time that a model with steps of `step` seconds waits for its batches, without the first one."""
    batches = iter(path.open(0))
    path.ready(next(batches))
    waits, start = [], time.perf_counter()
    for _ in range(steps):
        requested = time.perf_counter()
        batch = next(batches, EXHAUSTED)
        if batch is EXHAUSTED:
            break
        waits.append(time.perf_counter() - requested)
        path.ready(batch)
        time.sleep(step)
    share = sum(waits) / (time.perf_counter() - start)
    return {
        "share": round(share, 4),
        "longest_s": round(max(waits), 4),
        "step_s": round(step, 4),
        "steps": len(waits),
    }


def measure(case: Case, train: datasets.Dataset, workers: int, options: argparse.Namespace) -> dict:
    """Measure all paths and limits at one image size with `workers` processes; results by name."""
    measured = paths(case, workers, options.folder / "run")
    upper = limits(case, workers, train)
    passes = in_rounds(measured | upper, options.rounds, 0 if options.quick else WARM_UP)
    expected = torch.tensor(train["label"]).bincount(minlength=case.classes)
    results = {name: summary(rounds, expected) for name, rounds in passes.items()}
    for name, path in measured.items():
        step = STEP_FACTOR * case.batch / results[name]["images_per_s"]["median"]
        results[name]["waiting"] = measure_waiting(path, step, 2 if options.quick else STEPS)
    return {"workers": workers, "paths": {name: results[name] for name in measured}} | {
        "limits": {name: results[name] for name in upper}
    }


def cases(options: argparse.Namespace) -> Iterator[dict]:
    """A measurement for each image size and number of workers, after the data is pushed to the local Hub."""
    for case in QUICK if options.quick else CASES:
        if case.size not in options.size:
            continue
        folder = options.data if case.resized else None
        splits = splits_of_folder(folder, case) if folder else generated_splits(case)
        data = push(splits, case)
        crop = {"random_resized_crop": SCALE} if case.resized else {"crop_padding": PADDING}
        common = {
            "size": case.size,
            "batch": case.batch,
            "data": data | {"made": _origin(case, folder)},
            "augmentation": crop | {"flip": FLIP, "interpolation": "bilinear"},
        }
        for workers in options.workers:
            yield common | measure(case, splits["train"], workers, options)


def _origin(case: Case, folder: Path | None) -> str:
    if folder is not None:
        return f"images of the folder {folder.name}"
    return f"the package's sample, enlarged to {case.side} px, coloured, with noise of all scales, as {case.file}"


def main() -> int:
    options = _options()
    if options.folder is not None:
        return _measure_all(options)
    # the measurement is a subprocess, so that the Hub's threads do not share its interpreter
    with tempfile.TemporaryDirectory() as folder, LocalHub(Path(folder) / "hub") as hub:
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        settings = {"HF_HOME": f"{folder}/home", "OMP_NUM_THREADS": "1", **quiet}
        environment = (
            {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | hub.env | settings
        )
        command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--folder", folder]
        return subprocess.run(command, env=environment).returncode


def _measure_all(options: argparse.Namespace) -> int:
    """Measure with the Hub of the environment variables, and write the record after each case."""
    torch.set_num_threads(1)
    datasets.logging.set_verbosity_error()
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    record = {"schema_version": SCHEMA_VERSION, "machine": machine(), "commit": commit(), "threads": 1}
    record |= {"left_out": EXCLUDED, "cases": []}
    try:
        for case in cases(options):
            record["cases"].append(case)
            write(options.out, record)
            print(_lines(case), flush=True)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _lines(case: dict) -> str:
    lines = [f"{case['size']} px, {case['workers']} worker(s), {case['data']['rows']} images:"]
    for name, result in (case["paths"] | case["limits"]).items():
        ends = f"first batch after {result['first_s']:.2f} s, {result['end_s']:.2f} s after the last"
        share = f", waits {result['waiting']['share']:.1%}" if "waiting" in result else ""
        lines.append(f"  {name:<30} {result['images_per_s']['median']:9.0f} images/s, {ends}{share}")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    sizes = [case.size for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hub_cards/speed/input.json"), help="file to write")
    parser.add_argument("--size", type=int, nargs="+", default=sizes, choices=sizes, help="crop sizes, pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="worker processes of a loader")
    parser.add_argument("--data", type=Path, help="folder of photographs for the larger size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few images, as a smoke test: the numbers are meaningless")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    return options


if __name__ == "__main__":
    sys.exit(main())
