"""The messages for data sets that cannot be opened, each one paragraph."""

from pathlib import Path

import datasets
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import did_you_mean
from ..hub.retry import is_transient, reason, status_of
from .streaming.remote_files import LOGIN, TOKEN

# The data sets of the recipes, suggested when a Hub id is misspelt.
SUGGESTED_IDS = (
    "uoft-cs/cifar10",
    "uoft-cs/cifar100",
    "zh-plus/tiny-imagenet",
    "ILSVRC/imagenet-1k",
    "tanganke/stl10",
    "zalando-datasets/fashion_mnist",
    "bentrevett/caltech-ucsd-birds-200-2011",
    "tanganke/stanford_cars",
)


def load_message(data: str, config: str | None, error: Exception) -> str:
    """The error message for a data set that could not be opened, in one paragraph."""
    text, subject = " ".join(str(error).split()), f"Data set {data!r}"
    if network_error(error):
        return f"{subject} could not be read ({reason(error)}). Try again later; data='sample' needs no network."
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return f"{subject} could not be read: {text} {LOGIN}"
    advice = "Expected: train/<class>/<image> folders, or parquet files named after their splits."
    if "BuilderConfig" in text or "Config name is missing" in text:
        advice = "Pass data_config=... with one of them."
    if "corresponds to no data" in text:
        advice = "This split is empty: add files to it, or delete its files."
    if "scripts are no longer supported" in text:
        advice = "Choose a copy of the data set in parquet; code from a data set is never executed."
    cause = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ and not text.endswith(".") else ""
    return f"{subject} (data_config={config!r}) could not be loaded: {text}{cause} {advice}"


def network_error(error: BaseException | None) -> BaseException | None:
    """The innermost network error among `error` and its causes, if a retry may succeed; else None."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return next((error for error in reversed(chain) if is_transient(error)), None)


def hub_message(data: str, revision: str | None, error: Exception) -> str:
    """The error message for a data set that the Hub does not return, in one paragraph."""
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        return f"Data set {data!r} is gated: request access on its page, then log in (`hf auth login` or HF_TOKEN)."
    if isinstance(error, RevisionNotFoundError):
        return f"Data set {data!r} has no revision {revision!r}: give a branch, a tag or a commit sha, or leave it out."
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        hint = did_you_mean(data, SUGGESTED_IDS) or similar_folder(data)
        return f"Data set {data!r} is neither a local folder nor readable on the Hub.{hint} {LOGIN}"
    if status in (401, 403):
        return f"The Hub denies access to data set {data!r} ({status}). {TOKEN if status == 401 else LOGIN}"
    return (
        f"There is no folder {data!r}, and this data set could not be looked up on the Hub ({reason(error)})."
        f"{similar_folder(data)} Try again later, or pass revision=<commit sha> to use the cached files; data='sample' "
        "needs no network."
    )


def similar_folder(data: str) -> str:
    """A suggestion from the folders next to the given path."""
    path = Path(data).expanduser()
    if not path.parent.is_dir():
        is_path = data.startswith((".", "/", "~")) or data.count("/") > 1
        return f" (The folder {str(path.parent)!r} does not exist either.)" if is_path else ""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    return did_you_mean(path.name, names)
