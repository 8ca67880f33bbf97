"""A saved model, from a folder or the Hub, prepared for a data set: its classes, image size and preprocessing."""

import re

import numpy as np
import torch
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from ..errors import ModelError
from .processors import CHANNELS, check_fixed_size, native_processor, pretrained_cfg, registered_cfg, timm_processor
from .safe_load import check_complete, load_weights, open_checkpoint

CLASSIFIER_STD = 0.02  # of a new classifier of a transformers model; timm has its own initialisation


def load_checkpoint(name, head, image_size, args, reset, preprocessing, code=False):
    """Model and image processor of the folder or Hub repository `name`; `code`: its Python code may run.

    `head` has `id2label` and `label2id`, empty for a network without classifier, and `problem_type`.

    `reset`: true makes a new classifier, false keeps the checkpoint's, None raises ModelError if the classes differ.
    """
    folder, config = open_checkpoint(name, code)
    _check_classes(name, config, list(head["label2id"]), reset)
    options = {"attn_implementation": args.pop("attn_implementation")} if "attn_implementation" in args else {}
    is_timm = isinstance(config, TimmWrapperConfig)
    if is_timm:
        _update_timm_config(name, config, image_size, args, preprocessing)
    elif unknown := [key for key in args if not hasattr(config, key)]:
        raise ModelError(f"model_args: {name!r} ({type(config).__name__}) has no {unknown[0]!r}. Leave it out.")
    else:
        config.update(args)
    config.num_labels = len(head["id2label"])
    config.id2label, config.label2id = head["id2label"], head["label2id"]
    if reset or config.problem_type is None or not head["id2label"]:  # else the trainer compares it with the task's
        config.problem_type = head["problem_type"]
    options |= {"dtype": torch.float32, "ignore_mismatched_sizes": bool(reset)}  # bfloat16 is too coarse for optimizers
    model, missing = load_weights(name, folder, config, args, code=code, **options)
    check_complete(name, missing - _classifier(model).keys() if reset else missing)
    if reset:
        _reset_classifier(model)
    return model, timm_processor(config) if is_timm else native_processor(name, folder, preprocessing, code)


def _check_classes(name: str, config, classes: list[str], reset: bool | None) -> None:
    """Raise ModelError unless the checkpoint's classes are those of the data, or the classifier is reset."""
    if reset or not classes:
        return
    way_out = "For a new classifier pass model_args {'reset_classifier': true}"
    if config.num_labels != len(classes):
        raise ModelError(f"{name!r} has {config.num_labels} classes, but the data has {len(classes)}. {way_out}.")
    saved = [config.id2label[i] for i in range(config.num_labels)]
    if saved == classes:
        return
    if sorted(saved) == sorted(classes):
        raise ModelError(
            f"{name!r} has the data's classes in another order: {saved[:5]}..., not {classes[:5]}... {way_out}."
        )
    unnamed = any(all(re.fullmatch(r"(LABEL_)?\d+", word) for word in words) for words in (saved, classes))
    if reset is None and not unnamed:
        raise ModelError(
            f"{name!r} has other classes than the data: {saved[:5]}..., not {classes[:5]}... {way_out}. If the classes "
            "are the same under other names, {'reset_classifier': false} keeps the classifier."
        )


def _update_timm_config(name: str, config: TimmWrapperConfig, image_size: int, args: dict, preprocessing: dict) -> None:
    """Write model_args and preprocessing to the loaded config; ModelError if a network of fixed size changes size."""
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
        check_fixed_size(name, config.model_args, image_size, preprocessing)
    config.pretrained_cfg = pretrained_cfg(cfg, channels, preprocessing)


def _classifier(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The classifier's parameters by name: those after the last pooling with one row per class."""
    prefix = f"{model.base_model_prefix}."
    named = {key: value for key, value in model.named_parameters() if value.shape[:1] == (model.config.num_labels,)}
    if not isinstance(model, TimmWrapperForImageClassification):
        return {key: value for key, value in named.items() if not key.startswith(prefix)}
    heads = model.timm_model.get_classifier()
    heads = heads if isinstance(heads, (tuple, list)) else [heads]  # distilled networks have two
    inside = {id(value) for head in heads for value in head.parameters()}
    return {key: value for key, value in named.items() if id(value) in inside}


def _reset_classifier(model: PreTrainedModel) -> None:
    """Replace the classifier's weights with random ones."""
    if isinstance(model, TimmWrapperForImageClassification):
        model.timm_model.reset_classifier(model.config.num_labels)
        return
    for value in _classifier(model).values():
        torch.nn.init.trunc_normal_(value, std=CLASSIFIER_STD) if value.ndim > 1 else torch.nn.init.zeros_(value)
