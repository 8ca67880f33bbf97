"""Retry requests after transient errors, and describe errors in one line without secrets."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (
    FileMetadataError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from ..errors import redacted
from . import session
from .answers import ForeignAnswer, foreign

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

TRIES = 5
WAIT = 1.0  # seconds before the second try, doubled each time
PATIENCE = 45.0  # seconds after which no try starts; includes huggingface_hub's own retries, up to 23 s
# errors without a class of their own: a file that was cut, and a session that another thread closed after an error
INCONSISTENT, CLOSED = "Consistency check failed", "client has been closed"


def retried(
    call: Callable[[], Result],
    action: str,
    *,
    also: tuple[int, ...] = (),
    tries: int | None = None,
    patience: float | None = None,
    pause: Callable[[float], object] | None = None,
) -> Result:
    """Return the result of `call`, which is repeated after transient errors; raise the last error if it never succeeds.

    `action` describes the call in the log, as "create the repository". `call` must be safe to repeat. `also`: HTTP
    statuses to retry in addition to those of `is_transient`. `tries`, `patience` (seconds after which no try starts)
    and `pause` replace TRIES, PATIENCE and time.sleep.
    """
    start, tries, patience = time.monotonic(), tries or TRIES, patience or PATIENCE
    for attempt in range(tries):
        try:
            with session.limited():
                return call()
        except Exception as error:
            wait = _wait(error, attempt)
            late = time.monotonic() - start + wait > patience
            if not (is_transient(error) or status_of(error) in also) or attempt == tries - 1 or late:
                raise
            logger.warning("Could not %s (%s): trying again in %.0f s.", action, reason(error), wait)
            (pause or time.sleep)(wait)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: the server is busy or failing, or the connection was lost."""
    error = _cause(error)
    if isinstance(error, (OfflineModeIsEnabled, LocalTokenNotFoundError)):
        return False
    if isinstance(error.__cause__, OfflineModeIsEnabled):
        return False
    if isinstance(error, (ForeignAnswer, FileMetadataError)) or INCONSISTENT in str(error) or CLOSED in str(error):
        return True
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
        return True
    # datasets wraps the error of its last try in errors of many classes
    return error.__cause__ is not None and is_transient(error.__cause__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the response that caused the error, None if there was no response."""
    response = _response(error)
    return None if response is None else response.status_code


def reason(error: BaseException) -> str:
    """Error class, HTTP status and the server's message on one line, without secrets and URL parameters."""
    error = _cause(error)
    if isinstance(error, ForeignAnswer):
        return redacted(str(error))
    if isinstance(error, FileMetadataError):
        return redacted(foreign("a response without the name and version of the file"))
    if INCONSISTENT in str(error):
        return redacted(foreign(f"an incomplete file ({' '.join(str(error).split())})"))
    message = getattr(error, "server_message", None) if isinstance(error, HfHubHTTPError) else None
    text = " ".join(str(message or error).split()).split("?", 1)[0]
    status = status_of(error)
    return redacted(f"{type(error).__name__}{f' {status}' if status else ''}: {text}")


def _cause(error: BaseException) -> BaseException:
    """The error that huggingface_hub wrapped: of an upload, or of a download of a file that is not cached."""
    while isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _response(error: BaseException):
    error = _cause(error)
    return getattr(error, "response", None) if isinstance(error, HTTPError) else None


def _wait(error: BaseException, attempt: int) -> float:
    """Seconds until the next try: those that the server requests, else twice as many as before."""
    response = _response(error)
    requested = None if response is None else session.requested_wait(response)
    return min(WAIT * 2**attempt if requested is None else requested, session.MAX_WAIT)
