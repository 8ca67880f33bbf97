"""Refused fields and values, and combinations of fields that exclude each other."""

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from datasets.utils.py_utils import convert_file_size_to_int
from transformers import TrainingArguments

from ..errors import ConfigError, token_in_use
from .parser import ARGUMENTS

REFUSED = {
    "hub_token": "run records would contain it. Set the environment variable HF_TOKEN, or run `hf auth login`",
    "remove_unused_columns": "it would drop the image column. Leave it out",
    "dataloader_drop_last": "evaluation would lose its last rows. Training drops its last incomplete batch in any case",
    "label_smoothing_factor": "it does not apply to soft labels. Use label_smoothing",
    "use_liger_kernel": "it is for language models. Leave it out",
    "neftune_noise_alpha": "it adds noise to embeddings of text. Leave it out",
    "resume_from_checkpoint": "a run continues from the last checkpoint in its output_dir. Use --resume",
    "warmup_ratio": "newer transformers do not have it. Use warmup_steps; a value below 1 is a share of all steps",
}
SECRET = re.compile(r"\bhf_[A-Za-z0-9]{20,}|://[^/\s]*:[^/\s]*@")  # a user's token, a password in a URL
SECRETS = {"token", "hub_token", "use_auth_token", "api_key"}
REFUSED_FALSE = {"eval_do_concat_batches": "metrics require the outputs of all batches. Leave it out"}
# arguments of timm's optimizers that are fields of a recipe
OF_OPTIMIZER = {
    "opt": "optimizer",
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "layer_decay": "layer_decay",
}
MIN_LR_SCHEDULES = ("cosine_with_min_lr", "cosine_warmup_with_min_lr")


def check_combinations(config: TrainingArguments) -> None:
    """Raise ConfigError for refused fields, secrets, and fields that exclude each other."""
    for name, reason in REFUSED.items():
        if value := getattr(config, name, None):
            shown = "" if name == "hub_token" else f"={value}"
            raise ConfigError(f"{name}{shown} is refused: {reason}.")
    for name, reason in REFUSED_FALSE.items():
        if not getattr(config, name, True):
            raise ConfigError(f"{name}={getattr(config, name)} is refused: {reason}.")
    for name in ARGUMENTS:
        if secret := SECRETS & getattr(config, name).keys():
            raise ConfigError(f"{name}.{secret.pop()} is refused: {REFUSED['hub_token']}.")
    for name in ("method", "task"):
        if "name" in getattr(config, f"{name}_args"):
            raise ConfigError(f"{name}_args.name is {getattr(config, f'{name}_args')['name']!r}: name it in `{name}`.")
    _check_secrets({item.name: getattr(config, item.name) for item in fields(config)})
    if config.eval_weights == "ema" and config.ema_decay is None:
        raise ConfigError("eval_weights is 'ema', but ema_decay is not set. Set ema_decay, for example to 0.9999.")
    for name in ("shuffle_memory", "stream_cache_size"):
        size_in_bytes(name, getattr(config, name))
    _check_images(config)
    _check_optimizer(config)
    _check_schedule(config)


def size_in_bytes(name: str, value: str | int) -> int:
    """The bytes of a size such as 1GiB or 500MB; ConfigError for the field `name` if it is none."""
    try:
        size = convert_file_size_to_int(value)
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(f"{name} is {value!r}, expected a size such as 1GiB or 500MB, or a number of bytes.")
    return size


def _check_secrets(values: dict) -> None:
    """Raise ConfigError, without the value, for a value that contains a secret, because run records contain values."""
    token = token_in_use()
    for name, value in values.items():
        texts = [str(part) for part in _leaves(value)]
        if any(SECRET.search(text) or (token and token in text) for text in texts):
            raise ConfigError(f"{name} is refused, because it contains a token or a password: {REFUSED['hub_token']}.")


