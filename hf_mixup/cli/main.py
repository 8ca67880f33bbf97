"""`hf-mixup COMMAND ...`; a recipe instead of a command trains it. Each command is imported when it is used."""

import os
import sys
from contextlib import suppress
from importlib import import_module

from ..config.parser import find_recipe
from ..errors import BAD_INPUT, FAILED, INTERRUPTED, ConfigError, did_you_mean
from ..version import __version__
from ._interrupt import end, on_ctrl_c
from ._output import redacted_output

COMMANDS = {
    "train": "train a recipe, evaluate it, and export the model with its card",
    "methods": "list the mixup methods, or describe one",
    "tasks": "list the tasks, or describe one",
    "recipes": "list the recipes of the package",
    "preview": "draw a recipe's images as it augments and mixes them, without training",
    "evaluate": "evaluate a saved or published model on a data set",
    "predict": "classify image files",
    "reshard": "write a shuffled copy of a data set, for streams of data that are sorted by class",
    "push": "push a finished run to the Hub",
    "hub": "start a local Hub, to try Hub commands without a network",
}


def start() -> int:
    """`main` as a process of its own: Ctrl-C ends it within seconds."""
    on_ctrl_c()
    status = main()
    if status == INTERRUPTED:
        end()
    return status


def main(argv: list[str] | None = None) -> int:
    """Run a command; return 0, 1 (disk, network or another process failed), 2 (bad input) or 130 (interrupted).

    No secret is printed, also not by the libraries in use. Nothing is, if the reader of stdout or stderr has ended.
    """
    try:
        with redacted_output():
            status = _run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # as in `hf-mixup recipes | head`
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # streams of a test have no descriptor
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return FAILED


def _run(argv: list[str]) -> int:
    """Run a command and return its exit status."""
    try:
        if argv[:1] in (["-h"], ["--help"], ["help"], ["--version"]):
            print(__version__ if argv[0] == "--version" else usage())
            return 0
        name, *rest = chosen_command(argv)
        return import_module(f".{name}", __package__).main(rest)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except SystemExit as end:  # --help
        return end.code or 0
    except KeyboardInterrupt:  # while modules are imported; the commands handle all later ones
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def usage() -> str:
    """The commands with one line each."""
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-mixup COMMAND ...    hf-mixup COMMAND --help lists the options of a command",
            "       hf-mixup RECIPE ...     short for hf-mixup train RECIPE ...",
            "",
            *lines,
        ]
    )


def chosen_command(argv: list[str]) -> list[str]:
    """The command and its arguments; ConfigError, with the nearest command and recipe, if the first word is neither."""
    if not argv or argv[0].startswith("-"):
        missing = f"A command or a recipe must come before {argv[0]!r}" if argv else "No command is given"
        raise ConfigError(f"{missing}. Commands: {', '.join(COMMANDS)}. Help: hf-mixup --help")
    if argv[0] in COMMANDS:
        return argv
    try:
        find_recipe(argv[0])
    except ConfigError as error:
        raise ConfigError(f"There is no command {argv[0]!r}.{did_you_mean(argv[0], COMMANDS)} {error}") from None
    return ["train", *argv]
