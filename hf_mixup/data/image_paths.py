"""Image files that cells name: which of them may be read, and their content. Text in base64 is decoded."""

import binascii
import os
import re
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

import datasets
from datasets import DownloadConfig
from datasets.utils.file_utils import xopen
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from ..errors import DataError

ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "lz4://", "xz://", "zstd://")
SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")  # of a URL; fsspec also knows "file:" without slashes
# How base64 of PNG, JPEG, GIF, WebP and TIFF files begins.
BEGINNINGS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
BASE64_LENGTH = 64  # no shorter text is an image
SHOWN = 200  # characters of a path in a message


class ImageDecodeError(Exception):
    """An image that cannot be decoded; the caller raises a DataError that names split and row."""


def read_image_file(path: str, home: str | None = None) -> bytes:
    """The content of a local or remote file, or of an image in base64. ImageDecodeError if it cannot be read; network
    errors are raised as is.

    `home` is the folder of a local data set, or the URL prefix of all files of a Hub data set. A relative path is one
    of the folder, or else of the working directory. A path that `check_path` refuses raises a DataError, because the
    data set may be malicious.
    """
    if (content := embedded_image(path)) is not None:
        return content
    path = _in_folder(path, home)
    check_path(path, home)
    shown = shortened(path)
    try:
        if not SCHEME.match(path):
            return Path(path).read_bytes()
        with xopen(path, "rb", download_config=DownloadConfig()) as file:
            return file.read()
    except FileNotFoundError as error:
        raise ImageDecodeError(f"{shown} does not exist") from error
    except (OSError, ValueError) as error:
        if SCHEME.match(path):
            raise
        raise ImageDecodeError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def embedded_image(text: str) -> bytes | None:
    """The content of a data URI, or of an image file in base64; None for other text."""
    try:
        if text.startswith("data:"):
            head, _, data = text.partition(",")
            return b64decode(data) if head.endswith(";base64") else unquote_to_bytes(data)
        if len(text) >= BASE64_LENGTH and text.startswith(BEGINNINGS) and "." not in text:
            return b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ImageDecodeError(f"text in base64 that is damaged: {error}") from error
    return None


def embedded_bytes(content: bytes) -> bytes:
    """The content, decoded if it is a data URI or base64."""
    if content.startswith((b"data:", *(word.encode() for word in BEGINNINGS))):
        with suppress(UnicodeDecodeError):
            return embedded_image(content.decode("ascii")) or content
    return content


def shortened(path: str) -> str:
    """The path for a message; text in base64 would be long."""
    return path if len(path) <= SHOWN else f"{path[:SHOWN]}..."


def check_path(path: str, home: str | None, holder: str = "The image column") -> None:
    """DataError unless `home` is None or the path is inside it: see `read_image_file`."""
    if home is not None and not is_inside(path, home):
        raise DataError(
            f"{holder} holds the path {shortened(path)!r}, which is not a file of the data set ({home}). Such a path "
            "may be any file or URL that its author wants you to read. Only if you trust the data, set "
            "allow_outside_files=True (--allow_outside_files true)."
        )


def is_inside(path: str, home: str) -> bool:
    """Whether a path is in `home`, in an archive there, or in the caches of files that `datasets` downloads for it."""
    *inner, outermost = path.split("::")
    if not all(hop.startswith(ARCHIVES) for hop in inner):
        return False  # "/etc/passwd::<home>/x.zip" opens the first one
    on_hub = home.startswith("hf://")
    if SCHEME.match(outermost):
        return on_hub and outermost.startswith(home) and ".." not in outermost.split("/")
    absolute = Path(os.path.abspath(outermost))
    if not on_hub and (
        absolute.is_relative_to(os.path.abspath(home)) or absolute.is_relative_to(os.path.realpath(home))
    ):
        return True  # links in the folder are the user's
    return any(Path(outermost).resolve().is_relative_to(cache.resolve()) for cache in _caches(home))


def _caches(home: str) -> list[Path]:
    """The folders of files that `datasets` downloads or extracts for a data set."""
    caches = [datasets.config.EXTRACTED_DATASETS_PATH, Path(datasets.config.HF_DATASETS_CACHE, "downloads")]
    if match := re.match(r"hf://datasets/([^@]+)@", home):
        name = repo_folder_name(repo_id=match[1], repo_type="dataset")
        caches += [datasets.config.DOWNLOADED_DATASETS_PATH, Path(constants.HF_HUB_CACHE, name)]
    return [Path(cache) for cache in caches]


def _in_folder(path: str, home: str | None) -> str:
    """A relative path as one of the folder `home`, unless only the working directory has such a file."""
    if home is None or home.startswith("hf://") or SCHEME.match(path):
        return path
    found = os.path.join(home, path)
    return path if not os.path.isfile(found) and os.path.isfile(path) else found
