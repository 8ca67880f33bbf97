"""Timeouts for the HTTP session that huggingface_hub shares between all libraries of a process.

huggingface_hub has no setting for them: its session has no timeout, several calls pass `timeout=None` themselves, and
its own retries sleep for as long as the server requests. `set_client_factory` would replace a client that the user
configured, for a proxy for example, and change the requests of other libraries. So `limited` adds two event hooks to
the session in use. They act on requests inside `limited` only.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

# seconds without a byte, not the duration of a request
TIMEOUTS = {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": 60.0}
MAX_WAIT = 30.0  # seconds that a server may request to wait

_inside_limited = ContextVar("inside_limited", default=False)


@contextmanager
def limited() -> Iterator[None]:
    """Inside, requests of this thread time out; HfHubHTTPError if the server requests a wait longer than MAX_WAIT."""
    _add_hooks(get_session())
    token = _inside_limited.set(True)
    try:
        yield
    finally:
        _inside_limited.reset(token)


def _add_hooks(session) -> None:
    if _set_timeouts in session.event_hooks["request"]:
        return
    session.event_hooks["request"].append(_set_timeouts)
    session.event_hooks["response"].append(_refuse_long_wait)
    # In a forked process, such as a data loader's worker, huggingface_hub closes the inherited session. This
    # never returns if a thread of the parent held a lock of the connection pool at the fork.
    close, owner = session.close, os.getpid()
    session.close = lambda: close() if os.getpid() == owner else None


def _set_timeouts(request) -> None:
    if _inside_limited.get():
        given = request.extensions.get("timeout", {})
        timeouts = {name: TIMEOUTS[name] if given.get(name) is None else given[name] for name in TIMEOUTS}
        request.extensions = {**request.extensions, "timeout": timeouts}


def _refuse_long_wait(response) -> None:
    if _inside_limited.get() and response.status_code >= 400:
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
