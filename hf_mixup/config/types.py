"""The values of a configuration's fields: what a field takes, conversion to its type, its range."""

import math
import os
import re
import types
from dataclasses import Field, field
from enum import Enum
from typing import Any, Union, get_args, get_origin

from ..errors import ConfigError

YES_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NUMBER = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")  # digits alone stay text: they were quoted
SINGULAR = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (in quotes)",
    dict: "a mapping of plain data (finite numbers, text, lists)",
}
PLURAL = {float: "a list of numbers", int: "a list of whole numbers"}
RANGES = {  # fields of TrainingArguments that accept values no run can use
    "learning_rate": "(0, inf)",  # the schedule's floor is a share of it
    "weight_decay": "[0, inf)",
    "max_grad_norm": "[0, inf)",
    "num_train_epochs": "[0, inf)",
    "warmup_steps": "[0, inf)",
    "per_device_train_batch_size": "[1, inf)",
    "per_device_eval_batch_size": "[1, inf)",
    "gradient_accumulation_steps": "[1, inf)",
}


def about(default: Any, text: str, within: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field with its help line, the range of its numbers (as `[0, 1)`) and its choices."""
    text += f", in {within}." if within else f": {' or '.join(choices)}." if choices else "."
    metadata = {"help": text, "within": within} | ({"choices": choices} if choices else {})
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def kinds(annotation: Any) -> tuple[Any, ...]:
    """The types a field takes, text last because everything can be read as text."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    options = [dict if get_origin(kind) is dict else kind for kind in options]
    if any(is_enum(kind) for kind in options):
        options.remove(str)  # text that is none of the names is refused by the class behind the field anyway
    return tuple(sorted(options, key=lambda kind: kind is str))


def convert(field: Field, value: Any, where: str = "") -> Any:
    """The value as the type of its field: `1e-3` a number, `no` false; None stays None."""
    options = kinds(field.type)
    if value is None or ("const" in field.metadata and isinstance(value, bool)):
        return value
    for kind in options:
        try:
            return _as(value, kind)
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
            continue
    place = f" in {where}" if where else ""
    raise ConfigError(f"{field.name} is {short(value)}{place}, expected {expected(field)}.")


def _as(value: Any, kind: Any) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else YES_NO[_only(value, str).lower()]
    if kind in (int, float):
        return _number(value, kind)
    if kind is dict:
        return _arguments(_only(value, dict))
    if kind is str:
        return os.fspath(value)
    if get_origin(kind) is list:
        return [_as(item, get_args(kind)[0]) for item in _only(value, list | tuple)]
    if is_enum(kind):
        return kind("no" if value is False else value)  # YAML reads a bare `no` as false
    if value in get_args(kind) or (isinstance(kind, type) and isinstance(value, kind)):
        return value
    raise TypeError


def _number(value: Any, kind: type) -> int | float:
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise TypeError
    if isinstance(value, int):
        return value
    number = float(value)
    if kind is int and number != int(number):
        raise ValueError
    return kind(number)


def _only(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value


def _arguments(value: Any) -> Any:
    """Plain data with numbers as numbers: YAML leaves `1e-3` a string."""
    if isinstance(value, dict):
        return {os.fspath(key): _arguments(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_arguments(item) for item in value]
    if isinstance(value, str):
        return float(value) if NUMBER.fullmatch(value) else value
    if value is None or (isinstance(value, bool | int | float) and math.isfinite(value)):
        return value
    raise TypeError


def expected(field: Field) -> str:
    """What a field takes, in words."""
    names = []
    for kind in kinds(field.type):
        if is_enum(kind):
            names.append("one of " + ", ".join(member.value for member in kind))
        elif get_origin(kind) is list:
            names.append(PLURAL.get(get_args(kind)[0], "a list of words"))
        else:
            names.append(SINGULAR.get(kind, ""))
    return " or ".join(dict.fromkeys(filter(None, names)))


def is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def short(value: Any) -> str:
    """The value as an error shows it: at most 80 characters, and never a token of the Hub."""
    text = re.sub(r"hf_\w{8,}", "hf_...", repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def check(item: Field, value: Any) -> None:
    """Nothing, if the value is one of the field's choices and its numbers are in the field's range."""
    choices, within = item.metadata.get("choices"), item.metadata.get("within") or RANGES.get(item.name)
    if choices and value is not None and value not in choices:
        raise ConfigError(f"{item.name} is {value!r}. Choose one of: {', '.join(choices)}.")
    if not within or value is None:
        return
    low, high = (float(end) for end in within[1:-1].split(","))
    for number in value if isinstance(value, list) else [value]:
        above = number >= low if within[0] == "[" else number > low
        below = number <= high if within[-1] == "]" else number < high
        if not (above and below):  # also for NaN, which is neither
            raise ConfigError(
                f"{item.name} is {value}, expected {'numbers' * isinstance(value, list) or 'a number'} in {within}."
            )
