"""The one error of this package, and the nearest name it can suggest."""

from collections.abc import Iterable
from difflib import get_close_matches


class DataError(ValueError):
    """Something about the data that the user can put right; the message holds the value and the way out."""

    def __init__(self, message: str):
        # torch raises what a worker process met once more, with the whole traceback for a message
        own = message.rpartition(f"{__name__}.{type(self).__name__}: ")[2]
        super().__init__(" ".join(line.strip() for line in own.splitlines() if line.strip()))


class Unreachable(DataError):
    """The data are elsewhere, and the way there failed: what was asked for may be right."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A sentence " Did you mean 'x'?", or nothing if no choice is close; compares without regard to case."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean {by_lower[found[0]]!r}?" if found else ""
