"""`python -m hf_mixup` is the command `hf-mixup`."""

import sys

from .cli.main import start

if __name__ == "__main__":
    sys.exit(start())
