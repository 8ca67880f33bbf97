"""`hf-mixup push FOLDER`: push a finished run to the Hub."""

import argparse
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from ..errors import PushRefused
from ..hub.destination import Destination, check_access
from ..publish.push import files_to_push, push
from ._errors import exit_status
from ._parser import Parser


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0, 2 if the folder or destination is invalid, 1 if a request to the Hub failed."""
    logging.disable_progress_bar()
    return exit_status(
        lambda: run(_parser().parse_args(argv)),
        interrupted="Interrupted. The run's folder is complete: push it again with the same command.",
    )


def run(options: argparse.Namespace) -> None:
    """Push the folder, and print where it is."""
    files_to_push(options.folder)
    destination = check_access(_destination(options))
    url = push(options.folder, destination, options.seeds)
    if Destination.load(options.folder) is None:  # keep the destination that the run was trained with
        destination.save(options.folder)
    print(f"Pushed to {url}")


def _parser() -> Parser:
    parser = Parser(
        prog="hf-mixup push",
        description="Push the folder of a finished run to the Hub, with the token of HF_TOKEN or `hf auth login`.",
    )
    parser.add_argument("folder", type=Path, help="output_dir of the run")
    parser.add_argument("--repo", help="name or namespace/name (default: the run's hub_model_id)")
    parser.add_argument("--revision", help="branch, created if it does not exist (default: the run's, or main)")
    switch = {"action": argparse.BooleanOptionalAction, "default": None}
    parser.add_argument("--private", **switch, help="make the repository private")
    parser.add_argument("--create_pr", **switch, help="open a pull request instead")
    parser.add_argument(
        "--seeds",
        type=Path,
        nargs="+",
        default=(),
        metavar="FOLDER",
        help="folders of runs with other seeds, for mean and standard deviation",
    )
    return parser


def _destination(options: argparse.Namespace) -> Destination:
    """The destination saved in the run's folder, overridden by the options."""
    given = {name: getattr(options, name) for name in ("repo", "revision", "private", "create_pr")}
    given = {name: value for name, value in given.items() if value is not None}
    saved = Destination.load(options.folder)
    if saved is None and "repo" not in given:
        raise PushRefused(f"The run in {options.folder} has no destination: give --repo.")
    if saved and given.get("repo", saved.repo) != saved.repo:  # the saved branch is of the saved repository
        saved = Destination(given["repo"], private=saved.private)
    destination = replace(saved, **given) if saved else Destination(**given)
    if destination.create_pr and destination.revision not in (None, "main"):
        raise PushRefused(
            f"A pull request is for main, not for revision {destination.revision!r}: leave out --create_pr or "
            "--revision."
        )
    return destination
