"""Calls of other libraries that Ctrl-C ends at once, although their pools of threads wait for a server."""

from collections.abc import Callable
from concurrent.futures import thread as pools
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")
STEP = 0.5  # seconds between checks for a signal


def interruptible(call: Callable[[], Result]) -> Result:
    """The result of `call`, which runs in a daemon thread. After Ctrl-C it does not keep the process from ending."""
    done = Queue()

    def run() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:
            done.put((None, error))

    Thread(target=run, name="hf_mixup.interruptible", daemon=True).start()
    try:
        result, error = received(done)
    except BaseException:
        _abandon_pools()
        raise
    if error is not None:
        raise error
    return result


def received(queue: Queue) -> Result:
    """The next item of a queue. Waits in steps: a signal that arrives just before a wait is handled after it only."""
    while True:
        with suppress(Empty):
            return queue.get(timeout=STEP)


def _abandon_pools() -> None:
    """Let Python end without the threads of pools that a daemon thread started: they are daemons too."""
    known = getattr(pools, "_threads_queues", {})
    for thread in [thread for thread in known if thread.daemon]:
        known.pop(thread, None)
