"""`python -m hf_mixup` is the command `hf-mixup`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
