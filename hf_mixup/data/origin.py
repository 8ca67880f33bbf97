"""Where data comes from: the embedded sample, a local folder or the Hub; its splits, and what pins their content."""

import hashlib
import os
import re
import time
from pathlib import Path

import datasets
import pyarrow.parquet as parquet
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import DataError, nearest

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
# A request for the commit is tried this often; huggingface_hub does not repeat it.
TRIES = 3
# Of a local file, this much of the start and of the end enters the fingerprint; of the first so many files.
FINGERPRINT_BYTES = 2**16
FINGERPRINT_FILES = 20_000


def open_splits(
    data: str, config: str | None, revision: str | None, streaming: bool, token: str | None
) -> tuple[Splits, str]:
    """All splits by name, and what pins them: the Hub's commit, or a fingerprint of local files."""
    folder = Path(data).expanduser()
    if data == "sample":
        if config is not None:
            raise DataError(f"The embedded sample has no configurations: leave out data_config={config!r}.")
        return _sample(), _same(fingerprint(SAMPLE), revision, data)
    if folder.is_dir():
        return _load(str(folder), config, None, streaming, token), _same(fingerprint(folder), revision, data)
    commit = resolve(data, revision, token)
    return _load(data, config, commit, streaming, token), commit


def _sample() -> Splits:
    """Read straight from the package, without a copy in the cache."""
    splits = {}
    for split in ("train", "test"):
        table = datasets.table.InMemoryTable(parquet.read_table(SAMPLE / f"{split}.parquet"))
        splits[split] = datasets.Dataset(table, split=datasets.NamedSplit(split))
    return splits


def _load(path: str, config: str | None, commit: str | None, streaming: bool, token: str | None) -> Splits:
    """datasets' own loading, with its errors told in one paragraph."""
    try:
        return dict(datasets.load_dataset(path, config, revision=commit, streaming=streaming, token=token))
    except DatasetNotFoundError as error:
        advice = "Ask for access on its page and log in (`hf auth login`, or HF_TOKEN), then try again."
        raise DataError(f"Data set {path!r} cannot be read: {error} {advice}") from error
    except (FileNotFoundError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        advice = "Expected: train/<class>/<image> folders, or parquet files named after their splits."
        if "corresponds to no data" in str(error):
            advice = "This split is empty: fill or remove its files."
        if "scripts are no longer supported" in str(error):
            advice = "Choose a copy of the data set in parquet; code from a data set is never run."
        raise DataError(f"Data set {path!r} (data_config={config!r}) cannot be loaded: {error} {advice}") from error


def resolve(data: str, revision: str | None, token: str | None) -> str:
    """The full commit sha (40 digits) of a revision (default: the main branch) of a data set on the Hub."""
    if data.startswith((".", "/", "~")) or data.count("/") > 1 or os.sep == data[-1:]:
        raise DataError(
            f"There is no folder {data!r}.{_neighbours(data)} Give an existing folder, a Hub id, or 'sample'."
        )
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return revision
    attempt = 1
    while True:
        try:
            return HfApi(token=token).dataset_info(data, revision=revision).sha
        except (HTTPError, OSError, HFValidationError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            refused = status is not None and status < 500 and status != 429
            if refused or attempt == TRIES or isinstance(error, (OfflineModeIsEnabled, HFValidationError)):
                raise DataError(_hub_message(data, revision, error, status)) from error
            time.sleep(attempt)
            attempt += 1


def _hub_message(data: str, revision: str | None, error: Exception, status: int | None) -> str:
    """One paragraph for each way in which the Hub says no."""
    if isinstance(error, GatedRepoError):
        return f"Data set {data!r} is gated: ask for access on its page, then log in (`hf auth login` or HF_TOKEN)."
    if isinstance(error, RevisionNotFoundError):
        return f"Data set {data!r} has no revision {revision!r}: give a branch, a tag or a commit sha, or leave it out."
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        hint = nearest(data, KNOWN) or _neighbours(data)
        return (
            f"Data set {data!r} is neither a folder here nor readable on the Hub.{hint} "
            "If it is private, log in (`hf auth login`, or HF_TOKEN)."
        )
    if status in (401, 403):
        return f"The Hub refuses access to data set {data!r} ({status}): log in (`hf auth login`, or HF_TOKEN)."
    return (
        f"The Hub cannot be asked about data set {data!r} ({error}). Try again later, or pass revision=<commit sha> "
        "to use what is in the cache; data='sample' needs no network."
    )


def _neighbours(data: str) -> str:
    """A suggestion among the folders beside the one that was named."""
    path = Path(data).expanduser()
    if not path.parent.is_dir():
        return f" (Nor is there a folder {str(path.parent)!r}.)"
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
