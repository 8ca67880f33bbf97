"""Inject failures into responses, and log requests.

hub.faults.add(method="POST", path="/commit/", status=503, times=2, retry_after=1)
hub.faults.add(path="/resolve/", slow=2.0)                  # the response is delayed by two seconds
hub.faults.add(method="GET", path="^/_large/", drop=1000)   # the connection closes after 1000 bytes of the body
hub.faults.add(path="/api/", body="<html>Log in</html>")    # 200, as from a login page of the network
"""

import asyncio
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from .faulty_responses import discard, send_error, send_page, send_redirect, trickled, truncated

LOG_LENGTH = 10_000


@dataclass
class Request:
    """An entry of the log. `path` is the raw path with its query; `status` is None until a response starts."""

    method: str
    path: str
    agent: str = ""
    status: int | None = None
    seconds: float | None = None  # until the response was complete
    fault: "Fault | None" = None


@dataclass(eq=False)
class Fault:
    """A failure of the next `times` requests whose method and path match; created by `Faults.add`."""

    method: str | None
    path: re.Pattern
    times: int | None  # None for always
    status: int | None
    retry_after: int | None
    message: str
    drop: int | str | None
    truncate: int | None
    body: str | None
    content_type: str
    redirect: str | None
    trickle: float | None
    slow: float
    hits: int = 0

    def matches(self, request: Request) -> bool:
        """Whether the fault has hits left and matches the request."""
        left = self.times is None or self.hits < self.times
        return left and self.method in (None, request.method) and self.path.search(request.path) is not None


class Faults:
    """The pending faults in the order they were added; the first one that matches a request applies to it."""

    def __init__(self):
        self.pending: list[Fault] = []
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
        body: str | None = None,
        content_type: str = "text/html",
        redirect: str | None = None,
        trickle: float | None = None,
        slow: float = 0.0,
    ) -> Fault:
        """Add a fault for the next `times` requests (None: all) of the method whose path and query match the regex.

        `status` replaces the response, with Retry-After if given. `drop="before"` closes the connection before the
        request is handled; `drop="after"` handles the request and closes without a response; `drop=k` closes after k
        bytes of the response body. `truncate=k` sends k bytes with a matching Content-Length. `body` replaces the
        response by a 200 with this text. `redirect` replaces it by a redirect to this address. `trickle` sends the body
        byte by byte, with so many seconds between. `slow` is a delay in seconds before the response, alone or with
        another fault. `hits` of the fault counts the requests it applied to.
        """
        kinds = {"status": status, "drop": drop, "truncate": truncate}
        _check(kinds | {"body": body, "redirect": redirect, "trickle": trickle}, slow)
        fault = Fault(
            method=method.upper() if method else None,
            path=re.compile(path),
            times=times,
            status=status,
            retry_after=retry_after,
            message=message,
            drop=drop,
            truncate=truncate,
            body=body,
            content_type=content_type,
            redirect=redirect,
            trickle=trickle,
            slow=slow,
        )
        with self._lock:
            self.pending.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self.pending.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter(list(self.pending))

    def take(self, request: Request) -> Fault | None:
        """Return the fault that applies to this request, None if there is none, and count the hit."""
        with self._lock:
            fault = next((fault for fault in self.pending if fault.matches(request)), None)
            if fault is not None:
                fault.hits += 1
            return fault


def _check(kinds: dict, slow: float) -> None:
    chosen, status, drop = [name for name, value in kinds.items() if value is not None], kinds["status"], kinds["drop"]
    if len(chosen) > 1 or (not chosen and not slow):
        raise ValueError(f"Choose one of {', '.join(kinds)}, or slow=seconds; not {chosen or 'none of them'}.")
    numbers = isinstance(drop, int) and not isinstance(drop, bool) and drop >= 0
    if drop is not None and drop not in ("before", "after") and not numbers:
        raise ValueError(f"Unknown drop={drop!r}. Choose 'before', 'after', or a number of bytes of the response body.")
    if status is not None and not 400 <= status <= 599:
        raise ValueError(f"status={status} is not an error. Choose one from 400 to 599.")


class FaultyApp:
    """The application with log and faults. `connections` maps a client's address to its connection."""

    def __init__(self, app, faults: Faults, connections: dict):
        self.app, self.faults, self.connections = app, faults, connections
        self.log: deque[Request] = deque(maxlen=LOG_LENGTH)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = _log_entry(scope)
        self.log.append(request)
        start = time.perf_counter()
        fault = request.fault = self.faults.take(request)
        send = _recording_status(send, request)
        try:
            if fault is None:
                await self.app(scope, receive, send)
            else:
                await self._answer_with_fault(fault, scope, receive, send)
        except ClientDisconnect:  # the client disconnected while it sent the request: no response is expected
            pass
        finally:
            request.seconds = time.perf_counter() - start

    async def _answer_with_fault(self, fault: Fault, scope, receive, send) -> None:
        if fault.slow:
            await asyncio.sleep(fault.slow)
        if fault.status is not None:
            await send_error(fault.status, fault.message, fault.retry_after, send)
        elif fault.body is not None:
            await send_page(fault.body, fault.content_type, send)
        elif fault.redirect is not None:
            await send_redirect(fault.redirect, send)
        elif fault.trickle is not None:
            await self.app(scope, receive, trickled(fault.trickle, send))
        elif fault.drop == "before":
            await self._close_connection(scope)
        elif fault.drop == "after":
            await self.app(scope, receive, discard)
            await self._close_connection(scope)
        elif fault.drop is not None:
            await self.app(scope, receive, self._cut_after(fault.drop, scope, send))
        elif fault.truncate is not None:
            await self.app(scope, receive, truncated(fault.truncate, send))
        else:
            await self.app(scope, receive, send)

    async def _close_connection(self, scope) -> None:
        """Close the client's connection after the written bytes have been sent."""
        connection = self.connections.get(tuple(scope["client"]))
        if connection is not None:
            connection.close()
        # until the event loop has reported the close, uvicorn would treat the request as one without a response
        await asyncio.sleep(0.01)

    def _cut_after(self, count: int, scope, send):
        """A `send` that closes the connection after `count` bytes of body."""
        left = count

        async def send_and_close(message) -> None:
            nonlocal left
            if message["type"] != "http.response.body":
                return await send(message)
            body = message.get("body", b"")
            if len(body) <= left and message.get("more_body"):
                left -= len(body)
                return await send(message)
            if left >= 0:
                # with more_body, since the response must not count as complete
                await send({**message, "body": body[:left], "more_body": True})
                left = -1
                await self._close_connection(scope)

        return send_and_close


def _log_entry(scope) -> Request:
    path = scope["raw_path"].decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    agent = next((value.decode("latin-1") for key, value in scope["headers"] if key == b"user-agent"), "")
    return Request(scope["method"], path + (f"?{query}" if query else ""), agent)


def _recording_status(send, request: Request):
    async def send_and_record(message) -> None:
        if message["type"] == "http.response.start":
            request.status = message["status"]
        await send(message)

    return send_and_record
