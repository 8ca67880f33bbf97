"""Timeouts and checks for the HTTP session that huggingface_hub shares between all libraries of a process.

huggingface_hub has no setting for them: its session has no timeout, several calls pass `timeout=None` themselves, and
its own retries sleep for as long as the server requests. `set_client_factory` would replace a client that the user
configured, for a proxy for example, and change the requests of other libraries. So `limited` adds event hooks to the
session in use. They act on requests while a thread of this process is inside `limited`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import RLock

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

from .answers import watch

# seconds without a byte, not the duration of a request
TIMEOUTS = {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": 60.0}
MAX_WAIT = 30.0  # seconds that a server may request to wait

_inside: list[None] = []  # one item for each `limited` block, of any thread: huggingface_hub downloads in other threads


@contextmanager
def limited() -> Iterator[None]:
    """Inside, requests time out; ForeignAnswer and TimeoutError as of `watch`; HfHubHTTPError if the server requests a
    wait longer than MAX_WAIT.
    """
    _add_hooks(get_session())
    _inside.append(None)
    try:
        yield
    finally:
        _inside.pop()


def _add_hooks(session) -> None:
    if _set_timeouts in session.event_hooks["request"]:
        return
    session.event_hooks["request"].append(_set_timeouts)
    session.event_hooks["response"] += [_refuse_long_wait, _watch]
    _make_reentrant(session)
    # In a forked process, such as a data loader's worker, huggingface_hub closes the inherited session. This
    # never returns if a thread of the parent held a lock of the connection pool at the fork.
    close, owner = session.close, os.getpid()
    session.close = lambda: close() if os.getpid() == owner else _renew_locks(session)


def _make_reentrant(session) -> None:
    """Let the thread that holds the lock of a connection pool take it again, as httpx2 does.

    With httpx, a garbage collection at that time that closes the last response of an unclosed stream waits forever.
    """
    for pool in _pools(session):
        with pool._optional_thread_lock:
            pool._optional_thread_lock = RLock()


def _renew_locks(session) -> None:
    """In a forked process: locks that no thread of its parent holds, for responses that are closed here."""
    for pool in _pools(session):
        pool._optional_thread_lock = RLock()


def _pools(session) -> list:
    pools = [getattr(transport, "_pool", None) for transport in (session._transport, *session._mounts.values())]
    return [pool for pool in pools if hasattr(pool, "_optional_thread_lock")]


def _set_timeouts(request) -> None:
    if _inside:
        given = request.extensions.get("timeout", {})
        timeouts = {name: TIMEOUTS[name] if given.get(name) is None else given[name] for name in TIMEOUTS}
        request.extensions = {**request.extensions, "timeout": timeouts}


def _watch(response) -> None:
    if _inside:
        watch(response)


def _refuse_long_wait(response) -> None:
    if _inside and response.status_code >= 400:
        seconds = requested_wait(response)
        if seconds is not None and seconds > MAX_WAIT:
            response.read()
            raise HfHubHTTPError(f"The server requests a wait of {seconds:.0f} s", response=response)


def requested_wait(response) -> float | None:
    """Seconds to wait before the next request: from Retry-After (a number or a date) or a rate limit, else None."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        limit = parse_ratelimit_headers(response.headers)
        return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None
