"""Image processors of timm and transformers networks: the checkpoint's preprocessing, overridden by arguments.

`preprocessing` has the keys `size`, `mean`, `std`, `interpolation` and `crop_pct`; None keeps the checkpoint's value.
"""

from pathlib import Path

import timm
from transformers import (
    AutoImageProcessor,
    ConvNextImageProcessor,
    TimmWrapperConfig,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import PILImageResampling

from ..errors import ModelError
from .load_errors import as_model_error

CHANNELS = 3  # unless model_args has in_chans
CFG_KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "classifier", "first_conv", "fixed_input_size")


def registered_cfg(architecture: str) -> dict:
    """timm's default configuration of an architecture: input size, normalisation, names of first and last layer."""
    with as_model_error(architecture, {}, "see timm.list_models(pretrained=True)"):
        cfg = timm.get_pretrained_cfg(architecture)
    return cfg.to_dict() if cfg else {}


def pretrained_cfg(cfg: dict, channels: int, preprocessing: dict) -> dict:
    """The `pretrained_cfg` that timm and TimmWrapperImageProcessor read: `cfg` updated with `preprocessing`."""
    kept = {key: cfg[key] for key in CFG_KEYS if key in cfg}
    changes = {key: value for key, value in preprocessing.items() if value is not None and key != "size"}
    merged = {**kept, **changes, "input_size": (channels, preprocessing["size"], preprocessing["size"])}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in merged.items()}


def check_fixed_size(name: str, args: dict, image_size: int, preprocessing: dict) -> None:
    """Raise ModelError if a network of fixed image size is trained and evaluated at two sizes."""
    if preprocessing["size"] != image_size and not args.get("dynamic_img_size"):
        raise ModelError(
            f"{name!r} takes images of one size, but they are {image_size} px in training and "
            f"{preprocessing['size']} px in evaluation. Give one size, or model_args {{'dynamic_img_size': true}} if "
            "the network has this argument."
        )


def timm_processor(config: TimmWrapperConfig) -> TimmWrapperImageProcessor:
    """The image processor that `AutoImageProcessor` loads from the saved model."""
    return TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)


def native_processor(name: str, folder: Path, preprocessing: dict, code: bool) -> BaseImageProcessor:
    """The image processor saved in `folder`, or a new one if there is none. `code`: Python code of `folder` may run."""
    try:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=code)
    except (OSError, ValueError):
        return _new_processor(name, preprocessing)
    sizes = getattr(processor, "crop_size", None) or getattr(processor, "size", None)
    # a class that the repository defines may have other attributes
    if not sizes or getattr(processor, "image_mean", None) is None:
        return _new_processor(name, preprocessing)
    if preprocessing["size"] not in dict(sizes).values():
        raise ModelError(
            f"The image processor of {name!r} makes images of size {dict(sizes)}, but image_size is "
            f"{preprocessing['size']}. Set image_size to one of its sizes."
        )
    return processor


def _new_processor(name: str, preprocessing: dict) -> BaseImageProcessor:
    """An image processor for a transformers checkpoint that has none."""
    if preprocessing["mean"] is None or preprocessing["std"] is None:
        raise ModelError(f"{name!r} has no image processor. Give mean and std.")
    size, crop_pct = preprocessing["size"], preprocessing["crop_pct"]
    resample = PILImageResampling[(preprocessing["interpolation"] or "bilinear").upper()]
    shared = {"image_mean": list(preprocessing["mean"]), "image_std": list(preprocessing["std"]), "resample": resample}
    if crop_pct in (None, 1):
        return ViTImageProcessor(size={"height": size, "width": size}, **shared)
    return ConvNextImageProcessor(size={"shortest_edge": size}, crop_pct=crop_pct, **shared)
