"""Models and image processors from a name: a timm architecture, a folder or a Hub repository."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from timm.layers import convert_sync_batchnorm
from transformers import PreTrainedModel, TimmWrapperConfig
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import ModelError
from ..hub.download import CONFIG, fetch, origin, read_json
from . import architectures as networks  # noqa: F401  registers them with timm
from .finetune import load_checkpoint
from .load_errors import as_model_error
from .processors import CHANNELS, check_fixed_size, pretrained_cfg, registered_cfg, timm_processor
from .safe_load import auto_class, other_sources
from .timm_weights import create_network

RANDOM_WEIGHTS_CFG = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}


def build_model(
    model: str,
    *,
    classes: Sequence[str] = (),
    outputs: int | None = None,
    problem_type: str | None = None,
    image_size: int,
    eval_size: int | None = None,
    model_args: dict | None = None,
    pretrained: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A model with one output per class, and its image processor.

    `outputs`: the number of outputs if there are no classes; 0 for a model without classifier, whose outputs are pooled
    features. `problem_type` is written to the model's configuration.
    `model` is a timm architecture (random weights, or timm's with `pretrained=True`), a folder, or a Hub id (these two
    always have weights). The processor makes images of `eval_size`, by default `image_size`. Preprocessing arguments
    that are None keep the checkpoint's values; random weights use "bilinear" and a crop_pct of 1. If the checkpoint has
    other classes, pass `reset_classifier` in `model_args`: true makes a new classifier, false keeps the checkpoint's
    classifier under the new class names.
    Weights are read from safetensors, or from timm's own files without running code in them. Python code of a
    repository runs only with `trust_remote_code`.
    Random weights depend on torch's global seed alone, like those of `timm.create_model`. Raises ModelError.
    """
    args = dict(model_args or {})
    reset = args.pop("reset_classifier", None)
    if reserved := sorted({"num_classes"} & args.keys()) + other_sources(args):
        raise ModelError(f"model_args: {reserved} are not arguments of the network. Use `classes` and `pretrained`.")
    preprocessing = {"mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct}
    preprocessing["size"] = eval_size or image_size
    if bool(classes) == (outputs is not None):
        raise ModelError(
            f"classes are {list(classes)[:5]} and outputs is {outputs}: give at least one class, or the number of "
            "outputs."
        )
    head = _labels(classes, outputs) | {"problem_type": problem_type}
    if _is_checkpoint(model):
        return load_checkpoint(model, head, image_size, args, reset, preprocessing, trust_remote_code)
    return _build_architecture(model, head, image_size, args, reset, pretrained, preprocessing)


def base_model(model: str, pretrained: bool) -> str | None:
    """The Hub repository that a network built from `model` is fine-tuned from, None if unknown."""
    if _is_checkpoint(model):
        return origin(model)
    cfg = timm.get_pretrained_cfg(model) if pretrained else None
    return cfg.hf_hub_id if cfg else None


def synchronise_batchnorm(model: torch.nn.Module, world_size: int) -> None:
    """Convert `model`'s BatchNorm to SyncBatchNorm if there are several processes; ValueError on CPUs."""
    if world_size == 1:
        return
    device = next(model.parameters()).device.type
    if device == "cpu":
        raise ValueError("sync_bn is true, but torch synchronises BatchNorm on GPUs only. Leave sync_bn out.")
    convert_sync_batchnorm(model)


def _labels(classes: Sequence[str], outputs: int | None) -> dict[str, dict]:
    """`id2label` and `label2id` of transformers' configs; without classes, transformers' default names."""
    if len(set(classes)) != len(classes):
        raise ModelError(f"The {len(classes)} class names must be distinct: {list(classes)[:10]}.")
    names = list(classes) if outputs is None else [f"LABEL_{number}" for number in range(outputs)]
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def problem_type_of(model: str) -> str | None:
    """The `problem_type` in the configuration of a folder or Hub repository; None for an architecture."""
    if not _is_checkpoint(model):
        return None
    value = read_json(fetch(model) / CONFIG, model).get("problem_type")
    return value if isinstance(value, str) else None


def _is_checkpoint(model: str) -> bool:
    """Whether `model` is a folder or a Hub id, not an architecture."""
    if Path(model).expanduser().is_dir() and not timm.is_model(model):
        return True
    return model.startswith((".", "~")) or "/" in model


def _build_architecture(name, head, image_size, args, reset, pretrained, preprocessing):
    """A timm network in transformers' wrapper. Its weights are those of `timm.create_model` with the same seed."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18"]
        raise ModelError(f"Unknown architecture {name!r}. Nearest: {', '.join(near)}. A Hub id contains a slash.")
    if pretrained and not timm.is_model_pretrained(name):
        raise ModelError(f"There are no published weights for {name!r}. Use pretrained=False, or a folder or Hub id.")
    cfg = registered_cfg(name)
    if cfg.get("fixed_input_size"):  # the network has an img_size argument
        args.setdefault("img_size", image_size)
        check_fixed_size(name, args, image_size, preprocessing)
    count = len(head["id2label"])
    with as_model_error(name, args, "pretrained=False starts from random weights"):
        network = create_network(name, pretrained, num_classes=count, **args)
        if reset and pretrained:
            network.reset_classifier(count)
    config = TimmWrapperConfig(architecture=name, num_labels=count, model_args=args, **head)
    cfg.update({} if pretrained else RANDOM_WEIGHTS_CFG)
    config.pretrained_cfg = pretrained_cfg(cfg, args.get("in_chans", CHANNELS), preprocessing)
    # the random weights of the wrapper are replaced below; drawing them must not change the global random state
    with torch.random.fork_rng(devices=[]):
        model = auto_class(config).from_config(config)
    model.timm_model = network
    return model, timm_processor(config)
