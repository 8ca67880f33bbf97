"""Run as a script: wait until a process has ended, then print a text on stderr. Arguments: process id, text."""

import sys
import time

import psutil

LONGEST = 60.0  # seconds to wait


def main(process_id: int, text: str) -> None:
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and _runs(process_id):
        time.sleep(0.05)
    print(text, file=sys.stderr, flush=True)


def _runs(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
