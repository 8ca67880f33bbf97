"""Tasks, one per file: `task(net, batch, rng)` returns `(net, x, y)` for a batch."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def available_tasks() -> list[str]:
    """The names of all tasks, sorted."""
    return sorted(module.name for module in iter_modules(__path__))


def load_task(name: str | Callable, **arguments: Any) -> Callable:
    """The task `name` with its arguments; a callable is returned unchanged."""
    if callable(name):
        return name
    if name not in available_tasks():
        raise ValueError(f"Unknown task {name!r}. Choose one of: {', '.join(available_tasks())}.")
    task = getattr(import_module(f"{__name__}.{name}"), name)
    return partial(task, **arguments) if arguments else task
