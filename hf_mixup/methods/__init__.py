"""The methods, one per file; the registry is the list of the files in this folder."""

import difflib
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from torch import nn

from ._base import Method


def available() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def method_class(name: str) -> type[Method]:
    """The class of method `name`, defined in methods/`name`.py."""
    if name not in available():
        hint = _did_you_mean(name, available())
        raise ValueError(f"Unknown method {name!r}.{hint} Choose one of: {', '.join(available())}.")
    module = import_module(f"{__name__}.{name}")
    [found] = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Method) and cls.__module__ == module.__name__
    ]
    return found


def load(name: str | dict | Method, **hyperparameters: Any) -> Method:
    """The method `name` with the given hyperparameters; the others have the paper's defaults.

    `name` may be a dict `{"name": "cutmix", "alpha": 1.0}`, as in recipes, or a method, which is returned unchanged.
    """
    if isinstance(name, Method):
        if hyperparameters:
            raise ValueError(f"{name!r} is already built: give {', '.join(hyperparameters)} when loading it by name.")
        return name
    if isinstance(name, dict):
        if "name" not in name:
            raise ValueError(f'A method given as a mapping requires a "name", got {name!r}.')
        return load(name["name"], **{key: value for key, value in name.items() if key != "name"} | hyperparameters)
    cls = method_class(name)
    known = [field.name for field in fields(cls)]
    for key in hyperparameters:
        if key not in known:
            hint = _did_you_mean(key, known)
            raise ValueError(f"Method {name!r} has no argument {key!r}.{hint} It has: {', '.join(known)}.")
    types = get_type_hints(cls)
    for key, value in hyperparameters.items():
        if not _has_type(value, types[key]):
            raise ValueError(f"Method {name!r} does not accept {key}={value!r}: give {_describe_type(types[key])}.")
    # numpy's float64 is a float, but JSON and YAML writers may reject it
    return cls(**{key: float(value) if isinstance(value, float) else value for key, value in hyperparameters.items()})


TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "None"}
METHOD_TYPES = {  # fields that hold methods
    dict: ((dict, str, Method), "the name of a method, or a mapping with its name and arguments"),
    list: ((list, tuple, nn.ModuleList), "a list of methods"),
}


def _has_type(value: Any, kind: Any) -> bool:
    """Whether `value` has type `kind`: a plain type, a union, a list of plain types, or methods.

    True for any other `kind`, which the method checks itself.
    """
    if isinstance(kind, UnionType):
        return any(_has_type(value, one) for one in get_args(kind))
    if get_origin(kind) in (list, tuple):
        first, length = get_args(kind)[0], _length(kind)
        matches = isinstance(value, (list, tuple)) and length in (None, len(value))
        return matches and all(_has_type(item, first) for item in value)
    if kind in METHOD_TYPES:
        return isinstance(value, METHOD_TYPES[kind][0])
    if kind is float:
        return isinstance(value, (float, int)) and type(value) is not bool
    return type(value) is kind or kind not in TYPE_NAMES


def _describe_type(kind: Any) -> str:
    """The type in words, for messages."""
    if isinstance(kind, UnionType):
        return " or ".join(_describe_type(one) for one in get_args(kind))
    if get_origin(kind) in (list, tuple):
        items = "integers" if get_args(kind)[0] is int else "numbers"
        return f"a list of {_length(kind) or ''} {items}".replace("  ", " ")
    return METHOD_TYPES[kind][1] if kind in METHOD_TYPES else TYPE_NAMES[kind]


def _length(kind: Any) -> int | None:
    """The number of items of a list type `kind`, None if any number is allowed."""
    return None if get_origin(kind) is list or ... in get_args(kind) else len(get_args(kind))


def load_nested(outer: Method, inner: str | dict | Method) -> Method:
    """The method `inner` of a container; `per_image` and `pairing` default to those of the container `outer`."""
    if isinstance(inner, Method):
        return inner
    inner = {"name": inner} if isinstance(inner, str) else inner
    shared = {"per_image": True} if outer.per_image else {}
    if outer.pairing != "shift":
        shared["pairing"] = outer.pairing
    return load(shared | inner)


def _did_you_mean(word: str, known: list[str]) -> str:
    """A hint with the most similar known word, or an empty string."""
    close = difflib.get_close_matches(str(word), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


__all__ = ["Method", "available", "load", "method_class"]
