"""Checks of the class of a task, such as a user's own, before it is used."""

from collections.abc import Iterator

from ._base import CLASSES, CLASSIFIER, PROVIDES, SOFTMAX, Card, Metric, Task

PROVIDABLE = (CLASSES, CLASSIFIER, SOFTMAX)


def checked(task: Task) -> Task:
    """The task; ValueError for the first part of its class that is missing or wrong."""
    for problem in _problems(task):
        raise ValueError(f"Task {type(task).__name__} {problem}.")
    return task


def _problems(task: Task) -> Iterator[str]:
    if type(task).__hash__ is None:
        yield "is not hashable, which a module must be: decorate its class with @dataclass(eq=False)"
    if type(task).forward is Task.forward:
        yield "has no `forward`: define forward(self, net, batch, rng) that returns network, images and targets"
    if task.reads not in PROVIDES:
        yield f"reads labels of kind {task.reads!r}: choose one of {', '.join(PROVIDES)}"
    if type(task.views) is not int or task.views < 1:
        yield f"has views = {task.views!r}: give the number of augmented copies of an image, 1 or more"
    if unknown := sorted(set(task.provides) - set(PROVIDABLE)):
        yield f"provides {unknown[0]!r}: choose from {', '.join(PROVIDABLE)}"
    yield from _problems_of_card(task)


def _problems_of_card(task: Task) -> Iterator[str]:
    card = task.card
    if not isinstance(card, Card) or not all(isinstance(metric, Metric) for metric in card.metrics):
        yield f"has card = {card!r}: give a Card, whose metrics are a tuple of Metric"
        return
    for metric in card.metrics:
        if metric.key == task.metric and metric.higher_is_better != task.higher_is_better:
            yield (
                f"has higher_is_better = {task.higher_is_better}, but its card says {metric.higher_is_better} for "
                f"{metric.key!r}: give both the same value"
            )
