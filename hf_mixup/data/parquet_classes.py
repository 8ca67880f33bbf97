"""ClassLabel columns of parquet files: `datasets` gives all files the names of the first one, here each has its own."""

from contextlib import suppress
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from ..errors import DataError
from .labels import named, names_of
from .streaming.remote_files import HUB_FILE

Classes = dict[str, list[str]]  # the class names of each ClassLabel column, or column of lists of classes


def file_classes(schema: pa.Schema) -> Classes:
    """The classes that a file records."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    features = datasets.Features.from_arrow_schema(schema)
    return {column: names for column, feature in features.items() if (names := names_of(feature)) is not None}


def with_own_classes(
    splits: dict[str, datasets.Dataset], path: str, commit: str | None, builder: datasets.DatasetBuilder
) -> dict[str, datasets.Dataset]:
    """The splits, each with the class names of its own files.

    `builder` loaded them from the folder `path`, or from a commit on the Hub.
    DataError if those of one split differ.
    """
    first = next(iter(splits.values()))
    if first.info.builder_name != "parquet" or not any(names_of(feature) for feature in first.features.values()):
        return dict(splits)
    found, root = {}, Path(path) if commit is None else _snapshot(path, commit)
    for file in root.rglob("*.parquet"):
        with suppress(OSError, pa.ArrowException):  # a file that no split needs
            found[file.resolve()] = file_classes(pq.read_schema(file))
    if all(classes == next(iter(found.values())) for classes in found.values()):
        return dict(splits)
    files = builder.config.data_files or {}
    return {
        name: _restore(split, _classes_of_split(files.get(name, []), root, found)) for name, split in splits.items()
    }


def _snapshot(repo: str, commit: str) -> Path:
    """The folder of the cache in which the files of a commit are."""
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="dataset") / "snapshots" / commit


def _classes_of_split(files: list[str], root: Path, found: dict[Path, Classes]) -> Classes:
    """The classes that all files of a split record."""
    paths = [(str(file), HUB_FILE.fullmatch(str(file))) for file in files]
    paths = [(file, (root / match[3] if match else Path(file)).resolve()) for file, match in paths]
    known = [(file, found[path]) for file, path in paths if path in found]
    for file, classes in known:
        for column, names in known[0][1].items():
            if names != (other := classes.get(column, names)):
                raise DataError(
                    f"Column {column!r} of {file} has the classes {named(other)} ({len(other)}), but that of "
                    f"{known[0][0]} has {named(names)} ({len(names)}): write both with the same ClassLabel."
                )
    return known[0][1] if known else {}


def _restore(split: datasets.Dataset, classes: Classes) -> datasets.Dataset:
    features = split.features.copy()
    for column, names in classes.items():
        if column in features and names_of(features[column]) not in (None, names):
            features[column] = _renamed(features[column], names)
    if features == split.features:
        return split
    info = split.info.copy()
    info.features = features
    return datasets.Dataset(split.data, info=info, split=split.split)


def _renamed(feature: object, names: list[str]) -> object:
    """The feature, a ClassLabel or a list of it, with other names."""
    label = datasets.ClassLabel(names=names)
    if isinstance(feature, datasets.ClassLabel):
        return label
    if isinstance(feature, datasets.LargeList):
        return datasets.LargeList(label)
    return datasets.List(label, length=feature.length)


def class_numbers(schema: pa.Schema, column: str | None, feature: object, file: str) -> dict[int, int] | None:
    """The class index that `feature` has for each class of the column of a file; None if both are equal.

    DataError if the file has other classes.
    """
    wanted, names = names_of(feature), file_classes(schema).get(column)
    if wanted is None or names is None or names == wanted:
        return None
    if unknown := [name for name in names if name not in wanted]:
        raise DataError(
            f"Column {column!r} of {file} has the classes {named(names)} ({len(names)}), among them {unknown[0]!r}, "
            f"but that of the first file has {named(wanted)} ({len(wanted)}): use the same classes in all files."
        )
    return {number: wanted.index(name) for number, name in enumerate(names)}


def renumbered(value: object, numbers: dict[int, int]) -> object:
    """A class number, or a list of them, with other numbers; values that are not classes are unchanged."""
    if isinstance(value, list):
        return [renumbered(item, numbers) for item in value]
    return numbers.get(value, value)
