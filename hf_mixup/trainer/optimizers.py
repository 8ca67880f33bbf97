"""timm's optimizers and averaged weights as the trainer uses them, and learning rates with floors of their own."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import has_length


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

    A method with a `generator` may name its `generator_lr`, `generator_min_lr` for its end, and `generator_momentum`.
    Biases do not decay.
    """
    usual = optimizer.defaults.get("lr", args.learning_rate)  # a given optimizer has its own
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parts = [part for module in (step.method, step.task) if isinstance(module, nn.Module) for part in module.modules()]
    own = [(part.generator, part) for part in parts if hasattr(part, "generator_lr")]
    own += [(module, None) for module in (step.method, step.task) if isinstance(module, nn.Module)]
    for module, method in own:
        for decays in (True, False):
            new = [p for p in module.parameters() if p.requires_grad and id(p) not in known and (p.dim() > 1) == decays]
            if new:
                known |= {id(p) for p in new}
                group = {"params": new, "lr": usual, "weight_decay": args.weight_decay if decays else 0.0}
                optimizer.add_param_group(group | _generator_options(method, optimizer))


def _generator_options(method, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """What `method` says of its generator's parameter groups; nothing for None."""
    if method is None:
        return {}
    momentum = method.generator_momentum
    if momentum is not None and "momentum" not in optimizer.defaults:
        name = type(optimizer).__name__
        raise ValueError(f"generator_momentum is {momentum}, and {name} has no momentum: leave it out, or take sgd.")
    options = {"lr": method.generator_lr, "floor": method.generator_min_lr, "momentum": momentum}
    return {key: value for key, value in options.items() if value is not None}


def steps_in_epoch(loader: DataLoader, accumulated: int) -> int:
    """Optimizer steps of an epoch of `loader`, each of so many of its batches."""
    if not has_length(loader):
        raise ValueError("warmup_epochs and lr_per_epoch need to know how long an epoch is: give num_examples.")
    return max(math.ceil(len(loader) / accumulated), 1)


def finish_schedule(scheduler: torch.optim.lr_scheduler.LRScheduler, args, num_training_steps: int) -> None:
    """Give `scheduler` the floors of single groups, and its epochs where `args` asks for them."""
    set_floors(scheduler)
    if getattr(args, "lr_per_epoch", False):
        warmup = args.get_warmup_steps(num_training_steps)
        set_epochs(scheduler, warmup, args.steps_in_epoch(num_training_steps))


def set_floors(scheduler: torch.optim.lr_scheduler.LambdaLR) -> None:
    """Let the learning rate of the groups that have a `floor` end there instead of at the schedule's end."""
    for number, group in enumerate(scheduler.optimizer.param_groups):
        if group.get("floor") is not None:
            share = group["floor"] / group["initial_lr"]
            scheduler.lr_lambdas[number] = _floored(scheduler.lr_lambdas[number], share)


def set_epochs(scheduler: torch.optim.lr_scheduler.LRScheduler, warmup: int, steps_in_epoch: float) -> None:
    """Let learning rates stay within an epoch what they are at its beginning, but for the steps of `warmup`."""
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError(f"lr_per_epoch is not for {type(scheduler).__name__}: leave it out.")
    scheduler.lr_lambdas = [_by_epoch(factor, warmup, steps_in_epoch) for factor in scheduler.lr_lambdas]


def _by_epoch(factor: Callable[[int], float], warmup: int, steps_in_epoch: float) -> Callable[[int], float]:
    def at_beginning(step: int) -> float:
        beginning = round(int(step / steps_in_epoch + 1e-6) * steps_in_epoch)
        return factor(step if step < warmup else max(beginning, warmup))

    return at_beginning


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
