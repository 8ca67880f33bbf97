"""Checks of the class of a method, such as a user's own, before it is used."""

from collections.abc import Iterator

from ._base import Method


def checked(method: Method) -> Method:
    """The method; ValueError for the first part of its class that is missing or wrong."""
    for problem in _problems(method):
        raise ValueError(f"Method {type(method).__name__} {problem}.")
    return method


def _problems(method: Method) -> Iterator[str]:
    cls = type(method)
    if cls.__hash__ is None:
        yield "is not hashable, which a module must be: decorate its class with @dataclass(eq=False)"
    if all(getattr(cls, part) is getattr(Method, part) for part in ("mix_batch", "mix", "forward")):
        yield (
            "has no `mix_batch`: define mix_batch(self, net, x, y, rng) that returns mixed images and a Mix, or "
            "forward(self, net, x, y, rng) that returns named losses"
        )
    for part in ("name", "link", "progress"):
        if getattr(cls, part) is not getattr(Method, part):
            yield f"defines `{part}`, which Method derives: use `title` for a name in tables and cards, or another name"
