"""`python -m hf_mixup push FOLDER`: push a finished run to the Hub, now or again."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from ..errors import INTERRUPTED, MixupError, PushRefused
from ..hub.destination import Destination, checked
from ..publish.push import finished, push


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, or 2 for a folder or destination that cannot be pushed, 1 for a Hub that failed."""
    options = _parser().parse_args(argv)
    logging.disable_progress_bar()
    try:
        finished(options.folder)
        destination = checked(_destination(options))
        address = push(options.folder, destination, options.seeds)
    except KeyboardInterrupt:
        print("Interrupted. The folder is unchanged: push it again with the same command.", file=sys.stderr)
        return INTERRUPTED
    except MixupError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if Destination.of(options.folder) is None:  # else the run's own place stays
        destination.save(options.folder)
    print(f"Pushed to {address}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hf_mixup push",
        description="Push the folder of a finished run to the Hub. The token is that of HF_TOKEN or `hf auth login`.",
    )
    parser.add_argument("folder", type=Path, help="output_dir of the run")
    parser.add_argument("--repo", help="name or namespace/name (default: where the run was to be pushed)")
    parser.add_argument("--revision", help="branch, made if it is not there (default: the run's, or main)")
    switch = {"action": argparse.BooleanOptionalAction, "default": None}
    parser.add_argument("--private", **switch, help="make the repository private")
    parser.add_argument("--create_pr", **switch, help="open a pull request instead")
    parser.add_argument(
        "--seeds",
        type=Path,
        nargs="+",
        default=(),
        metavar="FOLDER",
        help="runs with other seeds, for the spread",
    )
    return parser


def _destination(options: argparse.Namespace) -> Destination:
    """What the run left, with what is given here over it."""
    given = {name: getattr(options, name) for name in ("repo", "revision", "private", "create_pr")}
    given = {name: value for name, value in given.items() if value is not None}
    left = Destination.of(options.folder)
    if left is None and "repo" not in given:
        raise PushRefused(f"The run in {options.folder} does not say where it belongs: give --repo.")
    if left and given.get("repo", left.repo) != left.repo:  # which has branches and ways there of its own
        left = Destination(given["repo"], private=left.private)
    wanted = replace(left, **given) if left else Destination(**given)
    if wanted.create_pr and wanted.revision not in (None, "main"):
        raise PushRefused(f"Pull requests go to main, not to revision {wanted.revision!r}: leave out one of the two.")
    return wanted
