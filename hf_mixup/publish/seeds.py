"""Results of one run, or of several that differ in their seed alone."""

import statistics
from collections.abc import Sequence

from ..errors import CardError
from .markdown import escaped

# the Hub's name of a metric, ours, and how it is printed
METRICS = (("accuracy", "top1", "Top-1"), ("accuracy", "top5", "Top-5"), ("nll", "nll", "NLL"), ("ece", "ece", "ECE"))


def same_recipe(runs: Sequence[dict]) -> list[dict]:
    """Finished runs of one recipe on the same data, in the order of their seeds; CardError if they are not."""
    first = _but_for_the_seed(runs[0])
    seen = {}
    for run in runs:
        who = f"The run with seed {run.get('seed')} (recipe {run.get('recipe_hash')})"
        if run.get("status") != "finished":
            raise CardError(f"{who} is not finished: a card tells results. Finish it with --resume, or leave it out.")
        if strange := [key for key, value in _but_for_the_seed(run).items() if first.get(key) != value]:
            raise CardError(f"{who} is of another recipe than the first: {', '.join(strange)} differ. Leave it out.")
        if run["seed"] in seen:
            raise CardError(f"There are two runs with seed {run['seed']}: leave one out, seeds are to differ.")
        seen[run["seed"]] = run
    return [seen[seed] for seed in sorted(seen)]


def _but_for_the_seed(run: dict) -> dict:
    recipe = {key: value for key, value in run.get("recipe", {}).items() if key != "seed"}
    data = run.get("data", {})
    return {
        **recipe,
        "data": data.get("path"),
        "data revision": data.get("revision"),
        "processes": run.get("world_size"),
    }


def results(runs: Sequence[dict]) -> str:
    """A table of the metrics: one run, or each seed's, their mean and their standard deviation."""
    data = runs[0]["data"]
    where = f"{escaped(data['eval_split'])} | {data['splits'][data['eval_split']]}"
    columns = [[run["final"].get(key) for run in runs] for _, key, _ in METRICS]
    if len(runs) == 1:
        row = " | ".join(shown(values[0]) for values in columns)
        return (
            "| split | rows | top-1 | top-5 | NLL | ECE (15 bins) |\n|---|---|---|---|---|---|\n"
            f"| {where} | {row} |\n\nOne run with seed {runs[0]['seed']}: no spread is known."
        )
    lines = ["| seed | split | rows | top-1 | top-5 | NLL | ECE (15 bins) |", "|---|---|---|---|---|---|---|"]
    for number, run in enumerate(runs):
        row = " | ".join(shown(values[number]) for values in columns)
        lines.append(f"| {run['seed']} | {where} | {row} |")
    for name, of in (("mean", statistics.mean), ("std", statistics.stdev)):
        row = " | ".join(shown(None if None in values else of(values)) for values in columns)
        lines.append(f"| {name} | {where} | {row} |")
    return "\n".join(lines) + f"\n\n{len(runs)} runs that differ in their seed alone; std divides by {len(runs) - 1}."


def shown(value: float | None) -> str:
    """A metric with four digits; a training that diverged has none."""
    return "none" if value is None else f"{value:.4f}"
