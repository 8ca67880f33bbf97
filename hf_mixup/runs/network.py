"""The network of a run and its image processor."""

import copy

import torch

from ..config import MixupConfig
from ..data import Data, crop_share
from ..errors import RunError
from ..models import build_model
from ..tasks import Task


def make_model(config: MixupConfig, data: Data, task: Task) -> tuple:
    """The network and its image processor, as (model, processor); RunError for `model_args` that it cannot run with."""
    if config.model_args.get("in_chans", 3) != 3:
        found = config.model_args["in_chans"]
        raise RunError(f"model_args.in_chans is {found!r}, but images are read as RGB, also gray ones: leave it out.")
    size = config.eval_image_size or config.image_size
    outputs = outputs_of(task, data)
    named = data.classes if outputs == data.num_classes else []
    model, processor = build_model(
        config.model,
        classes=named,
        outputs=None if named else outputs or 0,
        problem_type=task.card.problem_type,
        image_size=config.image_size,
        eval_size=config.eval_image_size,
        model_args=config.model_args,
        pretrained=config.pretrained,
        mean=config.mean,
        std=config.std,
        interpolation=config.interpolation,
        crop_pct=crop_share(size, config.eval_resize) if config.eval_resize else config.eval_crop_pct,
        trust_remote_code=config.trust_remote_code,
    )
    if config.model_args:
        _check_forward(model, config)
    return model, processor


@torch.no_grad()
def _check_forward(model: torch.nn.Module, config: MixupConfig) -> None:
    """RunError if the network, built with `model_args`, cannot compute; its buffers and the random state are kept."""
    images = torch.zeros(2, 3, config.image_size, config.image_size)
    try:
        with torch.random.fork_rng(devices=[]):
            copy.deepcopy(model).train()(images)  # dropout draws, and BatchNorm changes its buffers
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(
            f"{config.model!r} with model_args {config.model_args} cannot compute on images of {config.image_size} px: "
            f"{' '.join(str(error).split())}."
        ) from error


def outputs_of(task: Task, data: Data) -> int | None:
    """The number of outputs that the task needs for this data, None for pooled features; RunError for other values."""
    outputs = task.head(data.labels)
    if outputs is not None and (type(outputs) is not int or outputs < 1):
        raise RunError(
            f"`head` of task {task.name!r} returns {outputs!r}: return the number of outputs of the network, 1 or "
            "more, or None for its pooled features."
        )
    return outputs
