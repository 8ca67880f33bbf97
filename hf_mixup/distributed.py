"""What the processes of one run know of each other: errors, disks, and that one of them has ended."""

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.distributed import DistError

# what gloo and the store say when the other end of a connection is gone; NCCL has an error class of its own
ENDED = (
    "closed by peer",
    "reset by peer",
    "pair closure",
    "Broken pipe",
    "Connection refused",
    "unhealthy",
    "recvBytes",
)


class OtherProcess(ValueError):
    """Another process of the run cannot go on, and so this one cannot; the message is the other's."""


class LeftAlone(RuntimeError):
    """Another process of the run ended while this one needed it."""


@contextmanager
def together() -> Iterator[None]:
    """An error that one process meets inside ends all of them: there its own, on the others OtherProcess.

    Nothing inside may wait for other processes.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    said = gather_object([str(error) if error else ""])
    if error is not None:
        raise error
    if other := next(filter(None, said), None):
        raise OtherProcess(other)


def ended(error: BaseException) -> bool:
    """Whether an error says that the connection to another process of the run is gone."""
    if not isinstance(error, RuntimeError) or PartialState().num_processes == 1:
        return False
    return isinstance(error, DistError) or any(sign in str(error) for sign in ENDED)


def machines() -> int:
    """The number of machines this run is on, as its launcher counts them."""
    return sum(gather_object([int(PartialState().is_local_main_process)]))


def disks_differ(folder: Path) -> bool:
    """Whether `folder`, which exists, is another one on some machine than on the first."""
    if machines() == 1:
        return False
    state = PartialState()
    [token] = broadcast_object_list([secrets.token_hex(8)])
    mark = folder / f".lock-{token}"
    if state.is_main_process:
        mark.touch()
    state.wait_for_everyone()
    seen = gather_object([mark.exists()])
    if state.is_main_process:
        mark.unlink()
    return not all(seen)


def share_buffers(module: nn.Module, but: Collection[str] = ()) -> None:
    """Give all processes the buffers of the first, such as BatchNorm's statistics, which each has from its own rows."""
    state = PartialState()
    if state.num_processes > 1:
        for name, buffer in module.named_buffers():
            if name not in but and buffer.device.type == state.device.type:
                torch.distributed.broadcast(buffer, 0)
