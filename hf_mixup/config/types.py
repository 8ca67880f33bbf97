"""Types of configuration fields: conversion of values, ranges, descriptions for messages."""

import math
import os
import re
import types
from dataclasses import Field, field
from enum import Enum
from typing import Any, Union, get_args, get_origin

from ..errors import ConfigError

YES_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NUMBER = re.compile(
    r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?"
)  # text of digits only is not converted: it was quoted in YAML
SINGULAR = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text (in quotes)",
    dict: "a mapping of plain data (finite numbers, text, lists)",
}
PLURAL = {float: "a list of numbers", int: "a list of integers"}
LONGEST_NAME = 255  # of files and folders; text of a field may be a path
RANGES = {  # of fields that TrainingArguments does not check
    "learning_rate": "[1e-12, 1000]",  # min_lr is divided by it
    "weight_decay": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "(0, 1]",
    "max_grad_norm": "[0, inf)",
    "num_train_epochs": "(0, 1e6]",
    "warmup_steps": "[0, inf)",
    "save_steps": "(0, inf)",
    "eval_steps": "(0, inf)",
    "logging_steps": "(0, inf)",
    "eval_delay": "[0, inf)",
    "dataloader_num_workers": "[0, 256]",
    "dataloader_prefetch_factor": "[1, inf)",
    "per_device_train_batch_size": "[1, inf)",
    "per_device_eval_batch_size": "[1, inf)",
    "gradient_accumulation_steps": "[1, inf)",
}


def option(default: Any, text: str, within: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its help text, the range of its numbers, for example `[0, 1)`, and its choices."""
    text += f". Range: {within}." if within else f". Choices: {', '.join(choices)}." if choices else "."
    metadata = {"help": text, "within": within} | ({"choices": choices} if choices else {})
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def accepted_types(annotation: Any) -> tuple[Any, ...]:
    """The types that a field accepts; text comes last, because every value can be read as text."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    options = [dict if get_origin(kind) is dict else kind for kind in options]
    if any(is_enum(kind) for kind in options):
        options.remove(str)  # TrainingArguments refuses other text than the members' values
    return tuple(sorted(options, key=lambda kind: kind is str))


def convert(field: Field, value: Any, where: str = "") -> Any:
    """The value in the type of its field: `1e-3` becomes a number, `no` false; None stays None. Raises ConfigError."""
    options = accepted_types(field.type)
    if value is None or ("const" in field.metadata and isinstance(value, bool)):
        return value
    for kind in options:
        try:
            return _convert_to(value, kind)
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
            continue
    place = f" in {where}" if where else ""
    raise ConfigError(f"{field.name} is {short_repr(value)}{place}, expected {expected(field)}.")


def _convert_to(value: Any, kind: Any) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else YES_NO[_instance(value, str).lower()]
    if kind in (int, float):
        return _number(value, kind)
    if kind is dict:
        return _plain_data(_instance(value, dict))
    if kind is str:
        return os.fspath(value)
    if get_origin(kind) is list:
        return [_convert_to(item, get_args(kind)[0]) for item in _instance(value, list | tuple)]
    if is_enum(kind):
        return kind("no" if value is False else value)  # YAML reads a bare `no` as false
    if value in get_args(kind) or (isinstance(kind, type) and isinstance(value, kind)):
        return value
    raise TypeError


def _number(value: Any, kind: type) -> int | float:
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise TypeError
    if isinstance(value, int):
        return _of_64_bits(value)
    number = float(value)
    if kind is int and number != int(number):
        raise ValueError
    return kind(number)


def _of_64_bits(value: int | float) -> int | float:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # torch and numpy cannot represent it
        raise OverflowError
    return value


def _instance(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _plain_data(value: Any) -> Any:
    """Nested plain data; text such as `1e-3`, which YAML does not read as a number, becomes a number."""
    if isinstance(value, dict):
        return {os.fspath(key): _plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_data(item) for item in value]
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else value
    if value is None or (isinstance(value, bool | int | float) and math.isfinite(value)):
        return _of_64_bits(value)
    raise TypeError


def expected(field: Field) -> str:
    """Description of the values that a field accepts, for messages."""
    names = []
    for kind in accepted_types(field.type):
        if is_enum(kind):
            names.append("one of " + ", ".join(member.value for member in kind))
        elif get_origin(kind) is list:
            names.append(PLURAL.get(get_args(kind)[0], "a list of strings"))
        else:
            names.append(SINGULAR.get(kind, ""))
    return " or ".join(dict.fromkeys(filter(None, names)))


def is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def short_repr(value: Any) -> str:
    """The value for messages: at most 80 characters, Hub tokens replaced."""
    text = re.sub(r"hf_\w{8,}", "hf_...", repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_value(item: Field, value: Any) -> None:
    """Raise ConfigError unless the value is one of the field's choices and its numbers are in the field's range."""
    if isinstance(value, str) and max(map(len, value.split("/"))) > LONGEST_NAME:
        raise ConfigError(f"{item.name} is {short_repr(value)}: a name has at most {LONGEST_NAME} characters.")
    choices, within = item.metadata.get("choices"), item.metadata.get("within") or RANGES.get(item.name)
    if choices and value is not None and value not in choices:
        raise ConfigError(f"{item.name} is {value!r}. Choose one of: {', '.join(choices)}.")
    if not within or value is None:
        return
    low, high = (float(end) for end in within[1:-1].split(","))
    for number in value if isinstance(value, list) else [value]:
        above = number >= low if within[0] == "[" else number > low
        below = number <= high if within[-1] == "]" else number < high
        if not (above and below):  # NaN is neither
            raise ConfigError(
                f"{item.name} is {value}, expected {'numbers' * isinstance(value, list) or 'a number'} in {within}."
            )
