"""Where the time of a mix goes: python -m hf_mixup.benchmark.profile

The operators of one call, `out` given, by their own processor time: what limits a case of the speed record.
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
    """Operators a call, their milliseconds in all, and those that take most."""
    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(CALLS):
            call()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
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
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="cases with one of these words")
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
