"""The text of what describes one method or task."""

import textwrap
from collections.abc import Sequence

from ..components import Argument
from ._parser import table

WIDTH = 118  # of the texts of arguments


def facts(values: dict[str, str]) -> str:
    """One line for each name and value."""
    width = max(map(len, values))
    return "\n".join(f"{name:>{width}}  {value}" for name, value in values.items())


def argument_table(arguments: Sequence[Argument], option: str) -> str:
    """The arguments with type, default and meaning; `option` is what stands before a name on the command line."""
    if not arguments:
        return "It has no arguments."
    rows = [(f"{option}{argument.name}", argument.type, argument.default) for argument in arguments]
    head, *lines = table(("argument", "type", "default"), rows).splitlines()
    shown = [head]
    for line, argument in zip(lines, arguments):
        indent = " " * 4
        shown += [line, *textwrap.wrap(argument.text, WIDTH, initial_indent=indent, subsequent_indent=indent)]
    return "\n".join(shown)
