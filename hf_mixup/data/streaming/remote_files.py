"""Bytes of files here and on the Hub, by ranges; a request that fails for a moment is sent again."""

import io
import re
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ...errors import DataError, DataUnreachable
from ...hub.retry import may_pass, reason, retried, status_of

HUB = re.compile(r"hf://datasets/([^@]+)@([^/]+)/(.+)")
# While training, a Hub that is away is waited for: a run of hours is worth minutes.
TRIES, PATIENCE = 14, 300.0
TIMEOUT = 60.0  # seconds for the next bytes to come
PART = 2**25  # bytes of one request at most, which is what a broken connection can cost
PATHS = 500  # files whose sizes are asked for in one request
Pause = Callable[[float], object]


def sizes(paths: list[str], token: str | None = None) -> dict[str, int]:
    """The size of each file in bytes; DataError names one that is not there."""
    found, asked = {}, {}
    for path in paths:
        if place := HUB.fullmatch(path):
            asked.setdefault(place.group(1, 2), {})[place[3]] = path
        else:
            found[path] = _local(path, lambda file: file.seek(0, io.SEEK_END))
    for (repo, revision), names in asked.items():
        found |= _sizes_on_hub(repo, unquote(revision), names, token)
    return {path: found[path] for path in paths}


def _sizes_on_hub(repo: str, revision: str, names: dict[str, str], token: str | None) -> dict[str, int]:
    found, wanted = {}, list(names)
    ask = partial(HfApi(token=token).get_paths_info, repo, revision=revision, repo_type="dataset")
    for start in range(0, len(wanted), PATHS):
        some = wanted[start : start + PATHS]
        try:
            entries = retried(partial(ask, some), f"ask for file sizes of {repo!r}")
        except (HTTPError, OSError) as error:
            raise unreadable(names[some[0]], error) from error
        found |= {names[entry.path]: entry.size for entry in entries if hasattr(entry, "size")}
    for path in names.values():
        if path not in found:
            raise DataError(f"{path} is not there. {ADVICE[404]}")
    return found


def fetch(path: str, start: int, stop: int, token: str | None = None, pause: Pause = time.sleep) -> bytes:
    """The bytes from `start` up to `stop` of a file, all of them; DataError names the file where that cannot be.

    `pause` waits so many seconds between two tries; it may raise to give up.
    """
    if not (place := HUB.fullmatch(path)):
        return _whole(path, stop - start, _local(path, lambda file: (file.seek(start), file.read(stop - start))[1]))
    repo, revision, name = place.groups()
    url = hf_hub_url(repo, name, repo_type="dataset", revision=unquote(revision))
    parts = []
    for at in range(start, stop, PART):
        part = partial(_ask, url, at, min(at + PART, stop), token)
        try:
            parts.append(retried(part, f"read {path}", tries=TRIES, patience=PATIENCE, pause=pause))
        except (HTTPError, OSError) as error:
            raise unreadable(path, error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _ask(url: str, start: int, stop: int, token: str | None) -> bytes:
    headers = {**build_hf_headers(token=token), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    response = get_session().get(url, headers=headers, timeout=TIMEOUT, follow_redirects=True)
    hf_raise_for_status(response)
    content = response.content
    if response.status_code == 200:  # a server that knows no ranges sends all
        content = content[start:stop]
    if len(content) != stop - start:
        raise ConnectionError(f"{len(content)} of {stop - start} bytes came")
    return content


def _local(path: str, use: Callable):
    try:
        with open(path, "rb") as file:
            return use(file)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}): put it back, or choose other data.") from error


def _whole(path: str, wanted: int, content: bytes) -> bytes:
    if len(content) != wanted:
        raise DataError(f"{path} is shorter than it was when the run began: put the whole file back.")
    return content


class Remote(io.RawIOBase):
    """A file to be read from its start to its end, in parts."""

    def __init__(self, path: str, size: int, token: str | None = None, pause: Pause = time.sleep, part: int = 2**23):
        self.path, self.size, self.token, self.pause, self.part = path, size, token, pause, part
        self.at, self.buffer = 0, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target) -> int:
        if not self.buffer and self.at < self.size:
            stop = min(self.at + self.part, self.size)
            self.buffer = memoryview(fetch(self.path, self.at, stop, self.token, self.pause))
            self.at = stop
        count = min(len(target), len(self.buffer))
        target[:count], self.buffer = self.buffer[:count], self.buffer[count:]
        return count


LOGIN = "If it is private or gated, ask for access on its page and log in (`hf auth login`, or HF_TOKEN)."
TOKEN = f"A token that is set is asked for first, and may be wrong or have ended. {LOGIN}"
ADVICE = {
    401: TOKEN,
    403: LOGIN,
    404: "Files of a data set must stay while it is read: choose a revision that has it.",
    416: "The file is shorter than the Hub said: it was uploaded in part, or changed.",
}


def unreadable(path: str, error: Exception) -> DataError:
    """One paragraph about a file that the Hub does not give; DataUnreachable if it may, another time."""
    status = 404 if isinstance(error, EntryNotFoundError) else status_of(error)
    advice = ADVICE.get(status, "Try again later; a run that saved checkpoints goes on with --resume.")
    return (DataUnreachable if may_pass(error) else DataError)(f"{path} cannot be read ({reason(error)}). {advice}")
