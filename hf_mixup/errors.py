"""The errors that hf_mixup raises for its users, each with the exit status of a command that ends with it.

Their messages contain no secrets, also where they quote what a user typed or another library's message.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from huggingface_hub import get_token

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

NO_TOKENS = r"(?:datasets|transfer|download|accelerate)\b"  # common in names of files
TOKEN = re.compile(rf"(?<![A-Za-z0-9])(hf_|api_org_)(?!{NO_TOKENS})[A-Za-z0-9]{{8,}}")
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
QUERY = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>)]+")  # may hold a signature
TOKEN_LENGTH = 8  # a shorter "token" is not a real one, and could occur in any text


def token_in_use() -> str | None:
    """The token of the environment or the login, None if there is none of at least TOKEN_LENGTH characters."""
    try:
        token = get_token() or ""
    except (OSError, ValueError):  # the file of the login cannot be read
        return None
    return token if len(token) >= TOKEN_LENGTH else None


def redacted(text: str) -> str:
    """The text without tokens of the Hub, user names and passwords in URLs, and parameters of URLs."""
    if token := token_in_use():
        text = text.replace(token, "***")
    return QUERY.sub(r"\1", CREDENTIALS.sub("", TOKEN.sub(r"\1***", text)))


def one_paragraph(text: object) -> str:
    """The text on one line, without secrets and with single spaces."""
    return redacted(" ".join(str(text).split()))


class MixupError(Exception):
    """Base class. The message gives the wrong value, and what to do."""

    exit_status = BAD_INPUT
    every_rank = False  # whether each rank prints the message; by default, one rank per machine does

    def __str__(self) -> str:
        return redacted(super().__str__())


class ConfigError(MixupError, ValueError):
    """A recipe, command line or value that cannot be used."""


class CodeRefused(ConfigError):
    """A run record names Python code, which is not imported, since the record may have been downloaded."""

    def __init__(self, reference: str):
        self.reference = reference
        super().__init__(f"The record names {reference!r}, which is Python code: give the class itself.")


class DataError(MixupError, ValueError):
    """A data set, column, label or image that cannot be used."""

    def __init__(self, message: str):
        # torch re-raises the error of a loader worker with the worker's whole traceback as its message
        original = message.rpartition(f"{__name__}.{type(self).__name__}: ")[2]
        super().__init__(" ".join(line.strip() for line in original.splitlines() if line.strip()))


class DataUnreachable(DataError):
    """A data set could not be read because of the network or the server; the request may be valid."""

    exit_status = FAILED


class ModelError(MixupError, ValueError):
    """A model that could not be loaded or built as requested."""


class ModelUnreachable(ModelError):
    """A model could not be downloaded because of the network or the server; the request may be valid."""

    exit_status = FAILED


class TaskError(MixupError, ValueError):
    """A task, method or loss function that returns what cannot be used."""

    every_rank = True


class RecordError(MixupError, ValueError):
    """A file that is not a valid run record."""


class RunError(MixupError, ValueError):
    """A run that cannot start with these settings. No file was written."""


class OutOfMemory(RunError):
    """The settings need more memory than the machine or its GPU has."""

    every_rank = True


class ExistingRunError(RunError):
    """The output folder holds a run of the same recipe, and --resume was not given."""


class SaveError(MixupError, OSError):
    """A checkpoint or result could not be written; earlier files are unchanged."""

    exit_status, every_rank = FAILED, True


class CheckpointError(MixupError, ValueError):
    """A checkpoint that is incomplete, damaged, or of a run with other settings."""


class CardError(MixupError, ValueError):
    """Runs that cannot be combined in one model card."""


class PushRefused(MixupError, ValueError):
    """The destination cannot be pushed to with these settings or this login."""


class PushError(MixupError, RuntimeError):
    """The upload failed; the folder is complete on disk and can be pushed later."""

    exit_status = FAILED


class PeerProcessError(MixupError, ValueError):
    """Another process of the run failed; the message is that process's."""


class PeerProcessDied(MixupError, RuntimeError):
    """Another process of the run ended while this one was communicating with it."""

    exit_status, every_rank = FAILED, True


class TrainingInterrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after saving a checkpoint to resume from."""

    exit_status = INTERRUPTED


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The sentence " Did you mean 'x'?", or "" if `name` is a choice or none is similar; case is ignored."""
    by_lower = {choice.lower(): choice for choice in choices}
    if by_lower.get(name.lower()) == name:
        return ""
    similar = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean {by_lower[similar[0]]!r}?" if similar else ""
