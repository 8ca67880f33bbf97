"""The first steps of a run: errors for settings with which it cannot train, or for which there is too little memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from ..config import MixupConfig
from ..distributed import raise_on_all_ranks
from ..errors import OutOfMemory, RunError
from ..trainer.step import MixupStep

STEPS = 2  # after the first step the weights may be so large that only the second one overflows
# torch raises a plain RuntimeError on CPUs
MEMORY = ("not enough memory", "t allocate memory", "Storage size calculation overflowed", "Invalid buffer size")


class FirstStepsCallback(TrainerCallback):
    """RunError after one of the first STEPS steps of a new run if a weight is not a finite number any more."""

    def __init__(self, step: MixupStep):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step <= STEPS:
            with raise_on_all_ranks():
                check_finite(self.step, state.global_step, args)


def check_finite(step: MixupStep, number: int, config: MixupConfig, losses: dict[str, Tensor] | None = None) -> None:
    """RunError unless the trained weights are finite after step `number`, and so are its losses."""
    trained = [p.to_local() if isinstance(p, DTensor) else p for p in step.parameters() if p.requires_grad]
    finite = not trained or bool(torch.stack([p.detach().isfinite().all() for p in trained]).all())
    total = float(sum(losses.values()).detach()) if losses else 0.0
    if finite and math.isfinite(total):
        return
    found = "a weight is not a finite number" if math.isfinite(total) else f"the loss is {total}"
    raise RunError(f"In step {number} {found}, so the run cannot train. {ways_out(config)}")


def ways_out(config: MixupConfig) -> str:
    """The settings that decide about a first step, for messages."""
    names = ("learning_rate", "method_args", "model_args", "optimizer_args", "class_weights", "std", "max_grad_norm")
    given = [f"{name} {getattr(config, name)}" for name in names if getattr(config, name) not in (None, {})]
    return f"Change one of: {', '.join(given)}."


def weight_sums(step: MixupStep) -> list[float]:
    """The sum of each trained parameter, which changes if the parameter does."""
    return [float(p.detach().cpu().double().sum()) for p in step.parameters() if p.requires_grad]


@contextmanager
def memory_as_run_error() -> Iterator[None]:
    """Raise OutOfMemory for an error of torch, PIL or Python inside that says that memory is exhausted."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (known or any(words in str(error) for words in MEMORY)):
            raise
        reason = f" ({' '.join(str(error).split())})" if str(error) else ""
        raise OutOfMemory(
            f"The run needs more memory than there is{reason}: give a smaller per_device_train_batch_size, "
            "per_device_eval_batch_size, image_size or model, or smaller sizes in method_args."
        ) from error
