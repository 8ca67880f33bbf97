"""The layers of the package: imports point down only."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hf_mixup"

# from the ground up; a file may import from rows below its own, and from its own row
LAYERS = [
    ["hub", "mix", "processes", "version"],
    ["ops"],
    ["anatomy", "merging", "teachers", "net"],
    ["methods", "tasks", "data", "checks", "config", "recipe", "values", "metrics", "networks", "testing"],
    ["cards", "table"],
    ["batch", "loading", "preparation", "callbacks", "checkpoints", "models", "optimization", "record", "step"],
    ["saving", "sharding", "compatible", "folder", "pretrained"],
    ["publish"],
    ["trainer"],
    ["train", "planning"],
    ["analysis", "benchmark"],
    ["__init__", "__main__"],
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
# mixing reads networks through `net` alone, and the benchmark reads records, not live objects
ALONE = {"methods": ("mix", "ops", "methods"), "ops": ("mix", "ops"), "mix": ("mix",), "tasks": ("mix", "ops", "tasks")}
FOREIGN = {"mix": ("torch",), "ops": ("torch", "numpy"), "methods": ("torch",), "net": ("torch",)}


def part(path: Path) -> str:
    """The name of a file's place in LAYERS: its folder, or itself at the top."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Absolute dotted names of what a file imports, inside functions too; not what is imported for types only."""
    package = ("hf_mixup", *path.relative_to(PACKAGE).parts[:-1])
    found = []
    for node in _run_time_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            # `from . import load` takes `load` of the package, or a module of that name
            found += [".".join([*module, alias.name]) for alias in node.names]
    return found


def _run_time_nodes(tree):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _run_time_nodes(node)


def inner(path: Path) -> set[str]:
    """The parts of the package that a file imports."""
    names = [name.split(".") for name in imports(path) if name.split(".")[0] == "hf_mixup"]
    known = {part(file) for file in FILES}
    return {name[1] if len(name) > 1 and name[1] in known else "__init__" for name in names}


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_every_file_has_its_place(path):
    assert part(path) in HEIGHT, f"{relative(path)} is in no layer: add {part(path)!r} to LAYERS in this test."


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down_only(path):
    assert part(path) in HEIGHT
    for name in (inner(path) & HEIGHT.keys()) - {part(path)}:
        assert HEIGHT[name] <= HEIGHT[part(path)], f"{relative(path)} imports {name}, which is above it."


@pytest.mark.parametrize("path", [path for path in FILES if part(path) in ALONE], ids=relative)
def test_mixing_imports_nothing_but_mixing(path):
    assert inner(path) <= set(ALONE[part(path)])


@pytest.mark.parametrize("path", [path for path in FILES if part(path) in FOREIGN], ids=relative)
def test_mixing_needs_torch_alone(path):
    """No method knows timm's or transformers' networks: that is net's and anatomy's work."""
    foreign = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"hf_mixup"}
    assert foreign <= set(FOREIGN[part(path)])


def test_no_file_imports_itself_by_way_of_others():
    below = {path: [] for path in FILES}
    names = {".".join(("hf_mixup", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    names |= {name.removesuffix(".__init__"): path for name, path in names.items() if name.endswith(".__init__")}
    for path in FILES:
        for name in imports(path):
            target = names.get(name) or names.get(name.rpartition(".")[0])
            if target and target != path and target.name != "__init__.py":
                below[path].append(target)

    def visit(path, above):
        assert path not in above, " -> ".join(relative(step) for step in [*above[above.index(path) :], path])
        for target in below[path]:
            visit(target, [*above, path])

    for path in FILES:
        visit(path, [])


def test_the_test_sees_relative_absolute_and_hidden_imports():
    file = PACKAGE / "methods" / "cutmix.py"
    assert {"hf_mixup.mix.Mix", "hf_mixup.ops.masks.boxes", "hf_mixup.methods._base.Method"} <= set(imports(file))
    assert inner(file) == {"mix", "ops", "methods"}
