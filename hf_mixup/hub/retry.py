"""Requests that may succeed the second time: which those are, how long to wait, and what to say of the others."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from huggingface_hub import get_session, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

TRIES = 5
WAIT = 1.0  # seconds before the second try, doubled each time
LONGEST = 30.0  # seconds of one wait, also where the server asks for more
PATIENCE = 45.0  # seconds after which nothing is tried again: huggingface_hub's own tries, up to 23 s, count
TIMEOUTS = {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": 60.0}  # seconds without a byte, not of a request
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")

_thread = threading.local()


def retried(
    call: Callable[[], Result],
    what: str,
    *,
    also: tuple[int, ...] = (),
    tries: int | None = None,
    patience: float | None = None,
    pause: Callable[[float], object] | None = None,
) -> Result:
    """The result of `call`, tried again after failures that may pass; the last error where it never succeeds.

    `what` names the request in the log, as "create the repository". `call` must be safe to repeat. `also` are statuses
    that `may_pass` takes for final and that are not so here. `tries` and `patience` (seconds after which no try begins)
    replace TRIES and PATIENCE, and `pause` time.sleep.
    """
    began, tries, patience = time.monotonic(), tries or TRIES, patience or PATIENCE
    for attempt in range(tries):
        try:
            with impatient():
                return call()
        except Exception as error:
            wait = _wait(error, attempt)
            late = time.monotonic() - began + wait > patience
            if not (may_pass(error) or status_of(error) in also) or attempt == tries - 1 or late:
                raise
            logger.warning("Could not %s (%s): trying again in %.0f s.", what, reason(error), wait)
            (pause or time.sleep)(wait)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment: a busy or failing server, a connection that broke."""
    error = _cause(error)
    if isinstance(error, (OfflineModeIsEnabled, LocalTokenNotFoundError)):
        return False
    if isinstance(error.__cause__, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
        return True
    # what datasets gives up on is wrapped, in errors of many kinds
    return error.__cause__ is not None and may_pass(error.__cause__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the server refused with, None if no answer came."""
    response = _response(error)
    return None if response is None else response.status_code


def reason(error: BaseException) -> str:
    """The error's kind, status and the server's words, on one line, without secrets and the address's parameters."""
    error = _cause(error)
    said = getattr(error, "server_message", None) if isinstance(error, HfHubHTTPError) else None
    text = " ".join(str(said or error).split()).split("?", 1)[0]
    status = status_of(error)
    return without_secrets(f"{type(error).__name__}{f' {status}' if status else ''}: {text}")


def without_secrets(text: str) -> str:
    """The text without the token in use, which a server may repeat, and without names and passwords in addresses."""
    token = get_token()
    return CREDENTIALS.sub("", text.replace(token, "***") if token else text)


@contextmanager
def impatient() -> Iterator[None]:
    """This thread's requests inside end when nothing moves for a while, or when they are asked to wait for long.

    huggingface_hub's client alone waits for ever for a server that is silent, and as long as one that is busy says.
    """
    session = get_session()
    _leave_to_owner(session)
    hooks = session.event_hooks
    for kind, hook in (("request", _limit), ("response", _refuse_long_waits)):
        if hook not in hooks[kind]:
            hooks[kind].append(hook)
    before, _thread.impatient = getattr(_thread, "impatient", False), True
    try:
        yield
    finally:
        _thread.impatient = before


def _leave_to_owner(session) -> None:
    """Let only this process close the session: one that is forked from it would wait for a thread that it has not.

    huggingface_hub closes the session it inherits, under a lock, which a thread of the parent may have held then.
    """
    if "close" not in vars(session):
        close, owner = session.close, os.getpid()
        session.close = lambda: close() if os.getpid() == owner else None


def _limit(request) -> None:
    if getattr(_thread, "impatient", False):
        given = request.extensions.get("timeout", {})
        limits = {name: TIMEOUTS[name] if given.get(name) is None else given[name] for name in TIMEOUTS}
        request.extensions = {**request.extensions, "timeout": limits}


def _refuse_long_waits(response) -> None:
    if getattr(_thread, "impatient", False) and response.status_code >= 400:
        asked = _asked(response)
        if asked is not None and asked > LONGEST:
            response.read()
            raise HfHubHTTPError(f"The server asks to wait for {asked:.0f} s", response=response)


def _cause(error: BaseException) -> BaseException:
    """What huggingface_hub gave up on, out of its wrapping: an upload, or a file that is not in the cache either."""
    while isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _response(error: BaseException):
    error = _cause(error)
    return getattr(error, "response", None) if isinstance(error, HTTPError) else None


def _wait(error: BaseException, attempt: int) -> float:
    """Seconds until the next try: what the server asks for, else twice as long as before."""
    response = _response(error)
    asked = None if response is None else _asked(response)
    return min(WAIT * 2**attempt if asked is None else asked, LONGEST)


def _asked(response) -> float | None:
    """Retry-After in seconds, which is a number or a date; None where there is none, or no sense in it."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None
