"""Methods and tasks as components: classes by name, in the package, an installed one, or a file or module of the user's
own, with checked arguments."""

import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from hashlib import sha256
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import ConfigError, did_you_mean

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
            return import_class(name, base)
        if name in self._files():
            return class_of(import_module(f"{self.package}.{name}"), base)
        if name not in (entries := self._entries()):
            known = self.names()
            hint = did_you_mean(name, known)
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


def is_reference(name: str) -> bool:
    """Whether `name` has the form `package.module:Class` or `path/to/file.py:Class`."""
    return ":" in name


def nested_names(arguments: Any) -> list[str]:
    """The values of all keys "name" in arguments, at any depth: the names of components that they contain."""
    names, left = [], [arguments]
    while left:  # no recursion: a file may nest deeper than Python calls functions
        item = left.pop()
        if isinstance(item, Mapping):
            names += [item["name"]] if isinstance(item.get("name"), str) else []
            left += [*item.values()][::-1]
        elif isinstance(item, list | tuple):
            left += item[::-1]
    return names


def import_class(reference: str, base: type) -> type:
    """The class `package.module:Class` or `path/to/file.py:Class`, derived from `base`. Runs the code of the module.

    Only for names that the user gave; never for names that a repository or a run record contains.
    """
    place, _, name = reference.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else import_module(place)
    except (ImportError, OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{reference!r}: {place!r} could not be imported ({error}).") from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        own = [item for item in vars(module).values() if getattr(item, "__module__", None) == module.__name__]
        classes = [item.__name__ for item in own if isinstance(item, type) and issubclass(item, base)]
        raise ConfigError(
            f"{place!r} has no class {name!r} derived from {base.__name__}.{did_you_mean(name, classes)} "
            f"Such classes there: {', '.join(classes) or 'none'}."
        )
    return found


def _module_of_file(path: Path) -> ModuleType:
    """The module of a file; the same one if it was imported before."""
    path = path.expanduser().resolve()
    name = f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


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
    types, texts = get_type_hints(cls), {}
    for owner in cls.__mro__[::-1]:
        for names, text in ARGUMENT.findall(inspect.cleandoc(owner.__dict__.get("__doc__") or "")):
            texts |= dict.fromkeys(re.findall(r"`(\w+)`", names), " ".join(text.split()))
    own = [item for item in fields(cls) if item.name in cls.__dict__.get("__annotations__", {})]
    found = [item for item in [*own, *(item for item in fields(cls) if item not in own)] if item.init]
    return [Argument(f.name, _type_in_words(types[f.name], special), _default(f), texts.get(f.name, "")) for f in found]


def _type_in_words(kind: Any, special: Special | None) -> str:
    try:
        return _describe_type(kind, special or {})
    except (KeyError, IndexError, TypeError):  # a type that the component checks itself
        return getattr(kind, "__name__", str(kind))


def _default(item: Any) -> str:
    if item.default is MISSING and item.default_factory is MISSING:
        return "required"
    return repr(item.default if item.default_factory is MISSING else item.default_factory())


def construct(cls: type, what: str, arguments: dict[str, Any], special: Special | None = None) -> Any:
    """An instance of the dataclass `cls`; ValueError for unknown arguments and values of a wrong type.

    `what` names the component in messages, for example "Method 'cutmix'".
    """
    known = [field.name for field in fields(cls) if field.init]
    for key in arguments:
        if key not in known:
            listed = f"It has: {', '.join(known)}." if known else "It has no arguments."
            raise ValueError(f"{what} has no argument {key!r}.{did_you_mean(key, known)} {listed}")
    types = get_type_hints(cls)
    for key, value in arguments.items():
        if not _has_type(value, types[key], special or {}):
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
