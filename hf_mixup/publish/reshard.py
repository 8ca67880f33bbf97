"""A copy of a data set with the rows of some splits shuffled, so that each of its files holds all classes."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets.table import embed_table_storage
from huggingface_hub import HfApi

from ..data.image_paths import check_path
from ..data.open_dataset import open_splits
from ..errors import DataError, PushError, PushRefused, SaveError, did_you_mean
from ..hub.destination import FAILURES, Destination, explain

FILE_BYTES, GROUP_BYTES = 500 * 2**20, 2**22  # of a parquet file, and of a row group
ROWS = 1000  # rows whose paths are checked together
SAMPLE = 100  # rows whose mean size is taken for all


def shuffled_copy(
    data: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    splits: Sequence[str] = ("train",),
    seed: int = 0,
) -> datasets.DatasetDict:
    """All splits of a data set, stored, with the rows of `splits` in a random order; images are not decoded.

    `data`, `config` and `revision` as for `load_data`. DataError for a split that does not exist.
    """
    source = open_splits(data, config, revision, streaming=False, token=None)
    found = source.splits
    for name in splits:
        if name not in found:
            raise DataError(
                f"{data!r} has no split {name!r}.{did_you_mean(name, found)} Choose of: {', '.join(found)}."
            )
    for rows in found.values():
        _check_paths(rows, source.home)
    return datasets.DatasetDict(
        {name: rows.shuffle(seed=seed) if name in splits else rows for name, rows in found.items()}
    )


def _check_paths(rows: datasets.Dataset, home: str) -> None:
    """DataError if a cell names a file outside the data set: `datasets` would read it and write it into the copy."""
    for column in rows.with_format("arrow").iter(ROWS):
        for array in column.itercolumns():
            for path in _paths(array.combine_chunks()):
                check_path(path, home, "A cell")


def _paths(array: pa.Array) -> list[str]:
    """The paths of files that are not stored in the cells of an Arrow array, also in nested ones."""
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _paths(array.flatten())
    if not isinstance(array, pa.StructArray):
        return []
    names = [array.type.field(number).name for number in range(array.type.num_fields)]
    if {"bytes", "path"} <= {*names}:
        missing = pc.and_(pc.is_null(array.field("bytes")), pc.is_valid(array.field("path")))
        return array.field("path").filter(missing).to_pylist()
    return [path for name in names for path in _paths(array.field(name))]


def write_folder(copy: datasets.DatasetDict, folder: Path) -> None:
    """Write the splits as parquet files with the images in them; SaveError if the folder is not empty or cannot be
    written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SaveError(f"{folder} exists and is not an empty folder: choose another one.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in copy.items():
            _write_split(rows, name, folder)
    except OSError as error:
        raise SaveError(f"{folder} could not be written ({error}): make space, or choose another folder.") from error


def _write_split(rows: datasets.Dataset, name: str, folder: Path) -> None:
    rows = rows.with_format("arrow")
    sample = embed_table_storage(rows[: min(SAMPLE, len(rows))])
    row_bytes = max(1, sample.nbytes // max(1, sample.num_rows))
    files = -(-len(rows) * row_bytes // FILE_BYTES) or 1
    group = max(1, min(GROUP_BYTES // row_bytes, len(rows)))
    for number in range(files):
        part = rows.shard(files, number, contiguous=True)
        embedded = part.map(embed_table_storage, batched=True, batch_size=group, load_from_cache_file=False)
        embedded.to_parquet(folder / f"{name}-{number:05}-of-{files:05}.parquet", batch_size=group)


def push_copy(copy: datasets.DatasetDict, destination: Destination) -> str:
    """Push the splits as parquet files to a repository for data sets, and return its URL; PushError if this fails."""
    api, repo = HfApi(), destination.repo
    try:
        if not (exists := api.repo_exists(repo, repo_type="dataset")):
            copy.push_to_hub(repo, private=destination.private, max_shard_size=FILE_BYTES)
    except FAILURES as error:
        raise PushError(f"The copy could not be pushed to {repo!r}: {explain(error, destination)}") from None
    if exists:
        raise PushRefused(f"The data set {repo!r} exists: choose another name, so that nothing is overwritten.")
    return f"{api.endpoint}/datasets/{repo}"
