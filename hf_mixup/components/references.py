"""Classes of the user's own by reference: `package.module:Class` or `path/to/file.py:Class`."""

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import CodeRefused, ConfigError, did_you_mean

REFERENCE = re.compile(r".+:[^\W\d][\w.]*")  # a class name ends it, unlike `hf_hub:user/name` and `C:\\folder`
_given: ContextVar[dict[str, type] | None] = ContextVar("given", default=None)  # set by `only_given`


def is_reference(name: str) -> bool:
    """Whether `name` has the form `package.module:Class` or `path/to/file.py:Class`."""
    return REFERENCE.fullmatch(name) is not None


def class_name(reference: str) -> str:
    """`Class` of the reference `module:Class`, also of `module:Outer.Class`."""
    return reference.rpartition(":")[2].rpartition(".")[2]


def nested(arguments: Any) -> Iterator[Any]:
    """The arguments and all values in them, at any depth, in their order."""
    left = [arguments]
    while left:  # no recursion: a file may nest deeper than Python calls functions
        item = left.pop()
        yield item
        if isinstance(item, Mapping):
            left += [*item.values()][::-1]
        elif isinstance(item, list | tuple):
            left += item[::-1]


def references(arguments: Any) -> list[str]:
    """All texts in arguments, at any depth, that can be references."""
    return [item for item in nested(arguments) if isinstance(item, str) and is_reference(item)]


def nested_names(arguments: Any) -> list[str]:
    """The values of all keys "name" in arguments, at any depth: the names of components that they contain."""
    names = [item.get("name") for item in nested(arguments) if isinstance(item, Mapping)]
    return [name for name in names if isinstance(name, str)]


@contextmanager
def only_given(classes: Iterable[type] = ()) -> Iterator[None]:
    """Inside, a reference means the one of `classes` that has its class name, and nothing is imported.

    For names in run records, which may have been downloaded. A reference to another class raises CodeRefused.
    """
    token = _given.set({cls.__name__: cls for cls in classes})
    try:
        yield
    finally:
        _given.reset(token)


def referenced_class(reference: str, base: type) -> type:
    """The class that a reference names, derived from `base`. Runs the code of the module, except in `only_given`.

    Modules are searched on Python's path and then in the working directory; what a file imports, also in its folder.
    """
    if (given := _given.get()) is not None:
        if class_name(reference) not in given:
            raise CodeRefused(reference)
        return given[class_name(reference)]
    if not reference.rpartition(":")[0].endswith(".py"):
        _search_also(Path.cwd())
    return import_class(reference, base)


def import_class(reference: str, base: type) -> type:
    """The class `package.module:Class` or `path/to/file.py:Class`, derived from `base`. Runs the code of the module.

    Only for names that the user or an installed package gave; never for names of a repository or a run record.
    """
    place, _, name = reference.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else import_module(place)
    except (Exception, SystemExit) as error:  # the module may raise anything
        raise ConfigError(f"{reference!r}: {place!r} could not be imported ({_reason(error)}).") from error
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, base) and found is not base):
        own = [item for item in vars(module).values() if getattr(item, "__module__", None) == module.__name__]
        classes = [item.__name__ for item in own if isinstance(item, type) and issubclass(item, base)]
        raise ConfigError(
            f"{place!r} has no class {name!r} derived from {base.__name__}.{did_you_mean(name, classes)} "
            f"Such classes there: {', '.join(classes) or 'none'}."
        )
    return found


def _reason(error: BaseException) -> str:
    """The error in words, with the line of the module that raised it."""
    known = isinstance(error, ImportError | OSError | SyntaxError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    if "relative import" in text:
        text += ": a module of a package is given as package.module:Class"
    ours = (__file__, importlib.__file__)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    lines = [frame for frame in lines if not frame.filename.startswith("<frozen")]
    return f"{text}, in line {lines[-1].lineno} of {lines[-1].filename}" if lines else text


def _search_also(folder: Path) -> None:
    """Let Python search modules in `folder`, after all other places."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _module_of_file(path: Path) -> ModuleType:
    """The module of a file; the same one if it was imported before."""
    path = path.expanduser().resolve()
    name = f"{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    _search_also(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
