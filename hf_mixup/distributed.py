"""Communication between the processes of a run: errors, shared disks, lost processes, and synchronised buffers."""

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.distributed import DistError

from . import errors
from .errors import MixupError, PeerProcessError

Result = TypeVar("Result")
# messages of gloo and of torch's store when the connection to another process is lost; NCCL raises DistError
CONNECTION_LOST = (
    "closed by peer",
    "reset by peer",
    "pair closure",
    "Broken pipe",
    "Connection refused",
    "unhealthy",
    "recvBytes",
)


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """If the code inside fails on one rank, raise its error on that rank and PeerProcessError on all others.

    The code inside must not wait for other ranks.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages = gather_object([str(error) if error else ""])
    if error is not None:
        raise error
    if message := next(filter(None, messages), None):
        raise PeerProcessError(message)


def on_main_process(call: Callable[[], Result]) -> Result | None:
    """Run `call` on the main process and return its result, None on other ranks; raise a MixupError on all ranks."""
    state, failure, result = PartialState(), None, None
    if state.is_main_process:
        try:
            result = call()
        except MixupError as error:
            failure = (type(error).__name__, str(error))
        except Exception as error:
            _broadcast(state, ("PeerProcessError", f"The main process failed: {type(error).__name__}"))
            raise
    failure = _broadcast(state, failure)
    if failure is not None:
        name, message = failure
        raise getattr(errors, name)(message)
    return result


def _broadcast(state: PartialState, value: object) -> object:
    """The main process's `value`, on all ranks."""
    values = [value]
    if state.num_processes > 1:
        broadcast_object_list(values)
    return values[0]


def is_connection_lost(error: BaseException) -> bool:
    """Whether `error` means that the connection to another process of the run is lost."""
    if not isinstance(error, RuntimeError) or PartialState().num_processes == 1:
        return False
    return isinstance(error, DistError) or any(message in str(error) for message in CONNECTION_LOST)


def num_machines() -> int:
    """The number of machines of the run, counted by the processes with local rank 0."""
    return sum(gather_object([int(PartialState().is_local_main_process)]))


def has_separate_disks(folder: Path) -> bool:
    """Whether the machines of the run do not share the disk of `folder`, which must exist."""
    if num_machines() == 1:
        return False
    state = PartialState()
    [token] = broadcast_object_list([secrets.token_hex(8)])
    marker = folder / f".lock-{token}"
    if state.is_main_process:
        marker.touch()
    state.wait_for_everyone()
    visible = gather_object([marker.exists()])
    if state.is_main_process:
        marker.unlink()
    return not all(visible)


def broadcast_buffers(module: nn.Module, exclude: Collection[str] = ()) -> None:
    """Copy the buffers of rank 0, such as BatchNorm statistics, to all ranks, except those named in `exclude`."""
    state = PartialState()
    if state.num_processes > 1:
        for name, buffer in module.named_buffers():
            if name not in exclude and buffer.device.type == state.device.type:
                torch.distributed.broadcast(buffer, 0)
