"""One file = one method: the directory is the registry."""

import difflib
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from torch import nn

from ._base import Method


def available() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def method_class(name: str) -> type[Method]:
    """The class of method `name`: the one that methods/`name`.py defines."""
    if name not in available():
        hint = _nearest(name, available())
        raise ValueError(f"Unknown method {name!r}.{hint} Choose one of: {', '.join(available())}.")
    module = import_module(f"{__name__}.{name}")
    [found] = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    return found


def load(name: str | dict | Method, **hyperparameters) -> Method:
    """The method `name` with its hyperparameters, the rest at the paper's defaults.

    `name` may be a dict `{"name": "cutmix", "alpha": 1.0}`, as in recipes, or a method, which is returned as it is.
    """
    if isinstance(name, Method):
        if hyperparameters:
            raise ValueError(f"{name!r} is built already: set {', '.join(hyperparameters)} when loading it by name.")
        return name
    if isinstance(name, dict):
        if "name" not in name:
            raise ValueError(f'A method given as a mapping needs its "name", got {name!r}.')
        return load(name["name"], **{key: value for key, value in name.items() if key != "name"} | hyperparameters)
    cls = method_class(name)
    known = [field.name for field in fields(cls)]
    for key in hyperparameters:
        if key not in known:
            hint = _nearest(key, known)
            raise ValueError(f"Method {name!r} has no argument {key!r}.{hint} It has: {', '.join(known)}.")
    types = get_type_hints(cls)
    for key, value in hyperparameters.items():
        if not _fits(value, types[key]):
            raise ValueError(f"Method {name!r} takes no {key}={value!r}: give {_words(types[key])}.")
    # numpy's float64 is a float, but not to all that write it down
    return cls(**{key: float(value) if isinstance(value, float) else value for key, value in hyperparameters.items()})


PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}
MADE_OF = {  # fields that hold methods
    dict: ((dict, str, Method), "a method's name, or a mapping with its name and arguments"),
    list: ((list, tuple, nn.ModuleList), "a list of methods"),
}


def _fits(value, kind) -> bool:
    """Whether a value is of the plain type or types, or a list of those, or methods, that `kind` asks for.

    Of other types the method judges itself.
    """
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) in (list, tuple):
        first, count = get_args(kind)[0], _count(kind)
        right = isinstance(value, (list, tuple)) and count in (None, len(value))
        return right and all(_fits(item, first) for item in value)
    if kind in MADE_OF:
        return isinstance(value, MADE_OF[kind][0])
    if kind is float:
        return isinstance(value, (float, int)) and type(value) is not bool
    return type(value) is kind or kind not in PLAIN


def _words(kind) -> str:
    if isinstance(kind, UnionType):
        return " or ".join(_words(one) for one in get_args(kind))
    if get_origin(kind) in (list, tuple):
        items = "whole numbers" if get_args(kind)[0] is int else "numbers"
        return f"a list of {_count(kind) or ''} {items}".replace("  ", " ")
    return MADE_OF[kind][1] if kind in MADE_OF else PLAIN[kind]


def _count(kind) -> int | None:
    """How many values a list of type `kind` has, None where that is open."""
    return None if get_origin(kind) is list or ... in get_args(kind) else len(get_args(kind))


def within(outer: Method, inner: str | dict | Method) -> Method:
    """The method `inner` of a container, with the container's `per_image` and `pairing` unless it has its own."""
    if isinstance(inner, Method):
        return inner
    inner = {"name": inner} if isinstance(inner, str) else inner
    shared = {"per_image": True} if outer.per_image else {}
    if outer.pairing != "shift":
        shared["pairing"] = outer.pairing
    return load(shared | inner)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(word), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


__all__ = ["Method", "available", "load", "method_class"]
