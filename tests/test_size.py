"""Files and functions stay small."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("hf_mixup", "scripts") for path in (ROOT / folder).rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 250, 30


def length(function: ast.FunctionDef) -> int:
    """Lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def functions(path: Path):
    """The functions of a file as syntax trees."""
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_files_are_short():
    assert FILES
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {path: lines for path, lines in lengths.items() if lines > FILE_LINES}


def test_functions_are_short():
    lengths = {f"{path.relative_to(ROOT)}:{f.name}": length(f) for path in FILES for f in functions(path)}
    assert not {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES}
