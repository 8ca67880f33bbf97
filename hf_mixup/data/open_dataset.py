"""Open a data set: the built-in sample, a local folder or a Hub repository, with its splits and its revision."""

import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tarfile import TarError

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
from datasets import load_dataset_builder
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import DataError, DataUnreachable, did_you_mean
from ..hub.retry import is_transient, reason, retried, status_of
from .local_files import fingerprint, local_builder
from .parquet_classes import with_own_classes
from .streaming.parquet import read_footer
from .streaming.remote_files import HUB_FILE, LOGIN, TOKEN, file_sizes, read_range

Split = datasets.Dataset | datasets.IterableDataset
Splits = dict[str, Split]

SAMPLE = Path(__file__).with_name("sample")
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
# Formats whose rows can be counted: the builder of `datasets`, and file name extensions.
COUNTABLE = {"parquet": (Parquet, (".parquet", ".parq")), "webdataset": (WebDataset, (".tar", ".tar.gz", ".tgz"))}
# `datasets` raises nearly any exception when it opens files of any format.
OPEN_ERRORS = (OSError, ValueError, RuntimeError, LookupError, TypeError, HTTPError, TarError, pa.ArrowException)
OPEN_ERRORS += (datasets.exceptions.DatasetsError,)


@dataclass(frozen=True)
class OpenedDataset:
    """The splits of a data set and its revision; for streamed data also the files, if their rows can be counted."""

    splits: Splits
    revision: str  # the Hub's commit, or a fingerprint of local files
    format: str = ""  # parquet or webdataset
    files: dict[str, list[str]] = field(default_factory=dict)  # of each split


def open_splits(
    data: str, config: str | None, revision: str | None, streaming: bool, token: str | None
) -> OpenedDataset:
    """All splits by name; with `streaming`, only names, types and small files are read."""
    folder = Path(data).expanduser()
    if data == "sample":
        if config is not None:
            raise DataError(f"The built-in sample has no configurations: leave out data_config={config!r}.")
        files = {split: [str(SAMPLE / f"{split}.parquet")] for split in ("train", "test")}
        return OpenedDataset(_sample(), _check_fingerprint(fingerprint(SAMPLE), revision, data), "parquet", files)
    if folder.is_file():
        raise DataError(f"The data set {data!r} is a file: give the folder that contains it, or a Hub id.")
    if folder.is_dir():
        resolved, path, commit = _check_fingerprint(fingerprint(folder), revision, data), str(folder), None
    else:
        path, resolved = data, resolve_revision(data, revision, token)
        commit = resolved
    try:
        opened = retried(lambda: _load(path, config, commit, streaming, token), f"open data set {data!r}")
    except DataError:
        raise
    except OPEN_ERRORS as error:
        error_class = DataUnreachable if network_error(error) else DataError
        raise error_class(_load_message(data, config, error)) from error
    splits, format, files = opened
    return OpenedDataset(splits, resolved, format, files)


def _sample() -> Splits:
    """The splits of the built-in sample, read directly from the package without a copy in the cache."""
    splits = {}
    for split in ("train", "test"):
        table = datasets.table.InMemoryTable(parquet.read_table(SAMPLE / f"{split}.parquet"))
        splits[split] = datasets.Dataset(table, split=datasets.NamedSplit(split))
    return splits


def _load(path: str, config: str | None, commit: str | None, streaming: bool, token: str | None) -> tuple:
    """The splits; with `streaming`, also the format and the files of each split, if their rows can be counted."""
    options = {"name": config, "revision": commit, "token": token}
    try:
        local = local_builder(Path(path)) if commit is None and config is None else None
        if not streaming:
            splits = datasets.load_dataset(path, **options) if local is None else _prepared(local)
            builder = partial(load_dataset_builder, path, **options) if local is None else lambda: local
            return with_own_classes(splits, path, commit, builder), "", {}
        builder = local or load_dataset_builder(path, **options)
        format, files = _countable_files(builder)
        if format == "parquet" and builder.info.features is None:
            builder.info.features = _parquet_features(next(iter(files.values()))[0], token)
        # decode(False) must be the first step: it cannot remove the decoding that `datasets` adds to streams of remote
        # files once another step wraps the stream
        streams = builder.as_streaming_dataset().items()
        return {name: split.decode(False) if split.features else split for name, split in streams}, format, files
    except DataError:
        raise
    except OPEN_ERRORS as error:
        # raised without its wrappers: `retried` recognises a network error only by the chain of causes
        root_cause = network_error(error) or error
    raise root_cause


