"""`hf-mixup hub --root FOLDER`: a local Hub, as `python -m hf_mixup.testing.hub`."""

import sys

from ..errors import BAD_INPUT


def main(argv: list[str]) -> int:
    """Serve until interrupted; return 2 for bad input, or if the extra `testing` is not installed."""
    try:
        from ..testing import hub
    except ImportError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    return hub.main(argv, prog="hf-mixup hub")
