"""Standard output and error of the command without secrets, which libraries may repeat in messages and tracebacks."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import redacted


class _Redacted:
    """A text stream that replaces secrets in each text that is written."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextmanager
def redacted_output() -> Iterator[None]:
    """Inside, nothing that is printed or logged contains a secret, nor do the tracebacks of errors raised inside."""
    streams, factory = (sys.stdout, sys.stderr), logging.getLogRecordFactory()
    sys.stdout, sys.stderr = map(_Redacted, streams)
    logging.setLogRecordFactory(lambda *args, **kwargs: _redacted_record(factory(*args, **kwargs)))
    try:
        yield
    except (BrokenPipeError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout, sys.stderr = streams
        logging.setLogRecordFactory(factory)


def _redacted_record(record: logging.LogRecord) -> logging.LogRecord:
    """Handlers that exist already write to the streams directly."""
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit the message: logging reports it
        return record
    if (clean := redacted(text)) != text:
        record.msg, record.args = clean, ()
    return record
