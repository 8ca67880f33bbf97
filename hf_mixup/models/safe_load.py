"""A network as it was saved: read without running anything that the folder holds, and told what is wrong with it."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
)
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import ModelError
from ..hub.download import check_saved

NEVER = {"pretrained", "pretrained_cfg", "checkpoint_path", "features_only"}  # what timm would get weights from
OTHER_WEIGHTS = ("transformers_weights", "quantization_config")
# what networks raise when they are built with arguments that they were not made for
BUILDING = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError)
BUILDING += (RuntimeError, StrictDataclassError, TypeError, ValueError)
SPARE = 10**7  # parameters that a network may have beyond four times its weights' bytes


def load_network(name: str, folder: Path, *, complete: bool = True) -> PreTrainedModel:
    """The network saved in `folder`, which is of `name`, as it is; no code of the folder runs.

    ModelError, also for one whose weights are not all there, unless it need not be `complete`.
    """
    config = read_config(name, folder, code=False)
    with explained(name, {}):
        model, report = AutoModelForImageClassification.from_pretrained(
            folder, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    if complete:
        check_weights(name, report)
    return model


def load_processor(name: str, folder: Path) -> BaseImageProcessor:
    """The image processor saved in `folder`, which is of `name`; no code of the folder runs. ModelError."""
    with explained(name, {}):
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)


def read_config(name: str, folder: Path, code: bool):
    """The configuration of the network in `folder`, which may name no code, no file and no other repository."""
    saved = check_saved(name, folder)
    if not code and saved.get("auto_map") and saved.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(
            f"{name!r} is a network that only its own Python code can build, and code from a repository is not run. "
            "Read the code; if you trust it, say --trust_remote_code true on the command line."
        )
    if not code and (led := _led_elsewhere(saved)):
        raise ModelError(
            f"The configuration of {name!r} has a {led[0]!r}, by which other files or code would be read than its own "
            "safetensors. Save the network again without it."
        )
    if "architecture" in saved:
        _check_timm(name, saved)
    with explained(name, {}):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=code)
        if isinstance(config, TimmWrapperConfig):  # timm writes the classes' number once more, which transformers minds
            args = config.model_args or {}
            config.model_args = {key: value for key, value in args.items() if key != "num_classes"}
        if not code:
            _check_size(name, folder, config)
    return config


def _led_elsewhere(saved: dict) -> list[str]:
    """Keys, at any depth, by which transformers would load kernels from the Hub or weights that are not plain."""
    found, left = [], [saved]
    while left:
        values = left.pop()
        if isinstance(values, list):
            left += values
        elif isinstance(values, dict):
            left += [value for key, value in values.items() if key != "label2id"]  # whose keys are names of classes
            found += [key for key in OTHER_WEIGHTS if values.get(key)]
            found += [key for key, value in values.items() if key.endswith("_implementation") and "/" in str(value)]
    return found


def _check_size(name: str, folder: Path, config) -> None:
    """Raise before memory is taken if the configuration asks for a network far larger than the weights beside it."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            asked = sum(p.numel() for p in AutoModelForImageClassification.from_config(config).parameters())
    except BUILDING:  # not every network can be built without memory; a wrong configuration is told when it is loaded
        return
    held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if asked > 4 * held + SPARE:
        raise ModelError(f"{name!r} asks for {asked:,} parameters and holds {held:,} bytes of weights: do not use it.")


def _check_timm(name: str, saved: dict) -> None:
    """Raise unless a saved configuration names a network that timm has, and no other source of weights or code."""
    architecture, args = saved["architecture"], saved.get("model_args") or {}
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelError(
            f"{name!r} is of the architecture {architecture!r}, which timm {timm.__version__} does not have. "
            "Update timm, or import the package that registers it."
        )
    strange = sorted(NEVER & args.keys()) if isinstance(args, dict) else args
    if strange:
        raise ModelError(f"The model_args of {name!r} are not those of a network: {strange}. Do not use it.")


def check_weights(name: str, report: dict, renewed: Iterable[str] = ()) -> None:
    """Raise if anything but the parameters `renewed`, by name, was left random."""
    left_out = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    random = sorted(left_out - {*renewed})
    if random:
        raise ModelError(
            f"{name!r} lacks weights that fit: {random[:3]} ({len(random)} in all). If that is the classifier, pass "
            "model_args {'reset_classifier': true}; else the checkpoint is of another network or size."
        )


@contextmanager
def explained(name: str, args: dict, way_out: str = "") -> Iterator[None]:
    """Turn what timm and transformers raise into errors that say what to change."""
    try:
        yield
    except SafetensorError as error:
        raise ModelError(f"The weights of {name!r} are damaged ({error}): get them again.") from error
    except (OSError, HfHubHTTPError) as error:
        if not way_out:
            raise ModelError(f"{name!r} cannot be loaded: {error}") from error
        raise ModelError(
            f"Cannot get {name!r}: it is not in the local cache and the Hub did not give it ({type(error).__name__}). "
            f"Check the name and the connection, or run `hf download` where there is one; {way_out}."
        ) from error
    except BUILDING as error:
        if unknown := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
            network, key = unknown.groups()
            raise ModelError(f"model_args: {name!r} ({network}) has no argument {key!r}. Leave it out.") from error
        raise ModelError(f"{name!r} cannot be built with model_args {args}: {error}") from error