def _leaves(value: Any) -> Iterator[Any]:
    """The keys and values inside nested mappings and lists."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _check_images(config: TrainingArguments) -> None:
    scale = config.random_resized_crop
    if scale is not None and (len(scale) != 2 or scale[0] > scale[1]):
        raise ConfigError(
            f"random_resized_crop is {scale}, expected two numbers, smallest and largest share: [0.08, 1]."
        )
    for name in ("mean", "std"):
        if getattr(config, name) is not None and len(getattr(config, name)) != 3:
            raise ConfigError(f"{name} is {getattr(config, name)}, expected three numbers, for R, G and B.")

    size = config.eval_image_size or config.image_size
    for name, crop, applies in (("resize", config.image_size, scale is None), ("eval_resize", size, True)):
        value = getattr(config, name)
        if value is not None and value < crop and applies:
            raise ConfigError(f"{name} is {value}, smaller than the crop of {crop} px. Give {crop} or more.")
    for first, second in (("eval_resize", "eval_crop_pct"), ("resize", "crop_padding")):
        if getattr(config, first) and getattr(config, second):
            raise ConfigError(f"{first} and {second} both define the crop of images. Leave one of them out.")
    if config.randaugment_ops is not None and not (config.randaugment and config.randaugment_ops):
        raise ConfigError(
            f"randaugment_ops is {config.randaugment_ops} and randaugment is {config.randaugment}. Name one operation "
            "or more, and set randaugment, for example to rand-m9-mstd0.5."
        )
    for name, value in (("aug_repeats", config.aug_repeats > 1), ("class_balanced", config.class_balanced)):
        if value and config.streaming:
            raise ConfigError(
                f"{name} is {getattr(config, name)}, but streaming does not support it. Leave out one of the two."
            )


def _check_optimizer(config: TrainingArguments) -> None:
    if config.optimizer is None and (config.optimizer_args or config.layer_decay is not None):
        name = "optimizer_args" if config.optimizer_args else "layer_decay"
        raise ConfigError(
            f"{name} is {getattr(config, name)}, but no `optimizer` is named that it is for: set optimizer, for "
            "example to adamw, or use optim_args."
        )
    for name in OF_OPTIMIZER.keys() & config.optimizer_args.keys():
        raise ConfigError(
            f"optimizer_args.{name} is {config.optimizer_args[name]!r}: use the field {OF_OPTIMIZER[name]} instead."
        )
    if config.learning_rate * config.weight_decay >= 1:
        raise ConfigError(
            f"weight_decay is {config.weight_decay} and learning_rate is {config.learning_rate}: each step would "
            "remove all weights, since the product is not below 1. Give a smaller weight_decay."
        )


def _check_schedule(config: TrainingArguments) -> None:
    if config.min_lr > config.learning_rate:
        raise ConfigError(
            f"min_lr is {config.min_lr}, above learning_rate {config.learning_rate}, at which a schedule starts: give "
            "a smaller one."
        )
    if config.warmup_epochs and config.warmup_steps:
        raise ConfigError(
            f"warmup_epochs is {config.warmup_epochs} and warmup_steps is {config.warmup_steps}. Set one of them to 0."
        )
    if config.max_steps <= 0 and config.warmup_epochs > config.num_train_epochs:
        raise ConfigError(
            f"warmup_epochs is {config.warmup_epochs}, more than num_train_epochs ({config.num_train_epochs}): "
            "give fewer epochs."
        )


def set_min_lr(config: TrainingArguments) -> None:
    """Pass `min_lr` to the learning rate schedule; ConfigError if the schedule has no such argument."""
    arguments = dict(config.lr_scheduler_kwargs or {})
    if config.lr_scheduler_type not in MIN_LR_SCHEDULES:
        if config.min_lr and "min_lr" not in arguments:
            raise ConfigError(
                f"min_lr is {config.min_lr}, but the schedule {config.lr_scheduler_type.value} does not support it. "
                f"Leave out lr_scheduler_type, or choose one of: {', '.join(MIN_LR_SCHEDULES)}."
            )
    elif arguments.get("min_lr", config.min_lr) != config.min_lr or (config.min_lr and "min_lr_rate" in arguments):
        raise ConfigError(f"min_lr is {config.min_lr} but lr_scheduler_kwargs is {arguments}. Give min_lr only.")
    elif "min_lr_rate" not in arguments:
        config.lr_scheduler_kwargs = {**arguments, "min_lr": config.min_lr}
