"""FSDP: the network's weights sharded over the ranks by torch's `fully_shard`, and gathered for saving.

accelerate starts the processes, but its FSDP is switched off: it would shard the whole training step, while only the
network is saved, evaluated and published.
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
from transformers import TrainerCallback

from ..methods import Method
from ..net import Net

REQUEST_VARIABLE = "ACCELERATE_USE_FSDP"
OPTIMIZER, UPSTREAM_OPTIMIZER, SCHEDULER = "optimizer_full.pt", "optimizer.pt", "scheduler.pt"
FULL = StateDictOptions(full_state_dict=True)
# settings that require a second copy of the network, or its full weights outside of a forward pass
REFUSED = ("ema_decay", "load_best_model_at_end", "torch_compile", "channels_last")


def requested() -> bool:
    """Whether the launcher requests FSDP."""
    return os.environ.get(REQUEST_VARIABLE, "false").lower() == "true"


@contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Inside, the launcher's request is hidden, so that accelerate does not shard anything."""
    value = os.environ.get(REQUEST_VARIABLE)
    os.environ[REQUEST_VARIABLE] = "false"
    try:
        yield
    finally:
        os.environ.pop(REQUEST_VARIABLE)
        os.environ.update({} if value is None else {REQUEST_VARIABLE: value})


def check_supported(method: Method, task, args) -> None:
    """Raise ValueError if method, task or arguments do not support a sharded network."""
    if args.world_size == 1:
        raise ValueError("FSDP shards the network over processes, and this run has one: start more, or leave FSDP out.")
    parts = [part for part in method.modules() if isinstance(part, Method)]
    unsupported = [part.name for part in parts if part.needs_net or part.group in ("hidden", "attention", "learned")]
    if not unsupported and any(True for _ in method.parameters()):
        unsupported = [method.name]
    if unsupported:
        raise ValueError(
            f"FSDP shards the network; method {unsupported[0]!r} reads it outside of its forward pass, or has networks "
            "of its own: choose another method, or use recipes/accelerate/ddp.yaml."
        )
    if any(True for _ in task.parameters()):
        raise ValueError("FSDP does not support tasks with networks of their own: use recipes/accelerate/ddp.yaml.")
    for name in REFUSED:
        if value := getattr(args, name, None):
            raise ValueError(f"{name} is {value}, which FSDP does not support: leave it out, or use DDP.")
    if args.mixed_precision == "fp16":
        raise ValueError("FSDP does not support mixed precision fp16: use bf16.")


class ShardedNetwork:
    """Shards the weights of `net`'s model in place, one unit per stage or block. Every rank must call each method."""

    def __init__(self, net: Net, args):
        self.model, self.args = net.model, args
        self.unsharded = copy.deepcopy(net.model).cpu()
        mesh = init_device_mesh(args.device.type, (torch.distributed.get_world_size(),))
        for layer in net.architecture.layers:
            fully_shard(layer.module, mesh=mesh)
        fully_shard(net.model, mesh=mesh)

    def full_state(self) -> dict[str, Tensor]:
        """All weights and buffers, on the CPU of the first rank ({} on others); on all ranks if each machine saves."""
        return get_model_state_dict(self.model, options=self._options())

    def _options(self) -> StateDictOptions:
        return StateDictOptions(full_state_dict=True, cpu_offload=not self.args.save_on_each_node)

    def load(self, folder: Path) -> None:
        """Load a checkpoint's weights into the shards."""
        set_model_state_dict(self.model, load_file(folder / "model.safetensors"), options=FULL)

    def gathered(self) -> nn.Module:
        """The unsharded network with the trained weights, on the ranks that save."""
        self.unsharded.load_state_dict(self.full_state() or self.unsharded.state_dict())
        return self.unsharded

    def save_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        """Write the full state of the optimizer instead of upstream's, which holds one rank's shards."""
        state = get_optimizer_state_dict(self.model, optimizer, options=self._options())
        if self.args.should_save:
            (folder / UPSTREAM_OPTIMIZER).unlink(missing_ok=True)
            torch.save(state, folder / OPTIMIZER)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, folder: Path) -> None:
        """Load the full state of the optimizer into its shards."""
        file = folder / OPTIMIZER if (folder / OPTIMIZER).is_file() else folder / UPSTREAM_OPTIMIZER  # version 0.1
        state = torch.load(file, map_location="cpu", weights_only=True)
        set_optimizer_state_dict(self.model, optimizer, state, options=FULL)


def gather(trainer) -> None:
    """After training: replace the trainer's sharded network by the full one, on the ranks that save."""
    if trainer.sharded is not None:
        full = trainer.sharded.gathered()
        trainer.fsdp, trainer.sharded = False, None
        trainer.step.net.model = trainer.model = full


def callbacks(trainer) -> list[TrainerCallback]:
    """The callbacks that a trainer needs if FSDP is requested."""
    return [ResumeOptimizerCallback(trainer)] if requested() else []


class ResumeOptimizerCallback(TrainerCallback):
    """Loads the optimizer's full state, and the scheduler, when a sharded training resumes from a checkpoint."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **_):
        folder = self.trainer.resumed_from
        if folder is not None and (folder / SCHEDULER).is_file():
            self.trainer.sharded.load_optimizer(optimizer.optimizer, folder)
            lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER, weights_only=True))
