"""The methods, one per file; the registry is the list of the files in this folder, and of installed entry points."""

from typing import Any

from torch import nn

from ..components import construct
from ..components.references import is_reference
from ._base import METHODS, Method
from ._definition import checked

NESTED = {  # types of fields that hold methods
    dict: ((dict, str, type, Method), "a method, its name or class, or a mapping with its name and arguments"),
    list: ((list, tuple, nn.ModuleList), "a list of methods"),
}


def available() -> list[str]:
    """The names of all methods, sorted: those of the package, and those that installed packages announce as entry
    points of the group `hf_mixup.methods`."""
    return METHODS.names()


def method_class(name: str) -> type[Method]:
    """The class of method `name`: a name of `available()`, `package.module:Class` or `path/to/file.py:Class`."""
    return METHODS.load_class(name, Method)


def load(name: str | dict | type[Method] | Method, **hyperparameters: Any) -> Method:
    """The method `name` with the given hyperparameters; the others have the paper's defaults.

    `name`: a name of `available()`, or a class of your own: itself, or as `package.module:Class` or
    `path/to/file.py:Class`. Also a dict `{"name": "cutmix", "alpha": 1.0}`, as in recipes, or a method, which is
    returned unchanged.
    """
    if isinstance(name, Method):
        if hyperparameters:
            raise ValueError(f"{name!r} is already built: give {', '.join(hyperparameters)} when loading it by name.")
        return checked(name)
    if isinstance(name, dict):
        if "name" not in name:
            raise ValueError(f'A method given as a mapping requires a "name", got {name!r}.')
        return load(name["name"], **{key: value for key, value in name.items() if key != "name"} | hyperparameters)
    cls = method_class(name) if isinstance(name, str) else name
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise ValueError(f"{name!r} is not a method: give a name, a mapping, or a class derived from hf_mixup.Method.")
    method = construct(cls, f"Method {(name if isinstance(name, str) else cls.__name__)!r}", hyperparameters, NESTED)
    method.full_name = name if isinstance(name, str) and is_reference(name) else ""
    return checked(method)


def load_nested(outer: Method, inner: str | dict | type[Method] | Method) -> Method:
    """The method `inner` of a container; `per_image` and `pairing` default to those of the container `outer`."""
    if isinstance(inner, Method):
        return checked(inner)
    inner = inner if isinstance(inner, dict) else {"name": inner}
    shared = {"per_image": True} if outer.per_image else {}
    if outer.pairing != "shift":
        shared["pairing"] = outer.pairing
    return load(shared | inner)


__all__ = ["Method", "available", "load", "method_class"]
