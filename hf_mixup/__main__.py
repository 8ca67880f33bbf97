"""`python -m hf_mixup RECIPE.yaml [--field value ...]` trains; `python -m hf_mixup push FOLDER` pushes a run."""

import sys

from .cli import push, train


def main(argv: list[str]) -> int:
    """Run the command; return 0, 1 (disk, network or another process failed), 2 (bad input) or 130 (interrupted)."""
    return push.main(argv[1:]) if argv[:1] == ["push"] else train.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
