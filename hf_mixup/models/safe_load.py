"""Loading of saved networks and image processors without running code of the folder or repository."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
from .bounds import bounded, check_numbers
from .load_errors import BUILD_ERRORS, as_model_error

# arguments of timm.create_model, and keys of its configurations, by which it downloads or reads other files
CREATE_ARGUMENTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "features_only"}
CREATE_ARGUMENTS |= {"cache_dir", "pretrained_strict", "pretrained_filter_fn", "pretrained_model_args", "pruned"}
SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load", "source"}
EXTERNAL = ("transformers_weights", "quantization_config", "use_pretrained_backbone")  # refer to other files or code


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
    with as_model_error(name, args), nullcontext() if code else bounded(name, folder):
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
    if not code:
        check_numbers(name, saved)
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
        with torch.random.fork_rng(devices=[]), bounded(name, folder), meta_device():
            auto_class(config).from_config(config)
    except ModelError:
        raise
    except BUILD_ERRORS:  # not every network can be built on the meta device; loading reports a wrong configuration
        return


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
    refused = not isinstance(args, dict) or other_sources(args) or source_keys(saved.get("pretrained_cfg"))
    if refused:
        what = args if refused is True else refused
        raise ModelError(f"The model_args of {name!r} are not those of a network: {what}. Do not use it.")


def other_sources(args: dict) -> list[str]:
    """Keys in model_args for which timm would download or read files, or build something else than the network."""
    return sorted(CREATE_ARGUMENTS & args.keys()) or source_keys(args)


def source_keys(values: object) -> list[str]:
    """Keys, at any depth, of places that timm loads weights from, unless they are empty."""
    if isinstance(values, list | tuple):
        return [key for value in values for key in source_keys(value)]
    if not isinstance(values, dict):
        return []
    return sorted(key for key in values if key in SOURCES and values[key]) + source_keys(list(values.values()))
