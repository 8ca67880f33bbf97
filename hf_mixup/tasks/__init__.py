"""Tasks, one per file; the registry is the list of the files in this folder, and of installed entry points."""

from collections.abc import Callable
from typing import Any

from ..components import construct
from ..components.references import is_reference
from ._base import CLASSES, CLASSIFIER, SOFTMAX, TASKS, Card, Metric, Task
from ._definition import checked
from ._function import FunctionTask

DEFAULT = "classification"
PROBLEM_TYPES = {"single_label_classification": DEFAULT, "multi_label_classification": "multilabel"}


def available_tasks() -> list[str]:
    """The names of all tasks, sorted: those of the package, and entry points of the group `hf_mixup.tasks`."""
    return TASKS.names()


def load_task(name: str | type[Task] | Callable, **arguments: Any) -> Task:
    """The task `name` with its arguments.

    `name`: a name of `available_tasks()`, or one of the user's own as `package.module:Class` or
    `path/to/file.py:Class`; or a class derived from Task, a Task (returned unchanged), or a function
    `(net, batch, rng) -> (net, x, y)`. ValueError if a part of the task's class is missing or wrong.
    """
    if isinstance(name, str):
        task = checked(construct(TASKS.load_class(name, Task), f"Task {name!r}", arguments))
        task.full_name = name if is_reference(name) else ""
        return task
    if isinstance(name, type) and issubclass(name, Task):
        return checked(construct(name, f"Task {name.__name__!r}", arguments))
    if arguments:
        raise ValueError(f"{name!r} is already built: give {', '.join(arguments)} when loading a task by name.")
    if not callable(name):
        raise ValueError(f"task is {name!r}: give the name of a task, a Task, or a function (net, batch, rng).")
    if isinstance(name, FunctionTask):
        return name
    return checked(name) if isinstance(name, Task) else FunctionTask(name)


def task_of_network(problem_type: str | None, outputs: int | None) -> str:
    """The name of the task for a network with this `problem_type` in its configuration and this number of outputs.

    ValueError for a regression, and for a network with one output whose task is not known.
    """
    if problem_type in PROBLEM_TYPES:
        return PROBLEM_TYPES[problem_type]
    ways = "Give a task of your own (task=...)"
    if problem_type is not None:
        raise ValueError(f"The network's problem_type is {problem_type!r}, and hf_mixup has no such task yet. {ways}.")
    if outputs == 1:
        raise ValueError(
            "The network has one output, which is a regression (hf_mixup has no such task yet) or one of several "
            f"possible labels. {ways}, or set problem_type='multi_label_classification' in the network's configuration."
        )
    return DEFAULT


__all__ = [
    "CLASSES",
    "CLASSIFIER",
    "DEFAULT",
    "SOFTMAX",
    "Card",
    "Metric",
    "Task",
    "available_tasks",
    "load_task",
    "task_of_network",
]
