"""One file = one method: the directory is the registry."""

import difflib
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import get_args, get_type_hints

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
    return cls(**hyperparameters)


PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}


def _fits(value, kind) -> bool:
    """Whether a value is of one of the plain types that `kind` allows; of other types the method judges itself."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if not set(kinds) <= set(PLAIN):
        return True
    return type(value) in kinds or (float in kinds and type(value) is int)


def _words(kind) -> str:
    return " or ".join(PLAIN[one] for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,)))


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
