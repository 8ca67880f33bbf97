"""Time to mix a batch, compared with other installed libraries: python -m hf_mixup.benchmark.speed

A case is a method, a batch size, and one draw per batch or per image; in each round all candidates of a case run once.
Each case is written to the record as soon as it is measured; cases in the record are not measured again. The floor is
one read and one write of the batch: `torch.add(x, 1, out=buffer)`.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..methods import load
from ..ops.sampling import generator
from ..tasks.classification import targets
from .peers import candidates
from .timing import Times, batch, interleaved, machine, write

SIZES = ((128, 3, 32, 32), (128, 3, 64, 64), (64, 3, 224, 224))
CLASSES = 100
CELLS = {32: 4, 64: 7, 224: 7}  # side of the teacher's map, by image side
# methods with the papers' settings; VARIANTS have the settings with which other libraries do the same work
STATIC = ("mixup", "cutmix", "resizemix", "fmix", "gridmix", "smoothmix", "saliencymix", "hmix", "gmix")
VARIANTS = {
    "resizemix nearest": {"name": "resizemix", "interpolation": "nearest"},
    "saliencymix spectral": {"name": "saliencymix", "detector": "spectral"},
}
GRIDS = {32: (2, 4, 8, 16), 64: (2, 4, 8), 224: (2, 4, 8)}
# page faults of new large tensors cost more than mixing; with these settings glibc keeps its memory
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}


def cases() -> Iterator[dict]:
    """Every method, with one draw per batch and per image, at every size."""
    for size in SIZES:
        for name in (*STATIC, *VARIANTS):
            for per_image in (False, True):
                yield {"case": name, "per_image": per_image, "size": size}
        yield {"case": "attentivemix", "per_image": False, "size": size}
        for grid in GRIDS[size[-1]]:
            yield {"case": f"puzzlemix grid {grid}", "per_image": False, "size": size}


class PrecomputedMaps:
    """A saliency map and a teacher's map, in place of networks."""

    def __init__(self, size: tuple[int, ...]):
        count, cells = size[0], CELLS[size[-1]]
        rng = generator(1)
        self.map = torch.rand(count, *size[-2:], generator=rng)
        self.activation = torch.rand(count, cells, cells, generator=rng)

    def saliency(self, x: Tensor, y: Tensor) -> Tensor:
        return self.map


def method_of(case: dict, maps: PrecomputedMaps, **arguments):
    """The method of a case, with precomputed maps in place of its networks."""
    name = case["case"]
    if name.startswith("puzzlemix"):
        return load("puzzlemix", grids=(int(name.split()[-1]),), **arguments)
    if name == "attentivemix":
        method = load("attentivemix", top_k=None, teacher=None, **arguments)
        method.activation = lambda net, x: maps.activation
        return method
    return load(VARIANTS.get(name, name), per_image=case["per_image"], **arguments)


def ours(case: dict, x: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Our functions: with a new output tensor, with a reused one, and in place."""
    maps, buffer, copy = PrecomputedMaps(case["size"]), torch.empty_like(x), x.clone()

    def call(images, out, **arguments):
        method, rng = method_of(case, maps, **arguments), generator(0)

        def mix():
            y = targets(labels, CLASSES)
            mixed, mix = method.mix(maps, images, y, rng, out)
            return mixed, mix(y)

        return mix

    calls = {"ours": call(x, None), "ours, out": call(x, buffer)}
    if not case["case"].startswith("puzzlemix"):
        calls["ours, in place"] = call(copy, copy, pairing="halves")
    return calls


def peers(case: dict, x: Tensor, labels: Tensor, checkout: Path | None) -> dict[str, Callable[[], object]]:
    """Functions of other libraries, each with its own copy of the images, because some write to them."""
    name, maps, options = case["case"].split()[0], PrecomputedMaps(case["size"]), {}
    if name == "puzzlemix":
        power = int(case["case"].split()[-1]).bit_length() - 1
        options = {"features": maps.map, "block_num": (power, power + 1), "n_labels": 3, "t_eps": 0.8, "neigh_size": 4}
    elif name == "attentivemix":
        options = {"features": maps.activation[:, None], "top_k": None, "grid_scale": x.shape[-1] // CELLS[x.shape[-1]]}
    found = candidates(name, case["per_image"], CLASSES, checkout, **options)
    return {peer: partial(mix, x.clone(), labels) for peer, mix in found.items()}


def measure(case: dict, seconds: float, checkout: Path | None) -> dict[str, dict]:
    """Times of floor, our functions and other libraries', by name; the error of a library whose function fails."""
    x, labels = batch(case["size"], CLASSES)
    buffer = torch.empty_like(x)
    calls, failed = {"floor": lambda: torch.add(x, 1, out=buffer), **ours(case, x, labels)}, {}
    for name, call in peers(case, x, labels, checkout).items():
        try:
            call()
            calls[name] = call
        except Exception as error:  # an error of another library is recorded instead of its time
            failed[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {name: asdict(Times.from_seconds(taken)) for name, taken in interleaved(calls, seconds).items()} | failed


def main() -> None:
    options = _options()
    if options.kept_memory is not None:
        _measure_all(options)
        return
    for threads in options.threads:
        for kept in (0, 1):
            # threads and memory settings apply to a whole process
            environment = {key: value for key, value in os.environ.items() if key not in KEPT_MEMORY}
            environment |= {"OMP_NUM_THREADS": str(threads)} | (KEPT_MEMORY if kept else {})
            command = [sys.executable, "-m", __spec__.name, *sys.argv[1:]]
            subprocess.run(
                [*command, "--threads", str(threads), "--kept_memory", str(kept)], env=environment, check=True
            )


def _measure_all(options: argparse.Namespace) -> None:
    """Measure the cases that are not in the record, with this process's threads and memory settings."""
    [threads] = options.threads
    torch.set_num_threads(threads)
    record = json.loads(options.record.read_text()) if options.record.is_file() else {"cases": []}
    record |= {"machine": machine(), "classes": CLASSES}
    done = {_key(case) for case in record["cases"]}
    for case in cases():
        case |= {"threads": threads, "kept_memory": bool(options.kept_memory)}
        if _key(case) in done or not any(word in case["case"] for word in options.only):
            continue
        case["milliseconds"] = measure(case, options.seconds, options.openmixup)
        record["cases"].append(case)
        write(options.record, record)
        print(_line(case), flush=True)


def _key(case: dict) -> tuple:
    return case["case"], case["per_image"], tuple(case["size"]), case["threads"], case["kept_memory"]


def _line(case: dict) -> str:
    times = {name: time["median"] for name, time in case["milliseconds"].items() if "median" in time}
    shown = ", ".join(f"{name} {time:.2f} ({time / times['floor']:.1f}x)" for name, time in times.items())
    size = "x".join(map(str, case["size"]))
    return f"{case['case']}{' per image' * case['per_image']}, {size}, {case['threads']} thread(s): {shown}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--record", type=Path, default=Path("hub_cards/speed/batch.json"), help="file to write and resume"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each case")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="only cases that contain one of these words"
    )
    parser.add_argument("--openmixup", type=Path, help="checkout of OpenMixup to compare with")
    parser.add_argument("--kept_memory", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
