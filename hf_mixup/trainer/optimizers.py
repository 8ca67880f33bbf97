"""timm's optimizers as the trainer uses them, and parameter groups for the networks of method and task."""

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from .step import MixupStep


def make_optimizer(model: nn.Module, args) -> torch.optim.Optimizer:
    """timm's optimizer `args.optimizer` with timm's parameter groups: no weight decay of norms, biases, positions."""
    model = getattr(model, "timm_model", model)
    if args.layer_decay is not None and not hasattr(model, "group_matcher"):
        raise ValueError(f"layer_decay requires a timm network; {type(model).__name__} is not one: leave it out.")
    options = {"opt": args.optimizer, "lr": args.learning_rate, "weight_decay": args.weight_decay}
    options |= {"momentum": args.momentum, **args.optimizer_args}
    try:
        _try_step(options)
        optimizer = create_optimizer_v2(model, layer_decay=args.layer_decay, **options)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"optimizer {args.optimizer!r} with {args.optimizer_args}: {error}") from error
    for group in optimizer.param_groups:
        # timm's schedulers apply lr_scale at each step; torch's multiply the initial rate, so it is scaled here once
        group["lr"] *= group.pop("lr_scale", 1.0)
    return optimizer


def _try_step(options: dict) -> None:
    """One step of a new optimizer: some check their arguments only there."""
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    create_optimizer_v2([weight], **options).step()


def add_groups(optimizer: torch.optim.Optimizer, step: MixupStep, args, scheduler_given: bool = False) -> None:
    """Add the parameters of method and task to `optimizer`, generators with their own learning rate.

    A method with a `generator` may set `generator_lr`, `generator_min_lr` (its final value) and `generator_momentum`.
    Biases have no weight decay. ValueError if there are such parameters, and the scheduler was given in code.
    """
    lr = optimizer.defaults.get("lr", args.learning_rate)  # an optimizer given in code has its own rate
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    modules = [step.method, step.task]
    parts = [part for module in modules for part in module.modules()]
    owners = [(part.generator, part) for part in parts if hasattr(part, "generator_lr")]
    owners += [(module, None) for module in modules]
    for module, method in owners:
        for decays in (True, False):
            new = [p for p in module.parameters() if p.requires_grad and id(p) not in held and (p.dim() > 1) == decays]
            if new and scheduler_given:
                kind = "Method" if module is not step.task else "Task"
                name = (step.task if module is step.task else step.method).name
                raise ValueError(
                    f"{kind} {name!r} trains networks of its own, which the given scheduler does not include: pass "
                    "optimizers=(optimizer, None)."
                )
            if new:
                held |= {id(p) for p in new}
                group = {"params": new, "lr": lr, "weight_decay": args.weight_decay if decays else 0.0}
                optimizer.add_param_group(group | _generator_options(method, optimizer))


def _generator_options(method, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The options of a generator's parameter groups that `method` sets; empty for None."""
    if method is None:
        return {}
    momentum = method.generator_momentum
    if momentum is not None and "momentum" not in optimizer.defaults:
        name = type(optimizer).__name__
        raise ValueError(f"generator_momentum is {momentum}; {name} has no momentum: leave it out, or use sgd.")
    options = {"lr": method.generator_lr, "floor": method.generator_min_lr, "momentum": momentum}
    return {key: value for key, value in options.items() if value is not None}


def check_optimizer(optimizer: torch.optim.Optimizer, step: MixupStep, given: bool) -> None:
    """ValueError unless `optimizer` holds the parameters of `step` that have gradients.

    An optimizer that was `given` in code may hold only some of them. If it holds none, the network was sharded or
    replaced after the optimizer was created, and its parameters would not be updated.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = {name: p for name, p in step.named_parameters() if p.grad is not None}
    missing = [name for name, p in trained.items() if id(p) not in held]
    if missing and (not given or len(missing) == len(trained)):
        raise ValueError(
            f"The optimizer does not hold {len(missing)} of {len(trained)} parameters that have gradients, for example "
            f"{missing[0]!r}: they would not be updated. Create it from the model that the trainer holds when training "
            "starts, or leave it to the trainer (always with FSDP, which replaces all parameters)."
        )
