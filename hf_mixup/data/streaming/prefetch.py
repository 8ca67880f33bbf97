"""Background threads that end with their consumer: an iterator read one item ahead, and a parallel map."""

from collections import deque
from collections.abc import Callable, Iterator
from queue import Queue
from threading import Event, Semaphore, Thread
from typing import TypeVar

from ...hub.interruptible import received

Item = TypeVar("Item")
Result = TypeVar("Result")
END = object()
JOIN_TIMEOUT = 1.0  # seconds to wait for a thread to end; a thread that runs longer ends with the process


class PrefetchCancelled(Exception):
    """Raised inside the background thread after its iterator was closed."""


def prefetch(make: Callable[[Callable[[float], None]], Iterator[Item]], ahead: int = 1) -> Iterator[Item]:
    """The items of the iterator `make(sleep)`, which runs in a background thread, up to `ahead` items ahead.

    Its exceptions are raised here. The iterator must wait with `sleep(seconds)`, which raises PrefetchCancelled as soon
    as this generator is closed.
    """
    items, allowed, closed = Queue(), Semaphore(ahead), Event()

    def sleep(seconds: float) -> None:
        if closed.wait(seconds):
            raise PrefetchCancelled

    def run() -> None:
        try:
            for item in _produce(make(sleep), allowed, closed):
                items.put((item, None))
            items.put((END, None))
        except BaseException as error:
            items.put((END, error))

    # a daemon: a request that hangs must not keep the process from ending
    thread = Thread(target=run, name="hf_mixup.prefetch", daemon=True)
    try:
        thread.start()
        while (entry := received(items))[0] is not END:
            allowed.release()
            yield entry[0]
        if entry[1] is not None:
            raise entry[1]
    finally:
        closed.set()
        allowed.release()
        thread.join(JOIN_TIMEOUT)


def _produce(iterator: Iterator[Item], allowed: Semaphore, closed: Event) -> Iterator[Item]:
    """The items of the iterator; each is computed only after `allowed` was released for it."""
    while allowed.acquire() and not closed.is_set():
        item = next(iterator, END)
        if item is END:
            return
        yield item


def parallel_map(function: Callable[[Item], Result], items: list[Item], threads: int) -> list[Result]:
    """The function's results in the order of the items, computed in several threads; raises the first error."""
    waiting, done = deque(enumerate(items)), Queue()

    def work() -> None:
        while True:
            try:
                number, item = waiting.popleft()
            except IndexError:
                return
            try:
                done.put((number, function(item), None))
            except BaseException as error:
                done.put((number, None, error))

    for _ in range(min(threads, len(items))):
        Thread(target=work, name="hf_mixup.parallel_map", daemon=True).start()
    results = {}
    for _ in items:
        number, results[number], error = received(done)
        if error is not None:
            waiting.clear()
            raise error
    return [results[number] for number in range(len(items))]
