"""`python -m hf_mixup RECIPE.yaml [--field value ...]` trains; `python -m hf_mixup push FOLDER` pushes a run."""

import sys

from .cli import push, train


def main(argv: list[str]) -> int:
    """The exit status of the command: 0, or 2 for bad input, 1 for a failure outside, 130 when interrupted."""
    return push.main(argv[1:]) if argv[:1] == ["push"] else train.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
