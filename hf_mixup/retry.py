"""Requests that may succeed the second time: which those are, and how long to wait."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

TRIES = 5
WAIT = 1.0  # seconds before the second try, doubled each time
LONGEST = 30.0  # seconds of one wait, also where the server asks for more
PATIENCE = 90.0  # seconds after which nothing is tried again: huggingface_hub's own tries count


def retried(
    call: Callable[[], Result],
    what: str,
    *,
    tries: int | None = None,
    patience: float | None = None,
    pause: Callable[[float], object] | None = None,
) -> Result:
    """The result of `call`, tried again after failures that may pass; the last error where it never succeeds.

    `what` names the request in the log, as "create the repository". `call` must be safe to repeat. `tries` and
    `patience` replace TRIES and PATIENCE, and `pause` time.sleep.
    """
    began, tries, patience = time.monotonic(), tries or TRIES, patience or PATIENCE
    for attempt in range(tries):
        try:
            return call()
        except Exception as error:
            wait = _wait(error, attempt)
            late = time.monotonic() - began + wait > patience
            if not may_pass(error) or attempt == tries - 1 or late:
                raise
            logger.warning("Could not %s (%s): trying again in %.0f s.", what, reason(error), wait)
            (pause or time.sleep)(wait)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment: a busy or failing server, a connection that broke."""
    if isinstance(error, (OfflineModeIsEnabled, LocalTokenNotFoundError)):
        return False
    if isinstance(error.__cause__, OfflineModeIsEnabled):
        return False
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
        return True
    # what huggingface_hub and datasets give up on is wrapped: an upload, a file that is not in the cache either
    return error.__cause__ is not None and may_pass(error.__cause__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the server refused with, None if no answer came."""
    response = getattr(error, "response", None) if isinstance(error, HTTPError) else None
    return None if response is None else response.status_code


def reason(error: BaseException) -> str:
    """The error's kind, status and the server's words, on one line and without the address's parameters."""
    said = getattr(error, "server_message", None) if isinstance(error, HfHubHTTPError) else None
    text = " ".join(str(said or error).split()).split("?", 1)[0]
    status = status_of(error)
    return f"{type(error).__name__}{f' {status}' if status else ''}: {text}"


def _wait(error: BaseException, attempt: int) -> float:
    response = getattr(error, "response", None) if isinstance(error, HTTPError) else None
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked) if asked.isdigit() else WAIT * 2**attempt, LONGEST)