def _prepared(builder: datasets.DatasetBuilder) -> Splits:
    builder.download_and_prepare()
    return builder.as_dataset()


def _parquet_features(file: str, token: str | None) -> datasets.Features:
    """The columns of a parquet file, as `datasets` infers them, but read with retries and complete responses."""
    size = file_sizes([file], token)[file]
    schema = read_footer(file, size, partial(read_range, file, token=token)).schema
    return datasets.Features.from_arrow_schema(schema.to_arrow_schema())


def _countable_files(builder: datasets.DatasetBuilder) -> tuple[str, dict[str, list[str]]]:
    """The format of a data set and the files of each split; empty if their rows cannot be counted."""
    files = {str(split): [str(file) for file in files] for split, files in (builder.config.data_files or {}).items()}
    format = next((name for name, (builder_class, _) in COUNTABLE.items() if isinstance(builder, builder_class)), "")
    if not format or getattr(builder.config, "filters", None) is not None:
        return "", {}
    names = [file for files in files.values() for file in files]
    extensions = COUNTABLE[format][1]
    readable = all(name.endswith(extensions) and (HUB_FILE.fullmatch(name) or "://" not in name) for name in names)
    return (format, files) if readable else ("", {})


def _load_message(data: str, config: str | None, error: Exception) -> str:
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


def resolve_revision(data: str, revision: str | None, token: str | None) -> str:
    """The full commit sha (40 digits) of a revision of a Hub data set; by default of the main branch."""
    if data.startswith((".", "/", "~")) or data.count("/") > 1 or os.sep == data[-1:]:
        raise DataError(
            f"There is no folder {data!r}.{_similar_folder(data)} Give an existing folder, a Hub id, or 'sample'."
        )
    api = HfApi(token=token)
    try:
        return retried(lambda: api.dataset_info(data, revision=revision).sha, f"get the commit of {data!r}")
    except (HTTPError, OSError, HFValidationError) as error:
        unreachable = isinstance(error, OfflineModeIsEnabled) or is_transient(error)
        if unreachable and re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            return revision  # a full sha needs no lookup, and the files may be in the cache
        raise (DataUnreachable if is_transient(error) else DataError)(_hub_message(data, revision, error)) from error


def _hub_message(data: str, revision: str | None, error: Exception) -> str:
    """The error message for a data set that the Hub does not return, in one paragraph."""
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        return f"Data set {data!r} is gated: request access on its page, then log in (`hf auth login` or HF_TOKEN)."
    if isinstance(error, RevisionNotFoundError):
        return f"Data set {data!r} has no revision {revision!r}: give a branch, a tag or a commit sha, or leave it out."
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        hint = did_you_mean(data, SUGGESTED_IDS) or _similar_folder(data)
        return f"Data set {data!r} is neither a local folder nor readable on the Hub.{hint} {LOGIN}"
    if status in (401, 403):
        return f"The Hub denies access to data set {data!r} ({status}). {TOKEN if status == 401 else LOGIN}"
    return (
        f"Data set {data!r} could not be looked up on the Hub ({reason(error)}). Try again later, or pass "
        "revision=<commit sha> to use the cached files; data='sample' needs no network."
    )


def _similar_folder(data: str) -> str:
    """A suggestion from the folders next to the given path."""
    path = Path(data).expanduser()
    if not path.parent.is_dir():
        is_path = data.startswith((".", "/", "~")) or data.count("/") > 1
        return f" (The folder {str(path.parent)!r} does not exist either.)" if is_path else ""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    return did_you_mean(path.name, names)


def _check_fingerprint(actual: str, revision: str | None, data: str) -> str:
    """The fingerprint `actual` of the files of `data`; DataError if `revision` is given and differs."""
    if revision is not None and revision != actual:
        raise DataError(
            f"The files of {data!r} have the fingerprint {actual!r}, not revision={revision!r}: they have changed. "
            "Restore them, or leave revision out to use the current files."
        )
    return actual
