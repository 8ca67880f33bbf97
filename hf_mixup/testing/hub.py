"""Start a local Hub. Set the three environment variables that it prints, and Hub commands run without a network.

python -m hf_mixup.testing.hub --root my_hub
"""

import argparse
import signal
import sys
import threading
from pathlib import Path

from .server import LocalHub

__all__ = ["LocalHub", "main"]


PROGRAM = "python -m hf_mixup.testing.hub"


def parse(arguments: list[str] | None = None, prog: str = PROGRAM) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the repositories")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (0: any free one)")
    parser.add_argument("--user", default="user", help="name of the user, and of the namespace of new repositories")
    parser.add_argument("--org", action="append", default=[], help="an organization of the user; may be repeated")
    parser.add_argument("--token", help="the user's token (default: hf_<user>_write)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, prog: str = PROGRAM) -> int:
    """Serve until interrupted; return 2 if the folder or the port cannot be used."""
    options = parse(arguments, prog)
    done = threading.Event()
    try:
        with LocalHub(options.root, {options.user: options.org}, port=options.port, token=options.token) as hub:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: done.set())
            for key, value in hub.env.items():
                print(f"export {key}={value}")
            print("# Ctrl-C stops the server; the repositories stay in", options.root.resolve(), flush=True)
            done.wait()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
