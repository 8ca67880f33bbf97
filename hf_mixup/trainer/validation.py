"""Checks of settings with which training would run, but give wrong results."""

import copy

from accelerate.utils import DynamoBackend, is_compiled_module
from torch import nn
from transformers import TrainingArguments

from ..methods import Method
from ..net.architecture import architecture_of
from . import fsdp
from .freezing import check_freeze
from .task import check_task


def on_one_device(model: nn.Module | None, args) -> tuple[nn.Module | None, nn.Module | None, TrainingArguments]:
    """Network, its compiled form or None, and `args`, for one device per process.

    The network is the one in nn.DataParallel and torch.compile, which is saved and loaded. `args` are a copy if they
    have several devices.
    """
    if args.n_gpu > 1:
        args = copy.copy(args)
        args._n_gpu = 1
    model = model.module if isinstance(model, nn.DataParallel) else model
    compiled = model if is_compiled_module(model) else None
    return model if compiled is None else compiled._orig_mod, compiled, args


def check_supported(trainer) -> None:
    """Raise ValueError for settings with which training would run, but give wrong results."""
    _check_arguments(trainer)
    check_task(trainer)
    check_freeze(trainer.freeze, architecture_of(trainer.model))
    _check_launch(trainer)
    if trainer.args.torch_compile or trainer.compiled is not None:
        if trainer.method.needs_net:
            raise ValueError(
                f"torch_compile cannot be used with method {trainer.method.name!r}, which reads layers of the network."
            )
    if trainer.args.torch_compile:
        # Net compiles the network; accelerate must not compile the whole step
        trainer.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
    hidden = [m for m in trainer.method.modules() if isinstance(m, Method) and m.group == "hidden"]
    if trainer.args.gradient_checkpointing and hidden:
        raise ValueError(
            f"gradient_checkpointing recomputes layers without the changes that {hidden[0].name!r} makes in them, so "
            "gradients would be wrong: switch it off, or choose another method."
        )


def _check_arguments(trainer) -> None:
    if trainer.args.label_smoothing_factor:
        raise ValueError(
            "label_smoothing_factor supports class indices only: give MixupTrainer(label_smoothing=...) instead."
        )
    if trainer.compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func would not be called: the method computes the loss. Give MixupTrainer(loss=...) instead, "
            "a function of outputs and targets that returns one number per row."
        )


def _check_launch(trainer) -> None:
    if trainer.is_fsdp_enabled:
        raise ValueError(
            "The argument fsdp is not supported: use accelerate launch --config_file recipes/accelerate/fsdp.yaml."
        )
    if trainer.fsdp:
        fsdp.check_supported(trainer.method, trainer.task, trainer.args)
    if trainer.accelerator.mixed_precision == "fp16" and trainer.accelerator.scaler is None:
        raise ValueError(
            f"Mixed precision fp16 requires a GPU: on {trainer.args.device.type} training would run in float32. Use "
            "bf16 or no."
        )


def given(value, args: TrainingArguments, name: str, default=None):
    """The argument `value`, or the field `name` of `args` if it is None."""
    return getattr(args, name, default) if value is None else value
