"""The image and label columns: whether they exist and hold what they should."""

import logging
from collections.abc import Collection

import datasets
import numpy as np
import pyarrow.compute as pc

from ..errors import DataError, did_you_mean
from .labels import Labels, column_values, encode_column, named

logger = logging.getLogger(__name__)


def check_columns(
    features: datasets.Features | None,
    names: list[str],
    image: str,
    label: str | None,
    where: str,
    label_advice: str = "",
) -> None:
    """Raise DataError, with existing columns and the nearest name, unless the columns exist and one holds images.

    `label` is None if no labels are read. `label_advice`: a sentence for data without the label column.
    """
    features = features or {}
    for column, role in ((image, "image"), (label, "label")):
        if column is not None and column not in names:
            advice = _advice(features, names, column, role)
            raise DataError(
                f"The {where} has no column {column!r}; its columns are {sorted(names)}.{advice}"
                f"{label_advice if role == 'label' else ''} Pass {role}_column=... with the right one."
            )
    feature = features.get(image)
    if feature is not None and not isinstance(feature, datasets.Image) and not _holds_image_files(feature):
        raise DataError(
            f"Column {image!r} of the {where} holds {feature}, not images.{_advice(features, names, image, 'image')} "
            "Pass image_column=... with a column of images, of encoded bytes or of file paths."
        )
    if image == label:
        raise DataError(f"image_column and label_column are both {image!r} in the {where}: name two columns.")


def _advice(features: dict, names: list[str], column: str, role: str) -> str:
    wanted = datasets.Image if role == "image" else datasets.ClassLabel
    fitting = [name for name, feature in features.items() if isinstance(feature, wanted) and name != column]
    return f" Columns of type {wanted.__name__}: {fitting}." if fitting else did_you_mean(column, set(names) - {column})


def _holds_image_files(feature: object) -> bool:
    """Whether `datasets` can decode the column as images: it holds bytes, paths, or both in a struct."""
    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary", "string", "large_string")


def add_nested_column(split, column: str):
    """The split; a nested `column` is added, such as "json.label": the values of key "label" of column "json"."""
    name, *keys = column.split(".")
    feature = (split.features or {}).get(name)
    for key in keys:
        feature = feature.get(key) if isinstance(feature, dict) else None
    if column in split.features or feature is None:
        return split
    features = datasets.Features({**split.features, column: feature})
    return split.map(_nested_value, fn_kwargs={"column": column}, features=features)


def _nested_value(row: dict, column: str) -> dict:
    value = row
    for key in column.split("."):
        value = value[key]
    return {column: value}


def with_labels(dataset: datasets.Dataset, column: str | None, labels: Labels, where: str) -> datasets.Dataset:
    """The data set with its label column checked and encoded; images are not decoded."""
    if column is None:
        return dataset
    old, order = dataset.features[column], dataset.column_names
    values = column_values(dataset, column)
    encoded, feature = encode_column(values, old, labels, where)
    if old == feature and not values.null_count:
        return dataset
    return dataset.remove_columns([column]).add_column(column, encoded, feature=feature).select_columns(order)


def classes_in(dataset: datasets.Dataset, column: str) -> set[int]:
    """The class indices that occur in an encoded label column."""
    values = column_values(dataset, column).combine_chunks()
    if not isinstance(dataset.features[column], datasets.ClassLabel):
        values = pc.list_flatten(values)
    return {number for number in np.unique(values.to_numpy(zero_copy_only=False)).tolist() if number >= 0}


def unseen_classes(wanted: dict[int, str], seen: Collection[int], training: str) -> list[str]:
    """A message if some of the classes of the evaluation split, given by number, are not seen in training; else none.

    `training`: the training split in words.
    """
    names = [name for number, name in wanted.items() if number not in seen]
    return names and [
        f"{len(names)} class(es) of the evaluation split do not occur in the {training}: {named(names)}. The network "
        "cannot learn them, and their images count as errors. Add training images, or remove these classes."
    ]


def warn_of_unseen_classes(dataset: datasets.Dataset, column: str, wanted: dict[int, str], training: str) -> None:
    """Log the message of `unseen_classes` for a stored training split, if there is one."""
    for message in unseen_classes(wanted, classes_in(dataset, column), training) if wanted else ():
        logger.warning(message)
