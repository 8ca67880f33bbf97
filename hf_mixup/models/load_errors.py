"""Errors of timm, transformers and the Hub as ModelError, with the name of the model and what to change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HTTPError, StrictDataclassError
from safetensors import SafetensorError

from ..errors import ModelError, ModelUnreachable, one_paragraph
from ..hub.retry import is_transient, reason

# raised by constructors of networks for arguments of a wrong type or value
BUILD_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError)
BUILD_ERRORS += (RuntimeError, StrictDataclassError, TypeError, ValueError)


@contextmanager
def as_model_error(name: str, args: dict, alternative: str = "") -> Iterator[None]:
    """Raise ModelError for errors raised inside, while network `name` is built with `args`, loaded or downloaded.

    `alternative` ends the message of a failed download.
    """
    try:
        yield
    except ModelError:
        raise
    except SafetensorError as error:
        raise ModelError(
            f"The weights of {name!r} are damaged ({one_paragraph(error)}). Download or save them again."
        ) from error
    except (OSError, HTTPError) as error:
        if not alternative:
            raise ModelError(f"{name!r} could not be loaded: {one_paragraph(error)}") from error
        transient = is_transient(error)
        raise (ModelUnreachable if transient else ModelError)(
            f"{name!r} could not be loaded: it is not in the local cache and the download failed "
            f"({reason(error) if transient else type(error).__name__}). Check the name and the connection, or run "
            f"`hf download` on a machine that has one; {alternative}."
        ) from error
    except BUILD_ERRORS as error:
        if unknown := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
            network, key = unknown.groups()
            raise ModelError(f"model_args: {name!r} ({network}) has no argument {key!r}. Leave it out.") from error
        raise ModelError(f"{name!r} could not be built with model_args {args}: {one_paragraph(error)}") from error
