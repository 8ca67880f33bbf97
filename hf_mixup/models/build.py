"""Models and image processors from a name, and one published format that transformers and timm both load."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.layers import convert_sync_batchnorm
from transformers import (
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import ModelError
from ..hub.download import origin
from . import architectures as networks  # noqa: F401  registers them with timm
from .finetune import CHANNELS, check_one_size, load_checkpoint, pretrained_cfg, registered_cfg, timm_processor
from .safe_load import explained

FRESH = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}  # small images are used whole
OURS = {"num_classes", "pretrained", "pretrained_cfg", "checkpoint_path", "features_only"}  # never in model_args


def build_model(
    model: str,
    *,
    classes: list[str],
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
    """A model with one output for each class, and the image processor that belongs to it.

    `model` is a timm architecture (random, or timm's weights with `pretrained=True`), a folder, or a Hub id (both are
    always pretrained). The processor makes images of `eval_size`, by default the network's `image_size`.
    Preprocessing that is None is the weights' own; random ones take "bilinear", 1. Other classes than the checkpoint's
    need `reset_classifier: true` in `model_args`, which makes the classifier new; false keeps it under other names.
    Weights are read from safetensors only; timm's own, where it has none, without running what is in them. With
    `trust_remote_code` a repository's Python code is run.
    Random weights depend on torch's global seed alone, as `timm.create_model`'s do. Raises ModelError.
    """
    args = dict(model_args or {})
    reset = args.pop("reset_classifier", None)
    if forbidden := sorted(OURS & args.keys()):
        raise ModelError(f"model_args: {forbidden} are not arguments of the network. Use `classes` and `pretrained`.")
    data = {"mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct}
    data["size"] = eval_size or image_size
    if _is_checkpoint(model):
        return load_checkpoint(model, _labels(classes), image_size, args, reset, data, trust_remote_code)
    return _from_architecture(model, _labels(classes), image_size, args, reset, pretrained, data)


def _labels(classes: list[str]) -> dict[str, dict]:
    """Both directions between class names and numbers, as transformers' configs hold them."""
    if not classes or len(set(classes)) != len(classes):
        raise ModelError(f"The {len(classes)} class names must be distinct, and at least one: {list(classes)[:10]}.")
    return {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}


def save_published(model: PreTrainedModel, processor: BaseImageProcessor, folder: str | Path) -> None:
    """Write model and processor so that transformers' Auto classes, `pipeline` and timm's `local-dir:` all load them.

    timm networks are written as timm does (unprefixed model.safetensors and its config.json), native ones by their own
    `save_pretrained`. Loading one of our registered networks needs `import hf_mixup` first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, TimmWrapperForImageClassification):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return
    # save_file refuses tensors that share memory, which copies do not.
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.timm_model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_timm_config(model, processor), indent=2) + "\n")


def synchronise(model: torch.nn.Module, world: int) -> None:
    """Let `model`'s BatchNorm see the batches of all `world` processes from now on; ValueError on CPUs."""
    if world == 1:
        return
    device = next(model.parameters()).device.type
    if device == "cpu":
        raise ValueError("sync_bn is on, and torch synchronises BatchNorm on GPUs only: leave it out.")
    convert_sync_batchnorm(model)


def _timm_config(model: TimmWrapperForImageClassification, processor: TimmWrapperImageProcessor) -> dict:
    """The config.json that both libraries read: no num_classes in model_args for transformers, no null for timm."""
    config, network = model.config, model.timm_model
    chosen = processor.data_config
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    return {
        "architecture": config.architecture,
        "num_classes": config.num_labels,
        "num_features": network.num_features,
        "label_names": [config.id2label[i] for i in range(config.num_labels)],
        "model_args": dict(config.model_args or {}),
        "pretrained_cfg": {
            **(getattr(config, "pretrained_cfg", None) or {}),
            **{key: chosen[key] for key in keys},
            "num_classes": config.num_labels,
        },
    }


def base_model(model: str, pretrained: bool) -> str | None:
    """The repository on the Hub that a network built from `model` was fine-tuned from, None where none is known."""
    if _is_checkpoint(model):
        return origin(model)
    cfg = timm.get_pretrained_cfg(model) if pretrained else None
    return cfg.hf_hub_id if cfg else None


def _is_checkpoint(model: str) -> bool:
    """Whether `model` is a folder or a Hub id, not an architecture."""
    if Path(model).expanduser().is_dir() and not timm.is_model(model):
        return True
    return model.startswith((".", "~")) or "/" in model


def _from_architecture(name, labels, image_size, args, reset, pretrained, data):
    """A timm network in transformers' wrapper, with timm's own weights: the wrapper alone would draw others."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3) or ["resnet18"]
        raise ModelError(f"Unknown architecture {name!r}. Nearest: {', '.join(near)}. A Hub id has a slash in it.")
    if pretrained and not timm.is_model_pretrained(name):
        raise ModelError(f"There are no published weights for {name!r}. Use pretrained=False, or a folder or Hub id.")
    cfg = registered_cfg(name)
    if cfg.get("fixed_input_size"):  # timm's word for: the network has an img_size argument and depends on it
        args.setdefault("img_size", image_size)
        check_one_size(name, args, image_size, data)
    count = len(labels["id2label"])
    with explained(name, args, "pretrained=False starts from random weights"):
        network = timm.create_model(name, pretrained=pretrained, num_classes=count, **args)
        if reset and pretrained:
            network.reset_classifier(count)
    config = TimmWrapperConfig(architecture=name, num_labels=count, model_args=args, **labels)
    cfg.update({} if pretrained else FRESH)
    config.pretrained_cfg = pretrained_cfg(cfg, args.get("in_chans", CHANNELS), data)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are dropped, so they must not move the seed
        model = AutoModelForImageClassification.from_config(config)
    model.timm_model = network
    return model, timm_processor(config)
