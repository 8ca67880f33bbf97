"""Successful responses that are not the Hub's, and responses that are too slow.

A login page of the network, a gateway or a proxy may answer in place of the Hub, with status 200 and a page of HTML, an
empty body or a cut one. `watch` makes such a response an error, which is retried.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from json import JSONDecodeError
from threading import local
from urllib.parse import urlsplit
from weakref import ref

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

MIN_SPEED = 1024  # bytes per second; slower responses are given up
WINDOW = 20.0  # seconds of waiting for the server over which the speed is measured
MAX_REDIRECTS = 10  # in a row; huggingface_hub 2 and httpx end after 20, huggingface_hub 1 follows some for ever
HTML = (b"<!doctype html", b"<html")
clock = time.monotonic
_redirects = local()  # the last redirect of this thread: its target, the size of the file there, how many in a row


class ForeignAnswer(HfHubHTTPError, JSONDecodeError):
    """A response that something between this machine and the Hub sent in its place.

    A JSONDecodeError, since huggingface_hub expects it while it reads the message of an error.
    """

    def __init__(self, response, what: str):
        super().__init__(foreign(what, response.url.netloc.decode()), response=response)


def foreign(what: str, host: str = "") -> str:
    """The message about an answer that is not the Hub's; `host` sent it, by default the one of HF_ENDPOINT."""
    hub = urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]
    return (
        f"{host or hub} sent {what}: something between this machine and it, such as a login page of the network or a "
        f"gateway, answers in {'its place' if host in ('', hub) else f'place of {hub}'}"
    )


def watch(response) -> None:
    """Raise ForeignAnswer for a page of HTML or an endless redirect; prepare `response` to raise it when it is read.

    Reading also raises TimeoutError if the server sends fewer than MIN_SPEED bytes per second.
    """
    if response.has_redirect_location:
        _count_redirect(response)
    this = ref(response)  # a cycle of references would keep the body until the next garbage collection
    response.json = lambda **options: _json(this(), **options)
    if not response.is_success:
        return
    if "html" in response.headers.get("Content-Type", "").lower():
        raise ForeignAnswer(response, "a page of HTML instead of data")
    if response.status_code == 200 and response.request.method == "GET" and _is_target(response.request.url):
        size, length = _redirects.size, response.headers.get("Content-Length")
        if size and length and size != length:
            raise ForeignAnswer(response, f"{length} of {size} bytes")
    response.iter_raw = lambda *options, **named: _iter_raw(this(), *options, **named)


def _json(response, **options):
    try:
        return type(response).json(response, **options)
    except ValueError:  # not JSON, or not text
        what = "text that is not JSON, or a part of it," if response.content else "an empty response"
        raise ForeignAnswer(response, f"{what} instead of JSON") from None


def _iter_raw(response, chunk_size: int | None = None) -> Iterator[bytes]:
    """The chunks of the response's body, as long as they come fast enough. Time between the reads does not count."""
    waited, received, first = 0.0, 0, True
    with closing(type(response).iter_raw(response, chunk_size)) as chunks:
        while True:
            start = clock()
            chunk = next(chunks, None)
            waited += clock() - start
            if chunk is None:
                return
            if first and chunk[:20].lstrip().lower().startswith(HTML):
                raise ForeignAnswer(response, "a page of HTML instead of data")
            received, first = received + len(chunk), False
            if waited >= WINDOW:
                _check_speed(response, received, waited)
                waited, received = 0.0, 0
            yield chunk


def _check_speed(response, received: int, seconds: float) -> None:
    if received < MIN_SPEED * seconds:
        host = response.url.netloc.decode()
        raise TimeoutError(f"{host} sent {received} bytes in {seconds:.0f} s, fewer than {MIN_SPEED} per second")


def _count_redirect(response) -> None:
    """Raise ForeignAnswer after MAX_REDIRECTS redirects in a row."""
    url, target = response.request.url, response.request.url.join(response.headers["Location"])
    in_a_row = _redirects.count if _is_target(url) else 0
    _redirects.target, _redirects.count = (target.netloc, target.path), in_a_row + 1
    _redirects.size = response.headers.get("X-Linked-Size")
    if in_a_row >= MAX_REDIRECTS:
        raise ForeignAnswer(response, f"more than {MAX_REDIRECTS} redirects in a row")


def _is_target(url) -> bool:
    return getattr(_redirects, "target", None) == (url.netloc, url.path)
