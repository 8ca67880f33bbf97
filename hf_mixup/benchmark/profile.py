"""Operators of one mix and their processor time: python -m hf_mixup.benchmark.profile

Profiles the cases of the speed benchmark with `out` given.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from .speed import CLASSES, cases, ours
from .timing import batch, machine, write

CALLS, SHOWN = 20, 6


def operators(call: Callable[[], object]) -> dict:
    """Number of operators per call, their total milliseconds, and the most expensive ones."""
    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(CALLS):
            call()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {
        "operators": round(sum(event.count for event in events) / CALLS),
        "milliseconds": _milliseconds(sum(event.self_cpu_time_total for event in events)),
        "most": {event.key: _milliseconds(event.self_cpu_time_total) for event in events[:SHOWN]},
    }


def _milliseconds(microseconds: float) -> float:
    return round(microseconds / 1e3 / CALLS, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=Path("hub_cards/speed/profile.json"), help="file to write")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="WORD", help="only cases that contain one of these words"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for case in cases():
        if any(word in case["case"] for word in options.only):
            call = ours(case, *batch(case["size"], CLASSES))["ours, out"]
            found.append(case | operators(call))
            print(found[-1], flush=True)
            write(options.record, {"machine": machine(), "cases": found})


if __name__ == "__main__":
    main()
