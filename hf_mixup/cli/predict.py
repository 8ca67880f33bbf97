"""`hf-mixup predict MODEL IMAGES...`: the most probable classes of image files."""

import argparse
import json

from transformers.utils import logging

from ..publish.predict import predict
from ._errors import exit_status
from ._parser import Parser, table


def main(argv: list[str]) -> int:
    """Return the exit status: 0, 2 if no image or model could be read, 1 if the network failed, 130 if interrupted."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return exit_status(lambda: run(_parser().parse_args(argv)))


def run(options: argparse.Namespace) -> None:
    """Print file, class and probability, or JSON."""
    results = predict(
        options.model, options.images, top_k=options.top_k, device=options.device, max_pixels=options.max_pixels
    )
    if options.json:
        print(json.dumps(results, indent=2))
        return
    rows = [(found["file"], one["label"], f"{one['score']:.4f}") for found in results for one in found["classes"]]
    print(table(("file", "class", "probability"), rows))


def _parser() -> Parser:
    parser = Parser(
        prog="hf-mixup predict",
        description="Classify image files with an image classifier of transformers or timm. Its code is not run.",
    )
    parser.add_argument("model", help="a run's folder, another folder, or a Hub id, also as user/name@revision")
    parser.add_argument("images", nargs="+", help="image files, and folders of them")
    parser.add_argument("--top_k", type=_positive, default=5, help="classes of each image (default: 5)")
    parser.add_argument("--device", help="cpu or cuda (default: the GPU if there is one)")
    parser.add_argument("--max_pixels", type=_positive, help="pixels of an image at most (default: Pillow's limit)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number, 1 or more")
    return int(text)
