"""The weight files of a checkpoint: of the network, and of method, task and EMA."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TimmWrapperImageProcessor
from transformers.utils import PushToHubMixin

from ..distributed import broadcast_buffers
from ..errors import CheckpointError
from . import manifest
from .ema import EMA
from .step import MixupStep

METHOD, TASK = "method.safetensors", "task.safetensors"
FROM_HUB = ".from_hub"  # marks a checkpoint downloaded from the Hub, which holds no per-rank state

logger = logging.getLogger(__name__)


def broadcast_trained(trainer) -> None:
    """Copy the first rank's buffers (BatchNorm statistics), which are the saved ones, to all ranks."""
    broadcast_buffers(trainer.step, exclude=trainer.step.private)
    if trainer.ema is not None:
        broadcast_buffers(trainer.ema.average)


def save_files(trainer, folder: Path, as_checkpoint: bool, weights: dict[str, torch.Tensor] | None) -> None:
    """Write the evaluated weights, configuration, image processor, and the state of method, task and EMA.

    `weights`: the full state dict of a sharded network. Ranks without `args.should_save` write nothing.
    """
    if not trainer.args.should_save:
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    with nullcontext() if trainer.ema is None else trainer.ema.swapped():
        save_network(model, folder, as_checkpoint, weights)
    processor = trainer.processing_class
    if not isinstance(processor, (TimmWrapperImageProcessor, type(None))):  # timm's is in config.json
        processor.save_pretrained(folder)
    save_extra(folder, trainer.step, trainer.ema)


def save_network(model: nn.Module, folder: Path, as_checkpoint: bool, weights: dict | None = None) -> None:
    """Write weights and configuration for `from_pretrained`; for modules that have none, weights only.

    `weights`: the full state dict of a sharded network.
    """
    if isinstance(model, PushToHubMixin):
        # otherwise some native networks' weights get their original names, which the Trainer cannot load
        with save_on_this_rank(model):
            model.save_pretrained(folder, save_original_format=not as_checkpoint, state_dict=weights)
    else:
        save_file(_copies(weights or model.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})


@contextmanager
def save_on_this_rank(model: nn.Module) -> Iterator[None]:
    """Let `save_pretrained` write on this rank: transformers writes on the first rank of the run only."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def save_extra(folder: Path, step: MixupStep, ema: EMA | None) -> None:
    """Write the state of method, task and EMA (`method.safetensors` and so on), each only if it has any."""
    weights = {METHOD: split_state(step.method)[0]}
    weights[TASK] = step.task.state_dict()
    if ema is not None:
        weights |= dict([ema.other_weights()])
    for name, state in weights.items():
        if state:
            save_file(_copies(state), folder / name)


def split_state(method: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split a method's state into the part that may be published and the per-rank part, which holds training images.

    Neither contains a teacher that is rebuilt from its name.
    """
    parts = dict(method.named_modules())
    private = {f"{name}.{key}".lstrip(".") for name, part in parts.items() for key in getattr(part, "private", ())}
    rebuilt = tuple(f"{name}." for name, part in parts.items() if getattr(part, "reloaded_by_name", False))
    state = {key: value for key, value in method.state_dict().items() if not key.startswith(rebuilt)}
    return {k: v for k, v in state.items() if k not in private}, {k: v for k, v in state.items() if k in private}


def save_rank_state(folder: Path, step: MixupStep, rank: int) -> None:
    """Write the method's per-rank state, if it has any."""
    if private := split_state(step.method)[1]:
        save_file(_copies(private), folder / f"method-rank{rank}.safetensors")


def load_method(folder: Path, method: nn.Module, rank: int | None = None) -> None:
    """Load a method's state; from a checkpoint also the per-rank state of `rank`, if the run had this rank."""
    public, private = split_state(method)
    rebuilt = {key: value for key, value in method.state_dict().items() if key not in public | private}
    state = _read(folder / METHOD) if public else {}
    if private and rank is not None and not (folder / FROM_HUB).is_file():
        file = folder / f"method-rank{rank}.safetensors"
        is_new = rank and not file.is_file() and (folder / "method-rank0.safetensors").is_file()
        private = private if is_new else _read(file)
    method.load_state_dict(rebuilt | state | private)


def load_extra(folder: Path, step: MixupStep, ema: EMA | None, rank: int = 0) -> None:
    """Load the state of method, task and EMA that `save_extra` and `save_rank_state` wrote.

    A checkpoint of transformers' Trainer has no such state: buffers and EMA keep their initial state, with a warning.
    CheckpointError if method or task have networks, since the optimizer of that checkpoint does not include them.
    """
    has_method, has_task = step.method.state_dict(), step.task.state_dict()
    if manifest.status(folder) == manifest.UNVERIFIED and not _has_extra(folder):
        _check_untrained(folder, step, bool(has_method or has_task or ema is not None))
        return
    if has_method:
        load_method(folder, step.method, rank)
    if has_task:
        step.task.load_state_dict(_read(folder / TASK))
    if ema is not None:
        ema.restore(_read(folder / ema.other_weights()[0]))


def _check_untrained(folder: Path, step: MixupStep, has_state: bool) -> None:
    if any(p.requires_grad for module in (step.method, step.task) for p in module.parameters()):
        raise CheckpointError(
            f"{folder} was saved by transformers' Trainer and has no state of the networks of method "
            f"{step.method.name!r}: start a new run from its weights, with from_pretrained({str(folder)!r})."
        )
    if has_state:
        logger.warning("%s holds no state of method, task or EMA: they keep their initial state.", folder)


def _has_extra(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (METHOD, TASK, *EMA.FILES)) or any(
        folder.glob("method-rank*.safetensors")
    )


def _copies(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous CPU copies: safetensors refuses tensors that share memory."""
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}


def _read(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing: the checkpoint was saved with other settings. Resume with the recipe that it was "
            "saved with."
        )
    return load_file(file)
