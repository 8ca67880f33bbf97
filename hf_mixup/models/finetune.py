"""A saved model, from a folder or the Hub, made ready for a data set; errors that say what to change."""

import re
from pathlib import Path

import numpy as np
import timm
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextImageProcessor,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import PILImageResampling

from ..errors import ModelError
from ..hub.download import fetch
from .safe_load import check_weights, explained, read_config

CHANNELS = 3  # unless model_args say in_chans
KEPT = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "classifier", "first_conv", "fixed_input_size")
CLASSIFIER_STD = 0.02  # of a new classifier on a native model; timm has its own


def load_checkpoint(name, labels, image_size, args, reset, data, code=False):
    """The model of the folder or repository `name`, its classifier too, unless reset; `code`: it may run its own."""
    folder = fetch(name, code=code)
    config = read_config(name, folder, code)
    _check_classes(name, config, list(labels["label2id"]), reset)
    options = {"attn_implementation": args.pop("attn_implementation")} if "attn_implementation" in args else {}
    wrapped = isinstance(config, TimmWrapperConfig)
    if wrapped:
        _set_timm_config(name, config, image_size, args, data)
    elif unknown := [key for key in args if not hasattr(config, key)]:
        raise ModelError(f"model_args: {name!r} ({type(config).__name__}) has no {unknown[0]!r}. Leave it out.")
    else:
        config.update(args)
    config.num_labels = len(labels["id2label"])
    config.id2label, config.label2id = labels["id2label"], labels["label2id"]
    with explained(name, args):
        model, report = AutoModelForImageClassification.from_pretrained(  # float32: optimizers need more than bfloat16
            folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=bool(reset),
            output_loading_info=True,
            trust_remote_code=code,
            use_safetensors=True,
            **options,
        )
    check_weights(name, report, _classifier(model) if reset else ())
    if reset:
        _new_classifier(model)
    return model, timm_processor(config) if wrapped else _native_processor(name, folder, data, code)


def _check_classes(name: str, config, classes: list[str], reset: bool | None) -> None:
    """Raise unless the checkpoint's classifier fits the data's classes, or is to be new."""
    if reset:
        return
    known = "For a new classifier pass model_args {'reset_classifier': true}"
    if config.num_labels != len(classes):
        raise ModelError(f"{name!r} has {config.num_labels} classes and the data {len(classes)}. {known}.")
    saved = [config.id2label[i] for i in range(config.num_labels)]
    if saved == classes:
        return
    if sorted(saved) == sorted(classes):
        raise ModelError(
            f"{name!r} has the data's classes in another order: {saved[:5]}..., not {classes[:5]}... {known}."
        )
    unnamed = any(all(re.fullmatch(r"(LABEL_)?\d+", word) for word in words) for words in (saved, classes))
    if reset is None and not unnamed:
        raise ModelError(
            f"{name!r} has other classes than the data: {saved[:5]}..., not {classes[:5]}... {known}; if they mean the "
            "same, {'reset_classifier': false} keeps the one there is."
        )


def _set_timm_config(name: str, config: TimmWrapperConfig, image_size: int, args: dict, data: dict) -> None:
    """Give the loaded config our model_args and preprocessing; a network of fixed size keeps its size."""
    cfg = {**registered_cfg(config.architecture), **(getattr(config, "pretrained_cfg", None) or {})}
    config.model_args = {**config.model_args, **args}
    size = int(np.max(config.model_args.get("img_size", cfg.get("input_size", image_size)[-2:])))
    if cfg.get("fixed_input_size") and size != image_size and not config.model_args.get("dynamic_img_size"):
        raise ModelError(
            f"{name!r} takes images of {size} px, and image_size is {image_size}. Use image_size {size}, or the "
            f"architecture {config.architecture!r} with pretrained=True, whose weights are resized."
        )
    channels = config.model_args.get("in_chans", cfg.get("input_size", [CHANNELS])[0])
    if cfg.get("fixed_input_size"):
        check_one_size(name, config.model_args, image_size, data)
    config.pretrained_cfg = pretrained_cfg(cfg, channels, data)


