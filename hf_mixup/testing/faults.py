"""Failures on demand, and a log of what was asked.

hub.faults.add(method="POST", path="/commit/", status=503, times=2, retry_after=1)
hub.faults.add(path="/resolve/", slow=2.0)                  # handled, but only after two seconds
hub.faults.add(method="GET", path="^/_large/", drop=1000)   # the connection closes after 1000 bytes of the body
"""

import asyncio
import json
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

LOG_LENGTH = 10_000


@dataclass
class Request:
    """One line of the log. `path` is as it was sent, with its query; `status` is None while, or if, no reply began."""

    method: str
    path: str
    agent: str = ""
    status: int | None = None
    seconds: float | None = None  # until the reply was complete
    fault: "Fault | None" = None


@dataclass(eq=False)
class Fault:
    """What happens to the next `times` requests whose method and path match; made by `Faults.add`."""

    method: str | None
    path: re.Pattern
    times: int | None  # None for always
    status: int | None
    retry_after: int | None
    message: str
    drop: int | str | None
    truncate: int | None
    slow: float
    hits: int = 0

    def matches(self, request: Request) -> bool:
        """Whether it is not used up and the request is one it is for."""
        left = self.times is None or self.hits < self.times
        return left and self.method in (None, request.method) and self.path.search(request.path) is not None


class Faults:
    """The failures that wait to happen, in the order they were added; a request meets the first that matches."""

    def __init__(self):
        self.waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        *,
        method: str | None = None,
        path: str = "",
        times: int | None = 1,
        status: int | None = None,
        retry_after: int | None = None,
        message: str = "An injected fault",
        drop: int | str | None = None,
        truncate: int | None = None,
        slow: float = 0.0,
    ) -> Fault:
        """A fault for the next `times` requests (None: all) of the method whose path and query contain the regex.

        `status` is answered in the place of the real reply, with Retry-After if given. `drop="before"` closes the
        connection and nothing was done; `drop="after"` does what was asked and then closes without a reply; `drop=k`
        closes after k bytes of the reply's body. `truncate=k` is a reply of k bytes that claims to be whole. `slow`
        is a wait in seconds before all else, and may stand alone. The fault's `hits` says how often it happened.
        """
        _check(status, drop, truncate, slow)
        method = method.upper() if method else None
        fault = Fault(method, re.compile(path), times, status, retry_after, message, drop, truncate, slow)
        with self._lock:
            self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self.waiting.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter(list(self.waiting))

    def take(self, request: Request) -> Fault | None:
        """The fault that this request meets, counted."""
        with self._lock:
            fault = next((fault for fault in self.waiting if fault.matches(request)), None)
            if fault is not None:
                fault.hits += 1
            return fault


def _check(status, drop, truncate, slow) -> None:
    chosen = [name for name, value in (("status", status), ("drop", drop), ("truncate", truncate)) if value is not None]
    if len(chosen) > 1 or (not chosen and not slow):
        raise ValueError(f"Choose one of status, drop and truncate, or slow=seconds; not {chosen or 'none of them'}.")
    numbers = isinstance(drop, int) and not isinstance(drop, bool) and drop >= 0
    if drop is not None and drop not in ("before", "after") and not numbers:
        raise ValueError(f"Unknown drop={drop!r}. Choose 'before', 'after', or a number of bytes of the reply's body.")
    if status is not None and not 400 <= status <= 599:
        raise ValueError(f"status={status} is no error. Choose one from 400 to 599.")


class FaultyApp:
    """The application behind the log and the faults. `connections` finds a client's connection by its address."""

    def __init__(self, app, faults: Faults, connections: dict):
        self.app, self.faults, self.connections = app, faults, connections
        self.log: deque[Request] = deque(maxlen=LOG_LENGTH)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = _logged(scope)
        self.log.append(request)
        start = time.perf_counter()
        fault = request.fault = self.faults.take(request)
        send = _watched(send, request)
        try:
            if fault is None:
                await self.app(scope, receive, send)
            else:
                await self._fail(fault, scope, receive, send)
        except ClientDisconnect:  # in the middle of what it sent: nobody waits for an answer
            pass
        finally:
            request.seconds = time.perf_counter() - start

    async def _fail(self, fault: Fault, scope, receive, send) -> None:
        if fault.slow:
            await asyncio.sleep(fault.slow)
        if fault.status is not None:
            await _refuse(fault, send)
        elif fault.drop == "before":
            await self._hang_up(scope)
        elif fault.drop == "after":
            await self.app(scope, receive, _nowhere)
            await self._hang_up(scope)
        elif fault.drop is not None:
            await self.app(scope, receive, self._until(fault.drop, scope, send))
        elif fault.truncate is not None:
            await self.app(scope, receive, _shortened(fault.truncate, send))
        else:
            await self.app(scope, receive, send)

    async def _hang_up(self, scope) -> None:
        """Closes the client's connection once what was written has gone out."""
        connection = self.connections.get(tuple(scope["client"]))
        if connection is not None:
            connection.close()
        # the server hears of it in the loop's next round, and must not take this for a forgotten reply
        await asyncio.sleep(0.01)

    def _until(self, count: int, scope, send):
        """A `send` that hangs up after `count` bytes of body."""
        left = count

        async def cut(message) -> None:
            nonlocal left
            if message["type"] != "http.response.body":
                return await send(message)
            body = message.get("body", b"")
            if len(body) <= left and message.get("more_body"):
                left -= len(body)
                return await send(message)
            if left >= 0:
                # more_body, because the reply must not count as complete
                await send({**message, "body": body[:left], "more_body": True})
                left = -1
                await self._hang_up(scope)

        return cut


def _logged(scope) -> Request:
    path = scope["raw_path"].decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    agent = next((value.decode("latin-1") for key, value in scope["headers"] if key == b"user-agent"), "")
    return Request(scope["method"], path + (f"?{query}" if query else ""), agent)


def _watched(send, request: Request):
    async def watched(message) -> None:
        if message["type"] == "http.response.start":
            request.status = message["status"]
        await send(message)

    return watched


async def _nowhere(message) -> None:
    pass


async def _refuse(fault: Fault, send) -> None:
    body = json.dumps({"error": fault.message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if fault.retry_after is not None:
        headers.append((b"retry-after", str(fault.retry_after).encode()))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _shortened(count: int, send):
    """A `send` whose reply is at most `count` bytes long, and says so."""
    left = count

    async def short(message) -> None:
        nonlocal left
        if message["type"] == "http.response.start":
            headers = [
                (key, str(min(count, int(value))).encode() if key.lower() == b"content-length" else value)
                for key, value in message["headers"]
            ]
            return await send({**message, "headers": headers})
        body = message.get("body", b"")[:left]
        left -= len(body)
        await send({**message, "body": body})

    return short
