"""A network whose weights are shared out over the processes (FSDP, torch's `fully_shard`), and its whole weights again.

accelerate starts the processes and leaves the sharding to us: it would shard the training step, and the network is what
is saved, evaluated and published.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ..methods import Method
from ..net import Net

WANTED = "ACCELERATE_USE_FSDP"
WHOLE = StateDictOptions(full_state_dict=True)
# settings that need a second copy of the network, or its weights outside of a pass
REFUSED = ("ema_decay", "load_best_model_at_end", "torch_compile", "channels_last")


def wanted() -> bool:
    """Whether the launcher asks for it."""
    return os.environ.get(WANTED, "false").lower() == "true"


@contextmanager
def untold() -> Iterator[None]:
    """Inside, accelerate does not know that sharding is wanted."""
    kept = os.environ.get(WANTED)
    os.environ[WANTED] = "false"
    try:
        yield
    finally:
        os.environ.pop(WANTED)
        os.environ.update({} if kept is None else {WANTED: kept})


def check_shardable(method: Method, task, args) -> None:
    """Raise ValueError for what cannot run with a network that is in parts."""
    if args.world_size == 1:
        raise ValueError("FSDP splits the network over processes, and there is one: start more, or leave it out.")
    parts = [part for part in method.modules() if isinstance(part, Method)]
    looks = [part.name for part in parts if part.needs_net or part.group in ("hidden", "attention", "learned")]
    if not looks and any(True for _ in method.parameters()):
        looks = [method.name]
    if looks:
        raise ValueError(
            f"FSDP splits the network, and method {looks[0]!r} looks inside it or has networks of its own: take "
            "another, or recipes/accelerate/ddp.yaml."
        )
    if isinstance(task, nn.Module) and any(True for _ in task.parameters()):
        raise ValueError("FSDP is not for tasks with networks of their own: use recipes/accelerate/ddp.yaml.")
    for name in REFUSED:
        if value := getattr(args, name, None):
            raise ValueError(f"{name} is {value}, which FSDP does not know: leave it out, or use DDP.")
    if args.mixed_precision == "fp16":
        raise ValueError("Mixed precision fp16 is not for FSDP: use bf16.")


def shard(net: Net, device: torch.device) -> nn.Module:
    """Share out `net`'s weights in place, each stage or block by itself; gives a whole copy on the CPU."""
    whole = copy.deepcopy(net.model).cpu()
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for layer in net.parts.layers:
        fully_shard(layer.module, mesh=mesh)
    fully_shard(net.model, mesh=mesh)
    return whole


def whole_state(model: nn.Module, everywhere: bool) -> dict[str, Tensor]:
    """All weights and buffers of a network that is in parts, on the CPU of the first process; {} on the others.

    Every process asks. `everywhere`: all of them get it, where each machine saves for itself.
    """
    return get_model_state_dict(model, options=_options(everywhere))


def _options(everywhere: bool) -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, cpu_offload=not everywhere)


def load_whole(model: nn.Module, folder: Path) -> None:
    """Read a network's weights from a checkpoint into its parts."""
    set_model_state_dict(model, load_file(folder / "model.safetensors"), options=WHOLE)


def save_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, file: Path, args) -> None:
    """Write the whole state of the optimizer, which each process has a part of."""
    state = get_optimizer_state_dict(model, optimizer, options=_options(args.save_on_each_node))
    if args.should_save:
        torch.save(state, file)


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Read the state of the optimizer back into its parts."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    set_optimizer_state_dict(model, optimizer, state, options=WHOLE)
