"""What a command prints for errors of the disk, the Hub and datasets: one paragraph without secrets; exit statuses."""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

from ..errors import BAD_INPUT, FAILED, INTERRUPTED, MixupError
from ..hub.retry import reason, status_of

# errors of a path that the user gave; others, such as a full disk, are not of the input
OF_A_PATH = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
OF_A_PATH |= {errno.EEXIST, errno.EROFS, errno.ELOOP, errno.ENOTEMPTY, errno.EINVAL}
NETWORK = (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError)
REFUSED = (401, 403, 404)  # by a server that works
LIBRARIES = ("datasets.", "huggingface_hub.", "safetensors")  # modules of errors that are not imported here


class Failure(MixupError):
    """An error of another library in words."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.exit_status = status


@contextmanager
def in_words() -> Iterator[None]:
    """Raise Failure for errors inside of the operating system, huggingface_hub, datasets and safetensors."""
    try:
        yield
    except (MixupError, BrokenPipeError):  # a closed stdout: `main` handles it
        raise
    except Exception as error:
        if not isinstance(error, OSError | HTTPError) and not type(error).__module__.startswith(LIBRARIES):
            raise
        raise described(error) from error


def described(error: Exception) -> Failure:
    """The error in one paragraph, with the exit status."""
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if isinstance(error, NETWORK) or not isinstance(number, int):
        status = FAILED if isinstance(error, NETWORK) and status_of(error) not in REFUSED else BAD_INPUT
        return Failure(reason(error)[:500], status)
    place = f"{str(file)[:200]!r}: " if file is not None else ""
    if number in OF_A_PATH:
        return Failure(f"{place}{error.strerror}. Give another path, or change its permissions.", BAD_INPUT)
    return Failure(f"{place}{error.strerror}. Free space, or check the disk, and try again.", FAILED)


def exit_status(action: Callable[[], object], interrupted: str = "Interrupted.") -> int:
    """Run `action`; 0, or the status of its error, which is printed on stderr without a traceback.

    `interrupted`: the message after Ctrl-C.
    """
    try:
        with in_words():
            action()
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
    except MixupError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0
