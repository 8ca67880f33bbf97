"""The layers of the package: imports point down only, folder by folder."""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hf_mixup"

# from the bottom up; a file may import from rows below its own, and from its own folder or root module
LAYERS = [
    ["errors", "files", "mix", "plain_data", "version"],
    ["components"],
    ["distributed", "metrics", "ops"],
    ["hub"],
    ["models", "testing"],
    ["net"],
    ["methods", "tasks", "data", "config"],
    ["batch"],
    ["trainer"],
    ["runs"],
    ["publish"],
    ["analysis", "benchmark"],
    ["cli"],
    ["__init__", "__main__"],
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT_MODULES = 10  # at most, py.typed included
# mixing reads networks through `net` alone
ALONE = {"ops": {"mix", "ops"}, "mix": {"mix"}}
ALONE["methods"] = {"mix", "ops", "components", "errors", "methods"}
ALONE["tasks"] = {"mix", "ops", "metrics", "components", "errors", "tasks"}
# no method knows timm's or transformers' networks
FOREIGN = {"mix": {"torch"}, "ops": {"torch", "numpy"}, "methods": {"torch"}}


def part(path: Path) -> str:
    """The name of a file's place in LAYERS: its folder, or itself at the root."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
            # `from . import load` imports `load` of the package, or a module of that name
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


def test_every_file_is_in_a_layer():
    assert {part(path) for path in FILES} <= HEIGHT.keys()


def test_the_root_has_few_modules():
    assert len([path for path in PACKAGE.iterdir() if path.suffix in (".py", ".typed")]) <= ROOT_MODULES


def test_imports_point_down_only():
    wrong = [
        f"{relative(path)} imports {name}"
        for path in FILES
        for name in (inner(path) & HEIGHT.keys()) - {part(path)}
        if HEIGHT[name] >= HEIGHT[part(path)]
    ]
    assert wrong == []


def test_mixing_imports_only_mixing():
    wrong = {relative(path): inner(path) - ALONE[part(path)] for path in FILES if part(path) in ALONE}
    assert not {path: names for path, names in wrong.items() if names}


def test_mixing_requires_only_torch():
    ours = set(sys.stdlib_module_names) | {"hf_mixup"}
    found = {
        relative(path): {name.split(".")[0] for name in imports(path)} - ours - FOREIGN[part(path)]
        for path in FILES
        if part(path) in FOREIGN
    }
    assert not {path: names for path, names in found.items() if names}


def test_no_import_cycles():
    below = {path: [] for path in FILES}
    names = {".".join(("hf_mixup", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    names |= {name.removesuffix(".__init__"): path for name, path in names.items() if name.endswith(".__init__")}
    for path in FILES:
        for name in imports(path):
            target = names.get(name) or names.get(name.rpartition(".")[0])
            if target and target != path and target.name != "__init__.py":
                below[path].append(target)
    done = set()

    def visit(path, above):
        assert path not in above, " -> ".join(relative(step) for step in [*above[above.index(path) :], path])
        if path not in done:
            for target in below[path]:
                visit(target, [*above, path])
            done.add(path)

    for path in FILES:
        visit(path, [])


def test_relative_absolute_and_nested_imports_are_found():
    file = PACKAGE / "methods" / "cutmix.py"
    assert {"hf_mixup.mix.Mix", "hf_mixup.ops.masks.boxes", "hf_mixup.methods._base.Method"} <= set(imports(file))
    assert inner(file) == {"mix", "ops", "methods"}
