"""Work in threads that never outlive its user: one result ahead, or several side by side."""

from collections import deque
from collections.abc import Callable, Iterator
from queue import Queue
from threading import Event, Semaphore, Thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
END = object()
LEAVE = 1.0  # seconds that a thread is given to end, before it is left to die with the process


class Abandoned(Exception):
    """Raised inside the thread when nobody waits for it any more."""


def ahead(make: Callable[[Callable[[float], None]], Iterator[Item]]) -> Iterator[Item]:
    """The items of the iterator `make(pause)`, which runs in a thread of its own and is one item ahead.

    What it raises is raised here. `pause` sleeps so many seconds for it, and ends it when this iterator is closed.
    """
    items, allowed, closed = Queue(), Semaphore(1), Event()

    def pause(seconds: float) -> None:
        if closed.wait(seconds):
            raise Abandoned

    def run() -> None:
        try:
            for item in _each(make(pause), allowed, closed):
                items.put((item, None))
            items.put((END, None))
        except BaseException as error:
            items.put((END, error))

    # a daemon: a request that hangs must not keep the process from ending
    thread = Thread(target=run, name="hf_mixup.ahead", daemon=True)
    try:
        thread.start()
        while (found := items.get())[0] is not END:
            allowed.release()
            yield found[0]
        if found[1] is not None:
            raise found[1]
    finally:
        closed.set()
        allowed.release()
        thread.join(LEAVE)


def _each(made: Iterator[Item], allowed: Semaphore, closed: Event) -> Iterator[Item]:
    """The items, each begun only when it is allowed."""
    while allowed.acquire() and not closed.is_set():
        item = next(made, END)
        if item is END:
            return
        yield item


def in_parallel(function: Callable[[Item], Result], items: list[Item], threads: int) -> list[Result]:
    """The function's results in the order of the items, made by several threads; raises the first error."""
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
        Thread(target=work, name="hf_mixup.parallel", daemon=True).start()
    results = {}
    for _ in items:
        number, results[number], error = done.get()
        if error is not None:
            waiting.clear()
            raise error
    return [results[number] for number in range(len(items))]
