"""Learning-rate schedules: optimizer steps of an epoch, final rates of parameter groups, rates constant in an epoch."""

import math
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import has_length

CHECKED_STEPS, TOLERANCE = 1000, 1e-6


def steps_in_epoch(loader: DataLoader, accumulated: int) -> int:
    """Optimizer steps of an epoch of `loader`, each over `accumulated` batches."""
    if not has_length(loader):
        raise ValueError("warmup_epochs and lr_per_epoch require the length of an epoch: give num_examples.")
    return max(math.ceil(len(loader) / accumulated), 1)


def prepare_schedule(trainer) -> int:
    """Count the steps of an epoch for a schedule in epochs; return the steps after which the schedule begins."""
    args = trainer.args
    if args.max_steps <= 0:
        return trainer.start.position.offset
    if getattr(args, "counts_epochs", False):
        args.counted_steps = steps_in_epoch(trainer.get_train_dataloader(), args.gradient_accumulation_steps)
    return 0


def finish_schedule(
    scheduler: torch.optim.lr_scheduler.LRScheduler, args, num_training_steps: int, offset: int = 0
) -> None:
    """Apply the `floor` of each parameter group, and `lr_per_epoch`, to `scheduler`; it begins after `offset` steps."""
    set_floors(scheduler)
    if getattr(args, "lr_per_epoch", False):
        warmup = args.get_warmup_steps(num_training_steps)
        set_epochs(scheduler, warmup, args.steps_in_epoch(num_training_steps))
    if offset and isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        scheduler.lr_lambdas = [_shifted(factor, offset) for factor in scheduler.lr_lambdas]


def check_schedule(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> None:
    """ValueError unless the factors of the learning rate in a run of `steps` steps are from 0 to 1, and not all 0.

    Of a long run, the first, the last, and CHECKED_STEPS steps between them are checked.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        return
    numbers = {*range(0, steps, max(steps // CHECKED_STEPS, 1)), steps - 1}
    for factor in scheduler.lr_lambdas:
        factors = [factor(step) for step in sorted(numbers)]
        wrong = [value for value in factors if not -TOLERANCE <= value <= 1 + TOLERANCE]
        if wrong or max(factors) == 0:
            raise ValueError(
                f"The schedule multiplies the learning rate by {wrong[0] if wrong else '0 in all steps'}: choose "
                "another lr_scheduler_type, or other lr_scheduler_kwargs."
            )


def set_floors(scheduler: torch.optim.lr_scheduler.LambdaLR) -> None:
    """Scale the schedule of each group with a `floor`, so that its learning rate ends there."""
    for number, group in enumerate(scheduler.optimizer.param_groups):
        if group.get("floor") is not None:
            share = group["floor"] / group["initial_lr"]
            scheduler.lr_lambdas[number] = _floored(scheduler.lr_lambdas[number], share)


def _shifted(factor: Callable[[int], float], offset: int) -> Callable[[int], float]:
    return lambda step: factor(max(step - offset, 0))


def set_epochs(scheduler: torch.optim.lr_scheduler.LRScheduler, warmup: int, steps_in_epoch: float) -> None:
    """Keep learning rates constant within an epoch, at the value of its first step; warm-up steps are unchanged."""
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError(f"lr_per_epoch does not support {type(scheduler).__name__}: leave it out.")
    scheduler.lr_lambdas = [_by_epoch(factor, warmup, steps_in_epoch) for factor in scheduler.lr_lambdas]


def _by_epoch(factor: Callable[[int], float], warmup: int, steps_in_epoch: float) -> Callable[[int], float]:
    def at_epoch_start(step: int) -> float:
        first = round(int(step / steps_in_epoch + 1e-6) * steps_in_epoch)
        return factor(step if step < warmup else max(first, warmup))

    return at_epoch_start


def _floored(factor: Callable[[int], float], share: float) -> Callable[[int], float]:
    """`factor`, scaled so that its lowest value becomes `share` of the initial learning rate."""
    lowest = getattr(factor, "keywords", {}).get("min_lr_rate", 0.0)

    # a function, because LambdaLR saves callable objects, but not functions, in its state dict
    def scaled(step: int) -> float:
        value = factor(step)
        return value if value < lowest else share + (1 - share) * (value - lowest) / (1 - lowest)

    return scaled
