"""timm's optimizers and averaged weights as the trainer uses them, and learning rates with floors of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn


def make_optimizer(model: nn.Module, args) -> torch.optim.Optimizer:
    """timm's optimizer `args.optimizer` with timm's parameter groups: no decay of norms, biases, positions."""
    model = getattr(model, "timm_model", model)
    if args.layer_decay is not None and not hasattr(model, "group_matcher"):
        raise ValueError(f"layer_decay needs a timm network, and {type(model).__name__} is none: leave it out.")
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=args.optimizer,
            lr=args.learning_rate,
            weight_decay=args.weight_decay,
            momentum=args.momentum,
            layer_decay=args.layer_decay,
            **args.optimizer_args,
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"optimizer {args.optimizer!r} with {args.optimizer_args}: {error}") from error
    for group in optimizer.param_groups:
        # timm's own schedulers apply it at each step; once does for one that multiplies
        group["lr"] *= group.pop("lr_scale", 1.0)
    return optimizer


def set_floors(scheduler: torch.optim.lr_scheduler.LambdaLR, parameters: set[int], floor: float) -> None:
    """Let the learning rate of the groups that hold `parameters` (ids) end at `floor` instead of the schedule's end."""
    for number, group in enumerate(scheduler.optimizer.param_groups):
        if group["params"] and id(group["params"][0]) in parameters:
            share = floor / group["initial_lr"]
            scheduler.lr_lambdas[number] = _Floored(scheduler.lr_lambdas[number], share)


class _Floored:
    """A factor on the learning rate that falls to `share` where the one it wraps falls to its own lowest value."""

    def __init__(self, factor, share: float):
        self.factor, self.share = factor, share
        self.lowest = getattr(factor, "keywords", {}).get("min_lr_rate", 0.0)

    def __call__(self, step: int) -> float:
        value = (self.factor(step) - self.lowest) / (1 - self.lowest)
        return max(value, 0.0) if step == 0 else self.share + (1 - self.share) * value


class Averaged:
    """An exponential moving average of `model`'s weights and buffers; `evaluated`: it is what counts in the end."""

    def __init__(self, model: nn.Module, decay: float, evaluated: bool):
        self.model, self.evaluated = model, evaluated
        self.ema = ModelEmaV3(model, decay=decay)

    def update(self) -> None:
        self.ema.update(self.model)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the model holds the weights that are evaluated."""
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
        own, other = self.model.state_dict(), self.ema.module.state_dict()
        for name, value in own.items():
            kept = value.clone()
            value.copy_(other[name])
            other[name].copy_(kept)

    def beside(self) -> tuple[str, dict[str, Tensor]]:
        """A name and the weights that a checkpoint keeps beside those it evaluates."""
        if self.evaluated:
            return "trained.safetensors", self.model.state_dict()
        return "ema.safetensors", self.ema.module.state_dict()

    def restore(self, beside: dict[str, Tensor]) -> None:
        """After `model` was loaded from a checkpoint: put it and `beside` where they belong."""
        if self.evaluated:
            self.take(self.model)
            self.model.load_state_dict(beside)
        else:
            self.ema.module.load_state_dict(beside)

    def take(self, model: nn.Module) -> None:
        """The average becomes `model`'s weights, where the average is what is evaluated."""
        if self.evaluated:
            self.ema.module.load_state_dict(model.state_dict())
