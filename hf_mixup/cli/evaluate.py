"""`hf-mixup evaluate MODEL --data D`: the metrics of a saved or published model on a data set."""

import argparse
import json
from pathlib import Path

from transformers.utils import logging

from ..errors import SaveError
from ..files import atomic_write
from ..publish.evaluate import BATCH_SIZE, evaluate
from ._errors import exit_status
from ._parser import Parser


def main(argv: list[str]) -> int:
    """Return the exit status: 0, 2 for bad input, 1 if the network or the disk failed, 130 when interrupted."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return exit_status(lambda: run(_parser().parse_args(argv)))


def run(options: argparse.Namespace) -> None:
    """Print the metrics, and write them to the file of --json."""
    arguments = {key: value for key, value in vars(options).items() if key not in ("model", "json")}
    result = evaluate(options.model, **arguments)
    data, metrics = result["data"], result["metrics"]
    skipped = f", {data['skipped']} skipped" if data["skipped"] else ""
    print(f"{result['model']} on split {data['split']} of {data['path']} ({data['rows']} images{skipped})")
    print("\n| " + " | ".join(metrics) + " |\n|" + "---|" * len(metrics))
    print("| " + " | ".join("none" if value is None else f"{value:.4g}" for value in metrics.values()) + " |")
    if options.json:
        try:
            atomic_write(options.json, json.dumps(result, indent=2) + "\n")
        except OSError as error:
            raise SaveError(f"{options.json} could not be written ({error}): choose another file.") from error


def _parser() -> Parser:
    parser = Parser(
        prog="hf-mixup evaluate",
        description="Evaluate an image classifier of transformers or timm. No code of its folder or repository runs.",
    )
    parser.add_argument("model", help="a run's folder, another folder, or a Hub id, also as user/name@revision")
    parser.add_argument("--data", default="sample", help="data set: Hub id, folder, or sample (default)")
    parser.add_argument("--data_config", help="configuration of the data set, if it has several")
    parser.add_argument("--revision", help="commit, tag or branch of the data set")
    parser.add_argument("--split", help="split to evaluate on (default: validation or test)")
    parser.add_argument("--train_split", default="train", help="split that defines the classes (default: train)")
    parser.add_argument("--image_column", default="image", help="column of the images (default: image)")
    parser.add_argument("--label_column", default="label", help="column of the labels (default: label)")
    parser.add_argument("--task", help="a task, module:Class or file.py:Class (default: that of the model)")
    parser.add_argument("--ignore_names", action="store_true", help="the classes have other names, in the same order")
    parser.add_argument("--max_pixels", type=int, help="pixels of an image at most (default: Pillow's limit)")
    parser.add_argument("--allow_outside_files", action="store_true", help="read files and URLs outside the data set")
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE, help=f"images in a batch (default: {BATCH_SIZE})")
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics to this file too")
    return parser
