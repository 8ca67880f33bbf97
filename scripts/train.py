"""Train a recipe: accelerate launch scripts/train.py RECIPE.yaml [--field value ...]; --help lists every field."""

import sys

from hf_mixup.cli.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
