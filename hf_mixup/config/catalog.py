"""The recipes of the package: their names, methods and descriptions, without loading a configuration."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .parser import load_yaml, recipe_names, recipes_folder


@dataclass(frozen=True)
class RecipeInfo:
    """A recipe's name, as the commands take it, its method, and its description, the first sentences of its comment."""

    name: str
    method: str
    description: str


def packaged_recipes(word: str = "") -> list[RecipeInfo]:
    """The recipes of the package, sorted by name, without bases; with `word` those that have it in a field."""
    folder = recipes_folder()
    names = [name for name in recipe_names() if not name.endswith("base")]
    found = [
        RecipeInfo(name, _method(folder / f"{name}.yaml"), _description(folder / f"{name}.yaml")) for name in names
    ]
    return [info for info in found if word.lower() in f"{info.name} {info.method} {info.description}".lower()]


def _description(path: Path) -> str:
    """The comment at the top of a recipe, up to the first line that ends with a full stop."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        found.append(line.removeprefix("#").strip())
        if line.endswith("."):
            break
    return " ".join(found)


@cache
def _method(path: Path) -> str:
    """The method that a recipe or its bases name; "" if none does."""
    values = load_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    bases = values.get("base") or []
    inherited = [_method((path.parent / base).resolve()) for base in ([bases] if isinstance(bases, str) else bases)]
    return str(values.get("method") or next((method for method in reversed(inherited) if method), ""))
