"""`hf-mixup preview RECIPE [--field value ...] [--out preview.png]`: a picture of augmented and mixed images."""

from transformers.utils import logging

from ..config import parse
from ..errors import ConfigError
from ..publish.preview import preview
from ._errors import exit_status

OUT = "preview.png"
HELP = f"""usage: hf-mixup preview RECIPE [--out {OUT}] [--field value ...]

Draw training images as the recipe prepares, augments and mixes them, with labels and weights, without training.
A method that reads the network gets the recipe's, with random or pretrained weights. --seed changes images and draws.

  --out    file of the picture (default: {OUT})
  --field  any field of the recipe, for example --data FOLDER --method cutmix; hf-mixup train --help lists all"""


def main(argv: list[str]) -> int:
    """Return the exit status: 0, 2 for bad input, 1 if the network failed, 130 when interrupted."""
    if "-h" in argv or "--help" in argv:
        print(HELP)
        return 0
    logging.disable_progress_bar()
    return exit_status(lambda: run(argv))


def run(argv: list[str]) -> None:
    """Write the picture and print where it is."""
    out, rest = split_out(argv)
    image = preview(parse(rest), out)
    print(f"{out} ({image.width} x {image.height})")


def split_out(argv: list[str]) -> tuple[str, list[str]]:
    """The value of `--out`, and the other arguments."""
    out, rest, words = OUT, [], iter(argv)
    for word in words:
        if word == "--out" or word.startswith("--out="):
            out = word.partition("=")[2] if "=" in word else next(words, "")
            if not out or out.startswith("--"):
                raise ConfigError("--out on the command line requires a value: the file of the picture.")
        else:
            rest.append(word)
    return out, rest
