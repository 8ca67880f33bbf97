"""Bounds on what a downloaded configuration builds: numbers, modules and parameters, compared with its weights file.

A hostile config.json of a few bytes would otherwise take all memory, or hours.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from transformers import CONFIG_MAPPING

from ..errors import ModelError

LARGEST = 2**21  # number in a configuration: more than any width, depth or image size
LONGEST = 4096  # list in a configuration, and range computed while building: more than any depth
SPARE = 10**7  # parameters a configuration may have beyond four times the bytes of its weights
SPARE_TENSORS = 1000  # parameter tensors beyond four times those of the weights
MODULES = 20  # modules for each parameter tensor, at most
DEPTH = re.compile(r"depth|layers|blocks|stages")  # in keys of numbers of layers
NAMES = ("id2label", "label2id", "label_names")  # keys of class names


def check_numbers(name: str, saved: dict) -> None:
    """Raise ModelError if the configuration `saved` has a larger number or longer list than any network's."""
    for excess in _excesses("", _of_the_network(saved)):
        raise ModelError(f"The configuration of {name!r} has {excess}: no network has that. Do not use it.")


def _of_the_network(saved: dict) -> dict:
    """The entries that a network may be built from; others are information, as a count of parameters."""
    if "architecture" in saved:
        return {key: saved[key] for key in ("model_args", "pretrained_cfg") if key in saved}
    try:
        known = CONFIG_MAPPING[saved.get("model_type")]()
    except Exception:  # a class that has required arguments
        known = None
    return {k: v for k, v in saved.items() if k not in NAMES and (known is None or hasattr(known, k))}


def _excesses(key: str, value: object) -> Iterator[str]:
    """What is too large inside nested mappings and lists."""
    if isinstance(value, dict):
        for inner, item in value.items():
            if inner not in NAMES:
                yield from _excesses(inner, item)
    elif isinstance(value, list):
        if len(value) > LONGEST:
            yield f"{key} of {len(value):,} values, more than {LONGEST:,}"
            return
        for item in value:
            yield from _excesses(key, item)
    elif isinstance(value, int):
        most = LONGEST if DEPTH.search(key) else LARGEST
        if abs(value) > most:
            yield f"{key} {str(value)[:20]}, more than {most:,}"


@contextmanager
def bounded(name: str, folder: Path) -> Iterator[None]:
    """Inside, ModelError while this thread builds a network far larger than the weights in `folder`."""
    files = list(folder.glob("model*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    tensors = sum(_tensors(file) for file in files)
    most = 4 * tensors + SPARE_TENSORS
    count, thread = {"modules": 0, "tensors": 0, "parameters": 0}, threading.get_ident()

    def check(kind: str, number: int, limit: int) -> None:
        count[kind] += number if thread == threading.get_ident() else 0
        if count[kind] > limit:
            raise ModelError(
                f"The configuration of {name!r} describes {count[kind]:,} {kind} or more, but its weights have "
                f"{tensors:,} tensors and {size:,} bytes. Do not use it."
            )

    def parameter_added(module, key, value) -> None:
        if value is not None:
            check("tensors", 1, most)
            check("parameters", value.numel(), 4 * size + SPARE)

    with ExitStack() as stack:
        add_parameter_hook = torch_module.register_module_parameter_registration_hook
        stack.callback(add_parameter_hook(parameter_added).remove)
        add_module_hook = torch_module.register_module_module_registration_hook
        stack.callback(add_module_hook(lambda *_: check("modules", 1, MODULES * most)).remove)
        stack.enter_context(_ShortRanges(name))
        yield


def _tensors(file: Path) -> int:
    with safe_open(file, "pt") as opened:
        return len(opened.keys())


class _ShortRanges(TorchFunctionMode):
    """Refuse long `linspace`s, by which networks compute the drop path rates of all blocks."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.linspace:
            steps = kwargs.get("steps", args[2] if len(args) > 2 else 0)
            if steps > LONGEST:
                raise ModelError(f"The configuration of {self.name!r} describes {steps:,} blocks. Do not use it.")
        return function(*args, **kwargs)
