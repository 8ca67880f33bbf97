"""Ctrl-C ends a command within seconds, although threads of other libraries wait for a server."""

import atexit
import multiprocessing
import os
import signal
import sys
import threading

from ..errors import INTERRUPTED

UNWIND, EXIT = 3.0, 1.0  # seconds from Ctrl-C to the end of the process, and from the last message


def end() -> None:
    """End this process now, but for the functions of `atexit`: freeing its memory would take seconds more."""
    _end_in(EXIT)
    atexit._run_exitfuncs()
    _end()


def _end_in(seconds: float) -> None:
    """End this process so many seconds from now, if it has not ended by then."""
    ended = threading.Event()
    threading.Thread(target=lambda: (ended.wait(seconds), _end()), name="hf_mixup.end", daemon=True).start()


def _end() -> None:
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def on_ctrl_c() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt and ends the process soon; it stays ignored if it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number, frame) -> None:
    _end_in(UNWIND)
    raise KeyboardInterrupt
