"""timm's optimizers and averaged weights as the trainer uses them, and learning rates with floors of their own."""

from collections.abc import Callable, Iterator
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


def add_groups(optimizer: torch.optim.Optimizer, step: nn.Module, args) -> None:
    """Let `optimizer` train what method and task have of their own, generators at their own learning rate.

    A method with a `generator` may name its `generator_lr` and, for its end, `generator_min_lr`. Biases do not decay.
    """
    usual = optimizer.defaults.get("lr", args.learning_rate)  # a given optimizer has its own
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parts = [part for module in (step.method, step.task) if isinstance(module, nn.Module) for part in module.modules()]
    own = [
        (part.generator, part.generator_lr, part.generator_min_lr) for part in parts if hasattr(part, "generator_lr")
    ]
    own += [(module, None, None) for module in (step.method, step.task) if isinstance(module, nn.Module)]
    for module, rate, floor in own:
        for decays in (True, False):
            new = [p for p in module.parameters() if p.requires_grad and id(p) not in known and (p.dim() > 1) == decays]
            if new:
                known |= {id(p) for p in new}
                decay = args.weight_decay if decays else 0.0
                group = {"params": new, "lr": rate or usual, "weight_decay": decay, "floor": floor}
                optimizer.add_param_group(group)


def set_floors(scheduler: torch.optim.lr_scheduler.LambdaLR) -> None:
    """Let the learning rate of the groups that have a `floor` end there instead of at the schedule's end."""
    for number, group in enumerate(scheduler.optimizer.param_groups):
        if group.get("floor") is not None:
            share = group["floor"] / group["initial_lr"]
            scheduler.lr_lambdas[number] = _floored(scheduler.lr_lambdas[number], share)


def _floored(factor: Callable[[int], float], share: float) -> Callable[[int], float]:
    """A factor on the learning rate that falls to `share` where the given one falls to its own lowest value."""
    lowest = getattr(factor, "keywords", {}).get("min_lr_rate", 0.0)

    # a function and no object, since the scheduler would write an object into its checkpoint
    def ended_at_share(step: int) -> float:
        value = factor(step)
        return value if value < lowest else share + (1 - share) * (value - lowest) / (1 - lowest)

    return ended_at_share


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
