"""`hf-mixup reshard DATA`: write a shuffled copy of a data set, for streams of data that are sorted by class."""

import argparse
from pathlib import Path

from ..errors import PushRefused
from ..hub.destination import Destination
from ..publish.reshard import push_copy, shuffled_copy, write_folder
from ._errors import exit_status
from ._parser import Parser


def main(argv: list[str]) -> int:
    """Return the exit status: 0, 2 for bad input, 1 if the disk or the network failed, 130 when interrupted."""
    return exit_status(lambda: run(_parser().parse_args(argv)))


def run(options: argparse.Namespace) -> None:
    """Write the copy, and print where it is."""
    if (options.out is None) == (options.repo is None):
        raise PushRefused("Give --out FOLDER or --repo NAME, one of them.")
    arguments = {"config": options.data_config, "revision": options.revision}
    copy = shuffled_copy(options.data, **arguments, splits=options.splits, seed=options.seed)
    if options.out is not None:
        write_folder(copy, options.out)
        print(f"Train with: --data {options.out} --streaming true")
    else:
        print(f"Pushed to {push_copy(copy, Destination(options.repo, private=options.private))}")


def _parser() -> Parser:
    parser = Parser(
        prog="hf-mixup reshard",
        description="Write a copy of a data set whose rows are shuffled, as parquet files. The original is downloaded.",
    )
    parser.add_argument("data", help="data set: Hub id, folder, or sample")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the copy")
    parser.add_argument("--repo", help="name or namespace/name of a new data set on the Hub")
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help="make the new data set private")
    parser.add_argument("--data_config", help="configuration of the data set, if it has several")
    parser.add_argument("--revision", help="commit, tag or branch of the data set")
    parser.add_argument("--splits", nargs="+", default=["train"], help="splits to shuffle (default: train)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    return parser
