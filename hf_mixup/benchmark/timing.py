"""Timing of candidates in rounds: each round runs all of them in random order, until the time is over."""

import json
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..files import atomic_write
from ..ops.sampling import generator

PACKAGES = ("torch", "torchvision", "timm", "kornia", "mixup", "mlxops-aug", "numpy", "hf_mixup")
PACKAGES += ("transformers", "datasets", "accelerate", "huggingface_hub", "pillow", "pyarrow")


@dataclass(frozen=True)
class Times:
    """Milliseconds per call: median, lower and upper quartile over `rounds` calls."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def from_seconds(cls, seconds: list[float]) -> "Times":
        low, median, high = quartiles([1e3 * second for second in seconds])
        return cls(round(median, 4), round(low, 4), round(high, 4), len(seconds))


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile, without interpolation."""
    ordered = sorted(values)
    return [ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.25, 0.5, 0.75)]


def interleaved(
    calls: dict[str, Callable[[], object]], seconds: float, fewest: int = 7, most: int = 400, warm_up: int = 3
) -> dict[str, list[float]]:
    """Seconds of each of `calls` in each round; every round runs all of them in a new random order.

    Measures processor time with one thread on a CPU, which other processes do not affect, else wall time. Runs for
    `seconds`, at least `fewest` and at most `most` rounds, after `warm_up` rounds that are not counted.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else _wall
    order, taken = list(calls), {name: [] for name in calls}
    end = None
    while end is None or len(taken[order[0]]) < fewest or (time.perf_counter() < end and len(taken[order[0]]) < most):
        random.shuffle(order)
        for name in order:
            start = clock()
            calls[name]()
            taken[name].append(clock() - start)
        if end is None and len(taken[order[0]]) == warm_up:
            end, taken = time.perf_counter() + seconds, {name: [] for name in calls}
    return taken


def _wall() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def batch(size: tuple[int, int, int, int], classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Reproducible images and class indices."""
    rng = generator(0)
    return torch.randn(size, generator=rng), torch.randint(classes, size[:1], generator=rng)


def machine() -> dict:
    """Hardware and versions, for records."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    name = found.get("model name", platform.machine())
    return f"{name} (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else name


def write(path: Path, record: dict) -> None:
    """Write a record atomically."""
    atomic_write(path, json.dumps(record, indent=1) + "\n")
