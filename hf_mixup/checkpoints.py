"""A saved model, from a folder or the Hub, made ready for a data set; errors that say what to change."""

import contextlib
import re
from pathlib import Path

import numpy as np
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from transformers import (
    AutoConfig,
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

CHANNELS = 3  # unless model_args say in_chans
KEPT = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "classifier", "first_conv", "fixed_input_size")
CLASSIFIER_STD = 0.02  # of a new classifier on a native model; timm has its own


class ModelError(ValueError):
    """A model that cannot be built as asked; the message names the value and the way out."""


def load_checkpoint(name, labels, image_size, args, reset, data):
    """The model saved under `name`, its classifier too, unless reset."""
    with explained(name, args, "a timm architecture has no slash in it"):
        config = AutoConfig.from_pretrained(name)
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
    with explained(name, args, "a timm architecture has no slash in it"):
        model, report = AutoModelForImageClassification.from_pretrained(  # float32: optimizers need more than bfloat16
            name, config=config, dtype=torch.float32, ignore_mismatched_sizes=reset, output_loading_info=True, **options
        )
    _check_weights(name, model, report, reset)
    if reset:
        _new_classifier(model)
    return model, timm_processor(config) if wrapped else _native_processor(name, data)


def _check_classes(name: str, config, classes: list[str], reset: bool) -> None:
    """Raise unless the checkpoint's classifier fits the data's classes, or is to be new."""
    if reset:
        return
    if config.num_labels != len(classes):
        raise ModelError(
            f"{name!r} has {config.num_labels} classes and the data {len(classes)}. "
            "For a new classifier pass model_args {'reset_classifier': true}."
        )
    saved = [config.id2label[i] for i in range(config.num_labels)]
    if saved != classes and sorted(saved) == sorted(classes):
        raise ModelError(f"{name!r} has the data's classes in another order: {saved[:5]}..., not {classes[:5]}...")


def _set_timm_config(name: str, config: TimmWrapperConfig, image_size: int, args: dict, data: dict) -> None:
    """Give the loaded config our model_args and preprocessing; a network of fixed size keeps its size."""
    cfg = {**registered_cfg(config.architecture), **(getattr(config, "pretrained_cfg", None) or {})}
    saved = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}  # timm writes it
    config.model_args = {**saved, **args}
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


def _check_weights(name: str, model: PreTrainedModel, report: dict, reset: bool) -> None:
    """Raise if anything but a classifier that is to be new was left random."""
    left_out = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    random = sorted(left_out - (_classifier(model).keys() if reset else set()))
    if random:
        raise ModelError(
            f"{name!r} lacks weights that fit: {random[:3]} ({len(random)} in all). If that is the classifier, pass "
            "model_args {'reset_classifier': true}; else the checkpoint is of another network or size."
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


def _native_processor(name: str, data: dict) -> BaseImageProcessor:
    """The checkpoint's own processor; a new one if it has none."""
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return _new_processor(name, data)
    sizes = getattr(processor, "crop_size", None) or processor.size
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


@contextlib.contextmanager
def explained(name: str, args: dict, way_out: str):
    """Turn what timm and transformers raise into errors that say what to change."""
    try:
        yield
    except (OSError, HfHubHTTPError) as error:
        if Path(name).is_dir():
            raise ModelError(f"The folder {name!r} cannot be loaded: {error}") from error
        raise ModelError(
            f"Cannot get {name!r}: it is not in the local cache and the Hub did not give it ({type(error).__name__}). "
            f"Check the name and the connection, or run `hf download` where there is one; {way_out}."
        ) from error
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        if unknown := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
            network, key = unknown.groups()
            raise ModelError(f"model_args: {name!r} ({network}) has no argument {key!r}. Leave it out.") from error
        raise ModelError(f"{name!r} cannot be built with model_args {args}: {error}") from error


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
