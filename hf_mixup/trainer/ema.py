"""Exponential moving average (EMA) of the network's weights, by timm's ModelEmaV3."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from transformers import TrainerCallback


class EMA:
    """The moving average of `model`'s weights and buffers; `evaluated`: evaluation and publishing use the average."""

    FILES = ("trained.safetensors", "ema.safetensors")

    def __init__(self, model: nn.Module, decay: float, evaluated: bool):
        self.model, self.evaluated = model, evaluated
        self.average = ModelEmaV3(model, decay=decay)

    def update(self) -> None:
        """Move the average towards the model's present weights."""
        self.average.update(self.model)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights if `evaluated`, else its own weights."""
        if not self.evaluated:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        weights, average = self.model.state_dict(), self.average.module.state_dict()
        for name, value in weights.items():
            previous = value.clone()
            value.copy_(average[name])
            average[name].copy_(previous)

    def other_weights(self) -> tuple[str, dict[str, Tensor]]:
        """File name and state dict of the weights that are not in model.safetensors."""
        if self.evaluated:
            return self.FILES[0], self.model.state_dict()
        return self.FILES[1], self.average.module.state_dict()

    def restore(self, other_weights: dict[str, Tensor]) -> None:
        """Load `other_weights` of a checkpoint, after its model.safetensors was loaded into `model`."""
        if self.evaluated:
            self.reset(self.model)
            self.model.load_state_dict(other_weights)
        else:
            self.average.module.load_state_dict(other_weights)

    def reset(self, model: nn.Module) -> None:
        """Set the average to `model`'s weights if `evaluated`."""
        if self.evaluated:
            self.average.module.load_state_dict(model.state_dict())


class EMACallback(TrainerCallback):
    """Updates the trainer's EMA, if it has one, after each optimizer step."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_optimizer_step(self, args, state, control, **_):
        if self.trainer.ema is not None:
            self.trainer.ema.update()
