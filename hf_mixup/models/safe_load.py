"""Loading of saved networks and image processors without running code of the folder or repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
)
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import ModelError
from ..hub.download import check_saved, fetch
from .load_errors import BUILD_ERRORS, as_model_error

WEIGHT_SOURCES = {"pretrained", "pretrained_cfg", "checkpoint_path", "features_only"}  # arguments of timm.create_model
EXTERNAL = ("transformers_weights", "quantization_config")  # keys that refer to other files or code
SPARE = 10**7  # parameters a configuration may have beyond four times the bytes of its weights


def auto_class(config) -> type:
    """The Auto class of transformers for a configuration: AutoModel for a timm network without classifier."""
    headless = isinstance(config, TimmWrapperConfig) and not config.num_labels
    return AutoModel if headless else AutoModelForImageClassification


def open_checkpoint(name: str, code: bool):
    """The folder of `name`, downloaded from the Hub if it is a repository, and its configuration."""
    folder = fetch(name, code=code)
    return folder, read_config(name, folder, code)


def load_network(name: str, folder: Path, *, complete: bool = True) -> PreTrainedModel:
    """The network that was saved in `folder`; no code of the folder runs. `name` is for messages.

    Raises ModelError, with `complete` also if any weight is missing.
    """
    model, missing = load_weights(name, folder, read_config(name, folder, code=False), {})
    if complete:
        check_complete(name, missing)
    return model


def load_processor(name: str, folder: Path) -> BaseImageProcessor:
    """The image processor that was saved in `folder`; no code of the folder runs. Raises ModelError."""
    with as_model_error(name, {}):
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def load_weights(
    name: str, folder: Path, config, args: dict, *, code: bool = False, **options
) -> tuple[PreTrainedModel, set[str]]:
    """The network of `config` with the weights in `folder`, and the names of parameters without weights there.

    `args` are model_args, for messages; `options` are arguments of transformers' `from_pretrained`.
    """
    with as_model_error(name, args):
        model, report = auto_class(config).from_pretrained(
            folder, config=config, trust_remote_code=code, use_safetensors=True, output_loading_info=True, **options
        )
    return model, {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}


def check_complete(name: str, missing: set[str]) -> None:
    """Raise ModelError if weights are missing."""
    if missing:
        raise ModelError(
            f"{name!r} lacks weights of matching shape for {sorted(missing)[:3]} ({len(missing)} in all). If they are "
            "the classifier's, pass model_args {'reset_classifier': true}; else the checkpoint is of another network "
            "or size."
        )


def read_config(name: str, folder: Path, code: bool):
    """The configuration of the network in `folder`. Without `code`, it must not refer to code or other files."""
    saved = check_saved(name, folder)
    if not code and saved.get("auto_map") and saved.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(
            f"{name!r} is a network that only its own Python code can build, and code from a repository is not run. "
            "Read the code; if you trust it, pass --trust_remote_code true on the command line."
        )
    if not code and (external := _external_keys(saved)):
        raise ModelError(
            f"The configuration of {name!r} contains {external[0]!r}, which refers to code, or to files other "
            "than its own safetensors. Save the network again without it."
        )
    if "architecture" in saved:
        _check_timm(name, saved)
    with as_model_error(name, {}):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=code)
        if isinstance(config, TimmWrapperConfig):  # timm repeats num_classes here, which transformers refuses
            args = config.model_args or {}
            config.model_args = {key: value for key, value in args.items() if key != "num_classes"}
        if not code:
            _check_size(name, folder, config)
    return config


def _external_keys(saved: dict) -> list[str]:
    """Keys, at any depth, for which transformers loads kernels from the Hub or weights other than safetensors."""
    found, queue = [], [saved]
    while queue:
        values = queue.pop()
        if isinstance(values, list):
            queue += values
        elif isinstance(values, dict):
            queue += [value for key, value in values.items() if key != "label2id"]  # its keys are class names
            found += [key for key in EXTERNAL if values.get(key)]
            found += [key for key, value in values.items() if key.endswith("_implementation") and "/" in str(value)]
    return found


def _check_size(name: str, folder: Path, config) -> None:
    """Raise ModelError, before memory is allocated, if the network is far larger than its weights."""
    try:
        with torch.random.fork_rng(devices=[]), meta_device():
            count = sum(p.numel() for p in auto_class(config).from_config(config).parameters())
    except BUILD_ERRORS:  # not every network can be built on the meta device; loading reports a wrong configuration
        return
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if count > 4 * size + SPARE:
        raise ModelError(
            f"The configuration of {name!r} describes {count:,} parameters, but its weights have {size:,} bytes. Do "
            "not use it."
        )


@contextmanager
def meta_device() -> Iterator[None]:
    """Networks built inside allocate no memory for their weights."""
    with torch.device("meta"), _LinspaceOnCPU():
        yield


class _LinspaceOnCPU(TorchFunctionMode):
    """Older timm computes drop path rates with `torch.linspace` and reads them, which meta tensors refuse."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}) | ({"device": "cpu"} if function is torch.linspace else {}))


def _check_timm(name: str, saved: dict) -> None:
    """Raise ModelError unless timm has the architecture and model_args name no other source of weights or code."""
    architecture, args = saved["architecture"], saved.get("model_args") or {}
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelError(
            f"{name!r} has the architecture {architecture!r}, which timm {timm.__version__} does not have. "
            "Update timm, or import the package that registers it."
        )
    refused = sorted(WEIGHT_SOURCES & args.keys()) if isinstance(args, dict) else args
    if refused:
        raise ModelError(f"The model_args of {name!r} are not those of a network: {refused}. Do not use it.")
