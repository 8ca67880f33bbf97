"""Where data comes from: the embedded sample, a local folder or the Hub; its splits, and what pins their content."""

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tarfile import TarError

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
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

from ..errors import DataError, DataUnreachable, nearest
from ..hub.retry import may_pass, reason, retried, status_of
from .streaming.parquet import footer
from .streaming.remote_files import HUB, LOGIN, TOKEN, fetch, sizes

Splits = dict[str, datasets.Dataset | datasets.IterableDataset]

SAMPLE = Path(__file__).with_name("sample")
# Suggested when a Hub id is misspelt; the data sets of the recipes.
KNOWN = (
    "uoft-cs/cifar10",
    "uoft-cs/cifar100",
    "zh-plus/tiny-imagenet",
    "ILSVRC/imagenet-1k",
    "tanganke/stl10",
    "zalando-datasets/fashion_mnist",
    "bentrevett/caltech-ucsd-birds-200-2011",
    "tanganke/stanford_cars",
)
# Builders of formats in which rows can be counted, and how their files end.
KINDS = {"parquet": (Parquet, (".parquet", ".parq")), "webdataset": (WebDataset, (".tar", ".tar.gz", ".tgz"))}
# What opening a data set raises: anything, since files of any kind are looked into.
FAILURES = (OSError, ValueError, RuntimeError, LookupError, TypeError, HTTPError, TarError, pa.ArrowException)
FAILURES += (datasets.exceptions.DatasetsError,)
# Of a local file, this much of the start and of the end enters the fingerprint; of the first so many files.
FINGERPRINT_BYTES = 2**16
FINGERPRINT_FILES = 20_000


@dataclass(frozen=True)
class Found:
    """The splits of a data set, what pins them, and of streamed ones the files whose rows can be counted."""

    splits: Splits
    pin: str  # the Hub's commit, or a fingerprint of local files
    kind: str = ""  # parquet or webdataset
    files: dict[str, list[str]] = field(default_factory=dict)  # of each split


def open_splits(data: str, config: str | None, revision: str | None, streaming: bool, token: str | None) -> Found:
    """All splits by name; nothing but names, types and small files is read of streamed ones."""
    folder = Path(data).expanduser()
    if data == "sample":
        if config is not None:
            raise DataError(f"The embedded sample has no configurations: leave out data_config={config!r}.")
        files = {split: [str(SAMPLE / f"{split}.parquet")] for split in ("train", "test")}
        return Found(_sample(), _same(fingerprint(SAMPLE), revision, data), "parquet", files)
    if folder.is_dir():
        pin, path, commit = _same(fingerprint(folder), revision, data), str(folder), None
    else:
        path, pin = data, resolve(data, revision, token)
        commit = pin
    try:
        found = retried(lambda: _load(path, config, commit, streaming, token), f"open data set {data!r}")
    except DataError:
        raise
    except FAILURES as error:
        kind = DataUnreachable if network_error(error) else DataError
        raise kind(_load_message(data, config, error)) from error
    return Found(found[0], pin, *found[1:])


def _sample() -> Splits:
    """Read straight from the package, without a copy in the cache."""
    splits = {}
    for split in ("train", "test"):
        table = datasets.table.InMemoryTable(parquet.read_table(SAMPLE / f"{split}.parquet"))
        splits[split] = datasets.Dataset(table, split=datasets.NamedSplit(split))
    return splits


def _load(path: str, config: str | None, commit: str | None, streaming: bool, token: str | None) -> tuple:
    """The splits, and of streamed ones the kind of their files and the files, where rows can be counted."""
    options = {"name": config, "revision": commit, "token": token}
    try:
        if not streaming:
            return dict(datasets.load_dataset(path, **options)), "", {}
        builder = datasets.load_dataset_builder(path, **options)
        kind, files = _countable(builder)
        if kind == "parquet" and builder.info.features is None:
            builder.info.features = _features(next(iter(files.values()))[0], token)
        # at once, before anything stands around the decoding that datasets puts into streams of remote files
        streams = builder.as_streaming_dataset().items()
        return {name: split.decode(False) if split.features else split for name, split in streams}, kind, files
    except DataError:
        raise
    except FAILURES as error:
        failed = network_error(error) or error  # what lies behind it says whether to try again
    raise failed


def _features(file: str, token: str | None) -> datasets.Features:
    """The columns of a parquet file, as datasets finds them, but read as all else is: it takes half a reply for all."""
    size = sizes([file], token)[file]
    schema = footer(file, size, partial(fetch, file, token=token)).schema
    return datasets.Features.from_arrow_schema(schema.to_arrow_schema())