def check_one_size(name: str, args: dict, image_size: int, data: dict) -> None:
    """Raise if a network of fixed size is to be evaluated at another."""
    if data["size"] != image_size and not args.get("dynamic_img_size"):
        raise ModelError(
            f"{name!r} takes images of one size, and they are {image_size} px in training and {data['size']} px in "
            "evaluation. Give one size, or model_args {'dynamic_img_size': true} where the network knows it."
        )


def _classifier(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters behind the last pooling that have one row for each class, by name."""
    prefix = f"{model.base_model_prefix}."
    named = {key: value for key, value in model.named_parameters() if value.shape[:1] == (model.config.num_labels,)}
    if not isinstance(model, TimmWrapperForImageClassification):
        return {key: value for key, value in named.items() if not key.startswith(prefix)}
    heads = model.timm_model.get_classifier()
    heads = heads if isinstance(heads, (tuple, list)) else [heads]  # distilled networks have two
    inside = {id(value) for head in heads for value in head.parameters()}
    return {key: value for key, value in named.items() if id(value) in inside}


def _new_classifier(model: PreTrainedModel) -> None:
    """Draw the classifier anew."""
    if isinstance(model, TimmWrapperForImageClassification):
        model.timm_model.reset_classifier(model.config.num_labels)
        return
    for value in _classifier(model).values():
        torch.nn.init.trunc_normal_(value, std=CLASSIFIER_STD) if value.ndim > 1 else torch.nn.init.zeros_(value)


def _native_processor(name: str, folder: Path, data: dict, code: bool) -> BaseImageProcessor:
    """The checkpoint's own processor; a new one if it has none."""
    try:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=code)
    except (OSError, ValueError):
        return _new_processor(name, data)
    sizes = getattr(processor, "crop_size", None) or getattr(processor, "size", None)
    if not sizes or getattr(processor, "image_mean", None) is None:  # of its own code, and says nothing we could follow
        return _new_processor(name, data)
    if data["size"] not in dict(sizes).values():
        raise ModelError(
            f"The image processor of {name!r} makes images of {dict(sizes)}, and image_size is {data['size']}."
        )
    return processor


def _new_processor(name: str, data: dict) -> BaseImageProcessor:
    """A processor for images of `image_size`, for a native checkpoint that has none."""
    if data["mean"] is None or data["std"] is None:
        raise ModelError(f"{name!r} has no image processor. Give mean and std.")
    resample = PILImageResampling[(data["interpolation"] or "bilinear").upper()]
    shared = {"image_mean": list(data["mean"]), "image_std": list(data["std"]), "resample": resample}
    if data["crop_pct"] in (None, 1):
        return ViTImageProcessor(size={"height": data["size"], "width": data["size"]}, **shared)
    return ConvNextImageProcessor(size={"shortest_edge": data["size"]}, crop_pct=data["crop_pct"], **shared)


def registered_cfg(architecture: str) -> dict:
    """What timm knows of an architecture: its input size, normalisation and layer names."""
    with explained(architecture, {}, "see timm.list_models(pretrained=True)"):
        cfg = timm.get_pretrained_cfg(architecture)
    return cfg.to_dict() if cfg else {}


def pretrained_cfg(cfg: dict, channels: int, data: dict) -> dict:
    """What timm and TimmWrapperImageProcessor read: `cfg` with the given preprocessing over it."""
    kept = {key: cfg[key] for key in KEPT if key in cfg}
    given = {key: value for key, value in data.items() if value is not None and key != "size"}
    merged = {**kept, **given, "input_size": (channels, data["size"], data["size"])}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in merged.items()}


def timm_processor(config: TimmWrapperConfig) -> TimmWrapperImageProcessor:
    """The processor that `AutoImageProcessor` would load from the saved model."""
    return TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)
