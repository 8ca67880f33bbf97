"""Results of one run, or of several runs that differ only in their seed."""

import statistics
from collections.abc import Sequence

from ..errors import CardError
from ..hub.markdown import escaped

TITLES = {"top1": "top-1", "top5": "top-5", "ece": "ECE (15 bins)"}  # of columns, if not the metric's title


def columns_of(runs: Sequence[dict]) -> dict[str, str]:
    """Key and title of each metric in a table of these runs: the task's metrics, or the loss if there are none."""
    task, found = runs[0]["task"], runs[0]["final"]
    titles = {metric["key"]: TITLES.get(metric["key"], metric["title"]) for metric in task["metrics"]}
    keys = [*titles, *(key for key in found if key not in titles and key != "loss")] or ["loss"]
    return {key: titles.get(key, key) for key in keys}


def same_recipe(runs: Sequence[dict]) -> list[dict]:
    """The runs ordered by seed; CardError unless all are finished and of the same recipe and data."""
    first = _without_seed(runs[0])
    by_seed = {}
    for run in runs:
        name = f"The run with seed {run.get('seed')} (recipe {run.get('recipe_hash')})"
        if run.get("status") != "finished":
            raise CardError(f"{name} is not finished and has no results. Finish it with --resume, or leave it out.")
        if differing := [key for key, value in _without_seed(run).items() if first.get(key) != value]:
            raise CardError(
                f"{name} is not of the same recipe as the first run: {', '.join(differing)} differ. Leave it out."
            )
        if run["seed"] in by_seed:
            raise CardError(f"There are two runs with seed {run['seed']}: seeds must differ. Leave one out.")
        by_seed[run["seed"]] = run
    return [by_seed[seed] for seed in sorted(by_seed)]


def _without_seed(run: dict) -> dict:
    recipe = {key: value for key, value in run.get("recipe", {}).items() if key != "seed"}
    data = run.get("data", {})
    return {
        **recipe,
        "data": data.get("path"),
        "data revision": data.get("revision"),
        "processes": run.get("world_size"),
    }


def results(runs: Sequence[dict]) -> str:
    """A Markdown table of the metrics of one run, or of each seed with mean and standard deviation."""
    data = runs[0]["data"]
    if data["eval_split"] is None:
        return "The run was not evaluated."
    split = f"{escaped(data['eval_split'])} | {data['splits'][data['eval_split']]}"
    titles = columns_of(runs)
    columns = [[run["final"].get(key) for run in runs] for key in titles]
    header = f"split | rows | {' | '.join(map(escaped, titles.values()))} |"
    rule = "|---" * (2 + len(titles)) + "|"
    if len(runs) == 1:
        row = " | ".join(formatted(values[0]) for values in columns)
        return (
            f"| {header}\n{rule}\n| {split} | {row} |\n\n"
            f"One run with seed {runs[0]['seed']}: the spread over seeds is not known."
        )
    lines = [f"| seed | {header}", f"|---{rule}"]
    for number, run in enumerate(runs):
        row = " | ".join(formatted(values[number]) for values in columns)
        lines.append(f"| {run['seed']} | {split} | {row} |")
    for name, statistic in (("mean", statistics.mean), ("std", statistics.stdev)):
        row = " | ".join(formatted(None if None in values else statistic(values)) for values in columns)
        lines.append(f"| {name} | {split} | {row} |")
    return "\n".join(lines) + f"\n\n{len(runs)} runs that differ only in their seed; std divides by {len(runs) - 1}."


def formatted(value: float | None) -> str:
    """A metric with four decimals, "none" for the missing metric of a run that diverged."""
    return "none" if value is None else f"{value:.4f}"
