"""Methods and tasks as components: classes by name, in the package, an installed one, or a file or module of the user's
own, with checked arguments."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from types import ModuleType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import ConfigError, did_you_mean
from .references import import_class, is_reference, referenced_class

TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "None"}
NAMES = r"(?:`\w+`(?:,\s+|\s+and\s+)?)+"
ARGUMENT = re.compile(rf"({NAMES}):\s+(.*?)(?=\s+{NAMES}:\s|\n\s*\n|$)", re.DOTALL)
Special = Mapping[type, tuple[tuple[type, ...], str]]  # accepted types and words for fields of other types


class Registry:
    """The components of one kind: the files of a folder of the package, and entry points of installed packages.

    `package`: name of the folder's package; its files that do not begin with an underscore each define one component.
    `group`: the entry points' group, whose values are `package.module:Class`. A file wins over an entry point.
    """

    def __init__(self, package: str, path: list[str], group: str, kind: str):
        self.package, self.path, self.group, self.kind = package, path, group, kind

    def names(self) -> list[str]:
        """The names of all components, sorted."""
        return sorted({*self._files(), *self._entries()})

    def load_class(self, name: str, base: type) -> type:
        """The class of a component: by name, or as `package.module:Class` or `path/to/file.py:Class`."""
        if is_reference(name):
            return referenced_class(name, base)
        if name in self._files():
            return class_of(import_module(f"{self.package}.{name}"), base)
        if name not in (entries := self._entries()):
            known = self.names()
            hint = did_you_mean(name, known)
            if name.endswith(".py"):
                hint = f" A class in a file is given as {name}:Class."
            raise ValueError(f"Unknown {self.kind} {name!r}.{hint} Choose one of: {', '.join(known)}.")
        return import_class(entries[name].value, base)

    def name_of(self, cls: type) -> str:
        """The name by which `load_class` finds a class; `module:Class` if it is not one of these components."""
        module, _, file = cls.__module__.rpartition(".")
        if module == self.package and not file.startswith("_"):
            return file
        reference = f"{cls.__module__}:{cls.__qualname__}"
        entries = self._entries().items()
        return next((name for name, entry in entries if entry.value == reference), reference)

    def _files(self) -> list[str]:
        return [module.name for module in iter_modules(self.path) if not module.name.startswith("_")]

    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}


def class_of(module: ModuleType, base: type) -> type:
    """The subclass of `base` that a module defines; ConfigError unless there is exactly one."""
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, base) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{module.__name__} defines {len(found)} classes derived from {base.__name__}, not one.")
    return found[0]


@dataclass(frozen=True)
class Argument:
    """An argument of a component: its name, type in words, default as Python writes it, and meaning, maybe empty."""

    name: str
    type: str
    default: str
    text: str


def arguments(cls: type, special: Special | None = None) -> list[Argument]:
    """The arguments of the dataclass `cls`, those of its base classes last.

    The texts are those of docstrings, there as "`name`: text." or "`one`, `other`: text.".
    """
    types, texts = _types(cls), {}
    for owner in cls.__mro__[::-1]:
        for names, text in ARGUMENT.findall(inspect.cleandoc(owner.__dict__.get("__doc__") or "")):
            texts |= dict.fromkeys(re.findall(r"`(\w+)`", names), " ".join(text.split()))
    own = [item for item in fields(cls) if item.name in cls.__dict__.get("__annotations__", {})]
    found = [item for item in [*own, *(item for item in fields(cls) if item not in own)] if item.init]
    return [Argument(f.name, _type_in_words(types[f.name], special), _default(f), texts.get(f.name, "")) for f in found]


def _types(cls: type) -> dict[str, Any]:
    """The types of the fields of a dataclass; Any for one that only type checkers can resolve."""
    try:
        return get_type_hints(cls)
    except NameError:
        return {field.name: Any if isinstance(field.type, str) else field.type for field in fields(cls)}


def _type_in_words(kind: Any, special: Special | None) -> str:
    try:
        return _describe_type(kind, special or {})
    except (KeyError, IndexError, TypeError):  # a type that the component checks itself
        return getattr(kind, "__name__", str(kind))


def _default(item: Any) -> str:
    if item.default is MISSING and item.default_factory is MISSING:
        return "required"
    return repr(item.default if item.default_factory is MISSING else item.default_factory())


def argument_names(cls: type) -> list[str]:
    """The names of the arguments that a class takes: the fields of a dataclass, or those of its own `__init__`."""
    _, *parameters = inspect.signature(cls.__init__).parameters.values()  # not of `cls`, which may have a `__new__`
    return [item.name for item in parameters if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)]


def construct(cls: type, what: str, arguments: dict[str, Any], special: Special | None = None) -> Any:
    """An instance of `cls`; ValueError for unknown arguments and values of a wrong type.

    `what` names the component in messages, for example "Method 'cutmix'".
    """
    known = argument_names(cls)
    for key in arguments:
        if key not in known:
            listed = f"It has: {', '.join(known)}." if known else "It has no arguments."
            if key in cls.__dict__.get("__annotations__", {}):
                listed += f" The fields of {cls.__name__} are arguments if it is decorated with @dataclass(eq=False)."
            raise ValueError(f"{what} has no argument {key!r}.{did_you_mean(key, known)} {listed}")
    types = _types(cls)
    for key, value in arguments.items():
        if key in types and not _has_type(value, types[key], special or {}):
            wanted = _describe_type(types[key], special or {})
            raise ValueError(f"{what} does not accept {key}={value!r}: give {wanted}.")
    # numpy's float64 is a float, but JSON and YAML writers may reject it
    return cls(**{key: float(value) if isinstance(value, float) else value for key, value in arguments.items()})


def _has_type(value: Any, kind: Any, special: Special) -> bool:
    """Whether `value` has type `kind`: a plain type, a union, a list of plain types, or a `special` type.

    True for any other `kind`, which the component checks itself.
    """
    if isinstance(kind, UnionType):
        return any(_has_type(value, one, special) for one in get_args(kind))
    if get_origin(kind) in (list, tuple):
        first, length = get_args(kind)[0], _length(kind)
        matches = isinstance(value, (list, tuple)) and length in (None, len(value))
        return matches and all(_has_type(item, first, special) for item in value)
    if kind in special:
        return isinstance(value, special[kind][0])
    if kind is float:
        return isinstance(value, (float, int)) and type(value) is not bool
    return type(value) is kind or kind not in TYPE_NAMES


def _describe_type(kind: Any, special: Special) -> str:
    """The type in words, for messages."""
    if isinstance(kind, UnionType):
        return " or ".join(_describe_type(one, special) for one in get_args(kind))
    if get_origin(kind) in (list, tuple):
        items = "integers" if get_args(kind)[0] is int else "numbers"
        return f"a list of {_length(kind) or ''} {items}".replace("  ", " ")
    return special[kind][1] if kind in special else TYPE_NAMES[kind]


def _length(kind: Any) -> int | None:
    """The number of items of a list type `kind`, None if any number is allowed."""
    return None if get_origin(kind) is list or ... in get_args(kind) else len(get_args(kind))
