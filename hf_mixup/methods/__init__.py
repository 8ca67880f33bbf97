"""The methods, one per file; the registry is the list of the files in this folder."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import nn

from ..components import class_of, construct
from ..errors import did_you_mean
from ._base import Method

NESTED = {  # types of fields that hold methods
    dict: ((dict, str, Method), "the name of a method, or a mapping with its name and arguments"),
    list: ((list, tuple, nn.ModuleList), "a list of methods"),
}


def available() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def method_class(name: str) -> type[Method]:
    """The class of method `name`, defined in methods/`name`.py."""
    if name not in available():
        hint = did_you_mean(name, available())
        raise ValueError(f"Unknown method {name!r}.{hint} Choose one of: {', '.join(available())}.")
    return class_of(import_module(f"{__name__}.{name}"), Method)


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
    return construct(method_class(name), f"Method {name!r}", hyperparameters, NESTED)


def load_nested(outer: Method, inner: str | dict | Method) -> Method:
    """The method `inner` of a container; `per_image` and `pairing` default to those of the container `outer`."""
    if isinstance(inner, Method):
        return inner
    inner = {"name": inner} if isinstance(inner, str) else inner
    shared = {"per_image": True} if outer.per_image else {}
    if outer.pairing != "shift":
        shared["pairing"] = outer.pairing
    return load(shared | inner)


__all__ = ["Method", "available", "load", "method_class"]
