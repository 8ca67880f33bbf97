"""The command `hf-mixup VERB ...`; a recipe instead of a verb trains it. Each verb is imported when it is used."""

import os
import sys
from importlib import import_module

from ..config.parser import find_recipe
from ..errors import BAD_INPUT, FAILED, INTERRUPTED, ConfigError, did_you_mean
from ..version import __version__

VERBS = {
    "train": "train a recipe, evaluate it, and export the model with its card",
    "methods": "list the mixup methods, or describe one",
    "tasks": "list the tasks, or describe one",
    "recipes": "list the recipes of the package",
    "preview": "draw a recipe's images as it augments and mixes them, without training",
    "evaluate": "evaluate a saved or published model on a data set",
    "predict": "classify image files",
    "push": "push a finished run to the Hub",
    "hub": "start a local Hub, to try Hub commands without a network",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; return 0, 1 (disk, network or another process failed), 2 (bad input) or 130 (interrupted)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"], ["help"], ["--version"]):
        print(__version__ if argv[0] == "--version" else usage())
        return 0
    try:
        verb, *rest = chosen_command(argv)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    try:
        return import_module(f".{verb}", __package__).main(rest)
    except KeyboardInterrupt:  # while modules are imported; the verbs handle all later ones
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout ended, as in `hf-mixup recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def usage() -> str:
    """The verbs with one line each."""
    lines = [f"  {verb:<10} {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [
            "usage: hf-mixup VERB ...    hf-mixup VERB --help lists its options",
            "       hf-mixup RECIPE ...  is hf-mixup train RECIPE ...",
            "",
            *lines,
        ]
    )


def chosen_command(argv: list[str]) -> list[str]:
    """The verb and its arguments; ConfigError, with the nearest verb and recipe, if the first word is neither."""
    if not argv or argv[0].startswith("-"):
        given = f"the option {argv[0]!r}" if argv else "nothing"
        raise ConfigError(f"Give a verb or a recipe first, not {given}. Verbs: {', '.join(VERBS)}.")
    if argv[0] in VERBS:
        return argv
    try:
        find_recipe(argv[0])
    except ConfigError as error:
        raise ConfigError(f"There is no command {argv[0]!r}.{did_you_mean(argv[0], VERBS)} {error}") from None
    return ["train", *argv]