def _countable(builder: datasets.DatasetBuilder) -> tuple[str, dict[str, list[str]]]:
    """The kind of files of a data set and the files of each split; nothing where their rows cannot be counted."""
    files = {str(split): [str(file) for file in files] for split, files in (builder.config.data_files or {}).items()}
    kind = next((name for name, (made_by, _) in KINDS.items() if isinstance(builder, made_by)), "")
    if not kind or getattr(builder.config, "filters", None) is not None:
        return "", {}
    ours = [file for files in files.values() for file in files]
    known = all(file.endswith(KINDS[kind][1]) and (HUB.fullmatch(file) or "://" not in file) for file in ours)
    return (kind, files) if known else ("", {})


def _load_message(data: str, config: str | None, error: Exception) -> str:
    """One paragraph for each way in which a data set does not open."""
    said, what = " ".join(str(error).split()), f"Data set {data!r}"
    if network_error(error):
        return f"{what} cannot be read now ({reason(error)}). Try again later; data='sample' needs no network."
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        return f"{what} cannot be read: {said} {LOGIN}"
    advice = "Expected: train/<class>/<image> folders, or parquet files named after their splits."
    if "BuilderConfig" in said or "Config name is missing" in said:
        advice = "Pass data_config=... with one of them."
    if "corresponds to no data" in said:
        advice = "This split is empty: fill or remove its files."
    if "scripts are no longer supported" in said:
        advice = "Choose a copy of the data set in parquet; code from a data set is never run."
    cause = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ and not said.endswith(".") else ""
    return f"{what} (data_config={config!r}) cannot be loaded: {said}{cause} {advice}"


def network_error(error: BaseException | None) -> BaseException | None:
    """The failing request at the root of an error, if it is one that may succeed later."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return next((error for error in reversed(chain) if may_pass(error)), None)


def resolve(data: str, revision: str | None, token: str | None) -> str:
    """The full commit sha (40 digits) of a revision (default: the main branch) of a data set on the Hub."""
    if data.startswith((".", "/", "~")) or data.count("/") > 1 or os.sep == data[-1:]:
        raise DataError(
            f"There is no folder {data!r}.{_neighbours(data)} Give an existing folder, a Hub id, or 'sample'."
        )
    api = HfApi(token=token)
    try:
        return retried(lambda: api.dataset_info(data, revision=revision).sha, f"ask for the commit of {data!r}")
    except (HTTPError, OSError, HFValidationError) as error:
        unasked = isinstance(error, OfflineModeIsEnabled) or may_pass(error)
        if unasked and re.fullmatch(r"[0-9a-f]{40}", revision or ""):
            return revision  # a sha says it all, and its files may be in the cache
        raise (DataUnreachable if may_pass(error) else DataError)(_hub_message(data, revision, error)) from error


def _hub_message(data: str, revision: str | None, error: Exception) -> str:
    """One paragraph for each way in which the Hub says no."""
    status = status_of(error)
    if isinstance(error, GatedRepoError):
        return f"Data set {data!r} is gated: ask for access on its page, then log in (`hf auth login` or HF_TOKEN)."
    if isinstance(error, RevisionNotFoundError):
        return f"Data set {data!r} has no revision {revision!r}: give a branch, a tag or a commit sha, or leave it out."
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        hint = nearest(data, KNOWN) or _neighbours(data)
        return f"Data set {data!r} is neither a folder here nor readable on the Hub.{hint} {LOGIN}"
    if status in (401, 403):
        return f"The Hub refuses access to data set {data!r} ({status}). {TOKEN if status == 401 else LOGIN}"
    return (
        f"The Hub cannot be asked about data set {data!r} ({reason(error)}). Try again later, or pass "
        "revision=<commit sha> to use what is in the cache; data='sample' needs no network."
    )


def _neighbours(data: str) -> str:
    """A suggestion among the folders beside the one that was named."""
    path = Path(data).expanduser()
    if not path.parent.is_dir():
        is_path = data.startswith((".", "/", "~")) or data.count("/") > 1
        return f" (Nor is there a folder {str(path.parent)!r}.)" if is_path else ""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    return nearest(path.name, names)


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits that change with the names, sizes or content of the files in a folder.

    Content is read from both ends of each file, and in very large folders from the first files only, so that a folder
    of a million images is pinned in minutes at most.
    """
    digest = hashlib.sha256()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    for number, path in enumerate(files):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        if number < FINGERPRINT_FILES:
            with path.open("rb") as file:
                digest.update(file.read(FINGERPRINT_BYTES))
                file.seek(max(FINGERPRINT_BYTES, size - FINGERPRINT_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _same(found: str, wanted: str | None, data: str) -> str:
    """The fingerprint, or a DataError if another one was asked for."""
    if wanted is not None and wanted != found:
        raise DataError(
            f"The files of {data!r} have the fingerprint {found!r}, not revision={wanted!r}: they have changed. "
            "Restore them, or leave revision out to take them as they are."
        )
    return found
