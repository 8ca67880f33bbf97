"""Files and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("hf_mixup", "scripts") for path in (ROOT / folder).rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 250, 30


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def length(function: ast.FunctionDef) -> int:
    """Lines of a function from `def` to its last, without its docstring and decorators."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_are_short(path):
    functions = [
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    long = {function.name: length(function) for function in functions if length(function) > FUNCTION_LINES}
    assert not long
