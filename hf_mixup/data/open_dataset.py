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
from datasets.packaged_modules.text.text import Text
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)

from ..errors import DataError, DataUnreachable
from ..hub.interruptible import interruptible
from ..hub.retry import is_transient, retried
from .image_paths import check_path
from .local_files import check_card, fingerprint, label_advice, local_builder
from .open_errors import hub_message, load_message, network_error, similar_folder
from .parquet_classes import with_own_classes
from .streaming.parquet import read_footer
from .streaming.remote_files import HUB_FILE, file_sizes, read_range

Split = datasets.Dataset | datasets.IterableDataset
Splits = dict[str, Split]

SAMPLE = Path(__file__).with_name("sample")
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
    home: str | None  # the folder or the URL prefix of its files; None if it may name files elsewhere
    format: str = ""  # parquet or webdataset
    files: dict[str, list[str]] = field(default_factory=dict)  # of each split
    advice: str = ""  # if there is no column of labels


def open_splits(
    data: str,
    config: str | None,
    revision: str | None,
    streaming: bool,
    token: str | None,
    *,
    label: str | None = None,
    outside: bool = False,
) -> OpenedDataset:
    """All splits by name; with `streaming`, only names, types and small files are read.

    `label`: the label column, which the class folders of a local folder may give. `outside`: the card and the rows may
    name files and URLs that are not files of the data set.
    """
    folder = Path(data).expanduser()
    if data == "sample":
        if config is not None:
            raise DataError(f"The built-in sample has no configurations: leave out data_config={config!r}.")
        files = {split: [str(SAMPLE / f"{split}.parquet")] for split in ("train", "test")}
        revision = _check_fingerprint(fingerprint(SAMPLE), revision, data)
        return OpenedDataset(_sample(), revision, str(SAMPLE), "parquet", files)
    if folder.is_file():
        raise DataError(f"The data set {data!r} is a file: give the folder that contains it, or a Hub id.")
    if folder.is_dir():
        resolved, path, commit = _check_fingerprint(fingerprint(folder), revision, data), str(folder.absolute()), None
        home = None if outside else path
    else:
        path, resolved = data, resolve_revision(data, revision, token)
        commit = resolved
        home = None if outside else f"hf://datasets/{path}@{commit}/"
    try:
        load = partial(_load, path, config, commit, streaming, token, label, home)
        opened = retried(lambda: interruptible(load), f"open data set {data!r}")
    except DataError:
        raise
    except OPEN_ERRORS as error:
        error_class = DataUnreachable if network_error(error) else DataError
        raise error_class(load_message(data, config, error)) from error
    splits, *rest = opened
    return OpenedDataset(splits, resolved, home, *rest)


def _sample() -> Splits:
    """The splits of the built-in sample, read directly from the package without a copy in the cache."""
    splits = {}
    for split in ("train", "test"):
        table = datasets.table.InMemoryTable(parquet.read_table(SAMPLE / f"{split}.parquet"))
        splits[split] = datasets.Dataset(table, split=datasets.NamedSplit(split))
    return splits


def _load(path, config, commit: str | None, streaming: bool, token, label: str | None, home: str | None) -> tuple:
    """The splits; with `streaming`, the format and the files of each split, if their rows can be counted; advice."""
    try:
        builder = _builder(path, config, commit, token, label, home)
        advice = label_advice(builder)
        if not streaming:
            builder.download_and_prepare()
            return with_own_classes(builder.as_dataset(), path, commit, builder), "", {}, advice
        format, files = _countable_files(builder)
        if format == "parquet" and builder.info.features is None:
            builder.info.features = _parquet_features(next(iter(files.values()))[0], token)
        # decode(False) must be the first step: it cannot remove the decoding that `datasets` adds to streams of remote
        # files once another step wraps the stream
        streams = builder.as_streaming_dataset().items()
        splits = {name: split.decode(False) if split.features else split for name, split in streams}
        return splits, format, files, advice
    except DataError:
        raise
    except OPEN_ERRORS as error:
        # raised without its wrappers: `retried` recognises a network error only by the chain of causes
        root_cause = network_error(error) or error
    raise root_cause


def _builder(path, config, commit, token, label: str | None, home: str | None) -> datasets.DatasetBuilder:
    """The builder of a folder, or of a commit on the Hub. DataError if its files are not inside `home`."""
    folder = Path(path) if commit is None else None
    if folder and (folder / datasets.config.DATASET_STATE_JSON_FILENAME).exists():
        raise DataError(f"The folder {path!r} was written by save_to_disk: write the data with to_parquet instead.")
    if folder and home is not None:
        check_card(folder)
    builder = local_builder(folder, label) if folder and config is None else None
    builder = builder or load_dataset_builder(path, name=config, revision=commit, token=token)
    if folder and isinstance(builder, Text):
        raise DataError(f"The folder {path!r} holds no images, only text: expected are train/<class>/<image> folders.")
    # another revision of the same repository may hold a converted copy
    inside = home and (home if commit is None else home.partition("@")[0] + "@")
    for files in (builder.config.data_files or {}).values():
        for file in files:
            check_path(str(file), inside, f"The card of data set {path!r}")
    return builder


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


def resolve_revision(data: str, revision: str | None, token: str | None) -> str:
    """The full commit sha (40 digits) of a revision of a Hub data set; by default of the main branch."""
    if data.startswith((".", "/", "~")) or data.count("/") > 1 or os.sep == data[-1:]:
        raise DataError(
            f"There is no folder {data!r}.{similar_folder(data)} Give an existing folder, a Hub id, or 'sample'."
        )
    api = HfApi(token=token)
    try:
        return retried(lambda: api.dataset_info(data, revision=revision).sha, f"get the commit of {data!r}")
    except (HTTPError, OSError, HFValidationError) as error:
        unreachable = isinstance(error, OfflineModeIsEnabled) or is_transient(error)
        if unreachable and re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            return revision  # a full sha needs no lookup, and the files may be in the cache
        raise (DataUnreachable if is_transient(error) else DataError)(hub_message(data, revision, error)) from error


def _check_fingerprint(actual: str, revision: str | None, data: str) -> str:
    """The fingerprint `actual` of the files of `data`; DataError if `revision` is given and differs."""
    if revision is not None and revision != actual:
        raise DataError(
            f"The files of {data!r} have the fingerprint {actual!r}, not revision={revision!r}: they have changed. "
            "Restore them, or leave revision out to use the current files."
        )
    return actual
