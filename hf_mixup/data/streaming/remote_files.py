"""Byte ranges of local files and of files on the Hub, with retries."""

import io
import re
import time
from collections.abc import Callable
from functools import lru_cache, partial
from urllib.parse import unquote

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ...errors import DataError, DataUnreachable
from ...hub.answers import ForeignAnswer
from ...hub.retry import is_transient, reason, retried, status_of

HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")
# Reads in training are retried for minutes: a run of hours should survive an outage of the Hub.
TRIES, PATIENCE = 14, 300.0
READ_TIMEOUT = 60.0  # seconds without a byte
REQUEST_BYTES = 2**25  # of one request at most: a broken connection discards no more than this
PATHS_PER_REQUEST = 500
EXPIRED = (400, 401, 403, 404, 410)  # statuses of signed addresses that are no longer valid
Sleep = Callable[[float], object]
_addresses: dict[str, str] = {}  # the signed address of each file of the Hub, as long as it works


def file_sizes(paths: list[str], token: str | None = None) -> dict[str, int]:
    """The size of each file in bytes; DataError names a file that does not exist."""
    sizes, on_hub = {}, {}
    for path in paths:
        if match := HUB_FILE.fullmatch(path):
            on_hub.setdefault(match.group(1, 2), {})[match[3]] = path
        else:
            sizes[path] = _read_local(path, lambda file: file.seek(0, io.SEEK_END))
    for (repo, revision), names in on_hub.items():
        sizes |= _sizes_on_hub(repo, unquote(revision), names, token)
    return {path: sizes[path] for path in paths}


def _sizes_on_hub(repo: str, revision: str, names: dict[str, str], token: str | None) -> dict[str, int]:
    sizes, files = {}, list(names)
    request = partial(HfApi(token=token).get_paths_info, repo, revision=revision, repo_type="dataset")
    for start in range(0, len(files), PATHS_PER_REQUEST):
        chunk = files[start : start + PATHS_PER_REQUEST]
        try:
            entries = retried(partial(request, chunk), f"get the file sizes of {repo!r}")
        except (HTTPError, OSError) as error:
            raise read_error(names[chunk[0]], error) from error
        sizes |= {names[entry.path]: entry.size for entry in entries if hasattr(entry, "size")}
    for path in names.values():
        if path not in sizes:
            raise DataError(f"{path} does not exist. {ADVICE[404]}")
    return sizes


def read_range(path: str, start: int, stop: int, token: str | None = None, sleep: Sleep = time.sleep) -> bytes:
    """The bytes [start, stop) of a file, never fewer; DataError names the file if they could not be read.

    `sleep` waits the given seconds before a retry; it may raise to give up.
    """
    if not (match := HUB_FILE.fullmatch(path)):
        content = _read_local(path, lambda file: (file.seek(start), file.read(stop - start))[1])
        return _check_length(path, stop - start, content)
    repo, revision, name = match.groups()
    url = hf_hub_url(repo, name, repo_type="dataset", revision=unquote(revision))
    parts = []
    for first in range(start, stop, REQUEST_BYTES):
        request = partial(_request_range, path, url, first, min(first + REQUEST_BYTES, stop), token)
        try:
            parts.append(retried(request, f"read {path}", tries=TRIES, patience=PATIENCE, pause=sleep))
        except (HTTPError, OSError) as error:
            raise read_error(path, error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _request_range(path: str, url: str, start: int, stop: int, token: str | None) -> bytes:
    """The bytes of a range, from the address that the Hub redirects to. It is kept until it fails."""
    wanted = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    if address := _addresses.get(url):
        try:
            response = get_session().get(address, headers=wanted, timeout=READ_TIMEOUT)
            if response.status_code not in EXPIRED:
                return _content(path, response, start, stop, token)
        except (HTTPError, OSError):  # the server of this address may be gone: the next try resolves another
            _addresses.pop(url, None)
            raise
        _addresses.pop(url, None)
    headers = build_hf_headers(token=token) | wanted
    response = get_session().get(url, headers=headers, timeout=READ_TIMEOUT, follow_redirects=True)
    content = _content(path, response, start, stop, token)
    if response.history:
        _addresses[url] = str(response.url)
    return content


def _content(path: str, response, start: int, stop: int, token: str | None) -> bytes:
    """The range that was requested; ForeignAnswer if the response is not this range and not the whole file."""
    hf_raise_for_status(response)
    content, whole = response.content, response.status_code == 200  # from a server without range requests
    wanted, sent = _size(path, token) if whole else stop - start, response.headers.get("Content-Range")
    if len(content) != wanted:
        raise ForeignAnswer(response, f"{len(content)} of {wanted} bytes")
    if not (whole or sent is None or sent.startswith(f"bytes {start}-")):
        raise ForeignAnswer(response, f"{sent} instead of the bytes from {start}")
    return content[start:stop] if whole else content


@lru_cache
def _size(path: str, token: str | None) -> int:
    return file_sizes([path], token)[path]


def _read_local(path: str, use: Callable):
    try:
        with open(path, "rb") as file:
            return use(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): restore the file, or choose other data.") from error


def _check_length(path: str, wanted: int, content: bytes) -> bytes:
    if len(content) != wanted:
        raise DataError(
            f"{path} is shorter than at the start of the run ({len(content)} of {wanted} bytes read): restore the "
            "complete file."
        )
    return content


class RemoteFile(io.RawIOBase):
    """The bytes [start, stop) of a file, which are read once and in order, `request_bytes` at a time."""

    def __init__(
        self,
        path: str,
        start: int,
        stop: int,
        token: str | None = None,
        sleep: Sleep = time.sleep,
        request_bytes: int = 2**23,
    ):
        self.path, self.position, self.stop, self.token = path, start, stop, token
        self.sleep, self.request_bytes, self.buffer = sleep, request_bytes, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target) -> int:
        if not self.buffer and self.position < self.stop:
            stop = min(self.position + self.request_bytes, self.stop)
            self.buffer = memoryview(read_range(self.path, self.position, stop, self.token, self.sleep))
            self.position = stop
        count = min(len(target), len(self.buffer))
        target[:count], self.buffer = self.buffer[:count], self.buffer[count:]
        return count


LOGIN = "If it is private or gated, request access on its page and log in (`hf auth login`, or HF_TOKEN)."
TOKEN = f"The token in use may be wrong or expired. {LOGIN}"
ADVICE = {
    401: TOKEN,
    403: LOGIN,
    404: "Files of a data set must not be deleted while it is read: choose a revision that has the file.",
    416: "The file is shorter than the size the Hub reported: its upload was incomplete, or it changed.",
}


def read_error(path: str, error: Exception) -> DataError:
    """The DataError for a file of the Hub that could not be read; DataUnreachable if a later try may succeed."""
    status = 404 if isinstance(error, EntryNotFoundError) else status_of(error)
    advice = ADVICE.get(status, "Try again later; a run with checkpoints continues with --resume.")
    return (DataUnreachable if is_transient(error) else DataError)(f"{path} cannot be read ({reason(error)}). {advice}")
