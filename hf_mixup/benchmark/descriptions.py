"""What a method or task is, needs and costs, in words: from its class, docstrings and the record of step costs."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..components import arguments
from ..errors import ConfigError
from ..files import hub_card
from ..methods import NESTED, Method, available, load
from ..methods._base import REQUIREMENTS
from ..tasks import Task, available_tasks, load_task
from .method_table import GROUPS, needs, on_any_batch

COSTS = "speed/step.json"
NEEDS = {  # what `needs` returns, explained
    "the network": "the network, whose features, gradients or attention it uses",
    "a training step": "a training step, because it computes losses of its own",
    "a teacher": "a teacher, a second network",
}


def method_summaries() -> list[tuple[str, ...]]:
    """Name, title, group, needs and one line for each method; the error of one that could not be loaded."""
    return [_summary(name, load, lambda m: (m.title, m.group, needs(m), summary(m)), 4) for name in available()]


def method_description(name: str) -> dict[str, Any]:
    """What a method is; `name` as in `load`. ConfigError for an unknown one."""
    method = _loaded(load, name)
    group = GROUPS.get(method.group)
    return {
        "name": method.name,
        "title": method.title,
        "group": f"{method.group} ({group})" if group else method.group,
        "summary": summary(method),
        "paper": method.link,
        "needs": NEEDS.get(needs(method), needs(method)),
        "works_in": f"MixupTrainer{', a data loader, a collator or a plain loop' if on_any_batch(method) else ''}",
        "tasks": _tasks(method),
        "cost": step_costs().get(method.name),
        "arguments": arguments(type(method), NESTED),
    }


def task_summaries() -> list[tuple[str, ...]]:
    """Name, kind of labels, metrics and one line for each task; the error of one that could not be loaded."""
    return [_summary(name, load_task, lambda t: (t.reads, _metrics(t), summary(t)), 3) for name in available_tasks()]


def task_description(name: str) -> dict[str, Any]:
    """What a task is; `name` as in `load_task`. ConfigError for an unknown one."""
    task = _loaded(load_task, name)
    return {
        "name": task.name,
        "title": task.card.title,
        "summary": summary(task),
        "labels": task.reads,
        "metrics": _metrics(task),
        "best": f"{task.metric}, {'higher' if task.higher_is_better else 'lower'} is better",
        "views": task.views,
        "provides": _in_words(task.provides) or "nothing that a method may require",
        "arguments": arguments(type(task)),
    }


def step_costs() -> dict[str, dict]:
    """The measured cost of a training step of each method: `extra_passes`, `relative` to a plain step, `network`."""
    file = hub_card(COSTS)
    return json.loads(file.read_text(encoding="utf-8"))["methods"] if file.is_file() else {}


def summary(component: Method | Task) -> str:
    """The first paragraph of the module's docstring, else of the class's, without the title before a colon."""
    kind = type(component)
    text = (sys.modules[kind.__module__].__doc__ or kind.__doc__ or "").strip()
    if text.startswith(f"{kind.__name__}("):  # the signature, which dataclasses give a class without a docstring
        text = ""
    title, colon, rest = " ".join(text.partition("\n\n")[0].split()).partition(": ")
    line = rest if colon and len(title.split()) <= 4 else title + colon + rest
    return line[:1].upper() + line[1:]


def _tasks(method: Method) -> str:
    """The package's tasks that provide what a method requires, and what other tasks have to provide."""
    required = {key for part in method.modules() if isinstance(part, Method) for key in part.requires}
    if not required:
        return "any"
    names = [name for name in available_tasks() if required <= load_task(name).provides]
    return f"{', '.join([*names, 'or others'])} with {_in_words(required)}"


def _in_words(requirements: Iterable[str]) -> str:
    return " and ".join(REQUIREMENTS.get(key, key) for key in sorted(requirements))


def _metrics(task: Task) -> str:
    return ", ".join(dict.fromkeys(["loss", *(metric.key for metric in task.card.metrics), task.metric]))


def _summary(name: str, loader: Callable, describe: Callable[[Any], tuple[str, ...]], columns: int) -> tuple[str, ...]:
    try:
        return (name, *describe(_loaded(loader, name)))
    except ConfigError as error:  # of an installed package: the others are listed
        return (name, *[""] * (columns - 1), str(error))


def _loaded(loader, name: str) -> Any:
    try:
        return loader(name)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
