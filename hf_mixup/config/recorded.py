"""The fields of a configuration that determine a run's result: run records and the recipe hash contain only these."""

from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from enum import Enum
from typing import Any

from transformers import TrainingArguments

# Fields of TrainingArguments that are in the recipe dict even if unchanged.
RECORDED = tuple(
    """num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate
    lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay max_grad_norm seed""".split()
)
# Fields added after version 0.1: in the recipe dict only if they are set, so that recipe hashes stay the same.
LATER = ("class_names", "class_weights", "freeze", "class_balanced", "shuffle_memory", "eval_fraction", "max_pixels")
# Fields of 0.1 that no longer exist, with their defaults: in the recipe hash for the same reason.
FORMER_FIELDS = {"shuffle_block": 2048}
# Values of 0.1 for fields that now are null by default: those of classification.
FORMER_DEFAULTS = {"task": "classification", "loss": "ce"}
# Prefixes of fields that are never in the recipe dict, because they do not change a run's result.
EXCLUDED = tuple(
    """output_dir recipe resume dry_run report_to run_name project debug disable_tqdm trust_remote_code log_ logging_
    hub_ push_to_hub trackio_ include_num_input skip_memory do_ local_ use_cpu ddp_ fsdp parallelism_config dataloader_
    stream_cache torch_compile torch_empty enable_jit activation_checkpointing gradient_checkpointing resume_from
    restore_callback per_device_eval eval_accumulation eval_do_concat eval_use_gather batch_eval prediction_loss
    include_for allow_outside_files""".split()
)
# Prefixes that are excluded only if the last checkpoint is published, not the best one.
CADENCE = (
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "save_",
    "metric_for_best",
    "greater_is_better",
)


def recorded_values(config: TrainingArguments) -> dict[str, Any]:
    """The JSON values of all fields that MixupConfig adds, and of TrainingArguments' fields in RECORDED or changed."""
    excluded = EXCLUDED if config.load_best_model_at_end else EXCLUDED + CADENCE
    values = {}
    for item in fields(config):
        if item.name.startswith(excluded):
            continue
        value = getattr(config, item.name)
        added = item.name not in TrainingArguments.__dataclass_fields__
        if item.name in LATER and value == default_of(item):
            continue
        if value is None and config.task in (None, "classification"):
            value = FORMER_DEFAULTS.get(item.name)
        if added or item.name in RECORDED or json_value(value) != json_value(_default_like(item, value)):
            values[item.name] = json_value(value)
    return values


def default_of(item: Field) -> Any:
    """The default of a dataclass field."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def _default_like(item: Field, value: Any) -> Any:
    """The default of a field; if TrainingArguments converts it to a dataclass, that dataclass with its defaults."""
    return type(value)() if is_dataclass(value) else default_of(item)


def json_value(value: Any) -> Any:
    """The value as plain JSON data; a float without a fraction becomes an integer."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return json_value(asdict(value))
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
