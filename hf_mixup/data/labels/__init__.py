"""Label columns by kind: what a column holds, checked as a whole, and its values as tensors.

| kind | column | labels of a batch |
|---|---|---|
| class | integers, strings, ClassLabel | int64 (B,), class indices |
| classes | lists of these, or rows of zeros and ones | float32 (B, K), 1 for each class of the image |
| number | numbers | float32 (B,) |
| vector | lists of numbers, equally long | float32 (B, D) |
| none | no column is read | none |
"""

from collections.abc import Callable
from types import ModuleType

import datasets
import pyarrow as pa

from ...errors import DataError
from . import classes, numbers, several
from ._base import NONE, Labels, as_array, brief, column_values, named, names_of

KINDS: dict[str, ModuleType] = {"class": classes, "classes": several, "number": numbers, "vector": numbers}


def check_kind(kind: str, class_names: list[str] | None = None) -> None:
    """Raise DataError if label columns of this kind cannot be read, or if `class_names` are not names of classes."""
    if kind not in (*KINDS, "none"):
        raise DataError(
            f"Labels of kind {kind!r} cannot be read from a column. Choose one of: {', '.join(KINDS)}, none."
        )
    if class_names is None:
        return
    if kind not in ("class", "classes"):
        raise DataError(
            f"class_names is {brief(class_names)}, but labels of kind {kind!r} have no classes: leave it out."
        )
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names) or not class_names:
        raise DataError(f"class_names is {brief(class_names)}: give a list of texts, one for each class.")
    if duplicates := sorted({name for name in class_names if class_names.count(name) > 1}):
        raise DataError(f"class_names has {duplicates[0]!r} more than once: give each class a name of its own.")


def describe_labels(
    kind: str,
    feature: object,
    values: pa.ChunkedArray,
    where: str,
    class_names: list[str] | None = None,
    unlabelled: bool = False,
) -> Labels:
    """What a label column holds. `values`: the column of the training split, or of the evaluation split of a stream.

    `class_names`: the user's names of the classes, in order. `unlabelled`: rows may have no label (None or -1).
    Raises DataError, with the way out, for a column of another kind.
    """
    check_kind(kind, class_names)
    names = None if class_names is None else list(class_names)
    return KINDS[kind].describe(kind, feature, as_array(values), where, names, unlabelled)


def encode_column(values: pa.ChunkedArray, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """A label column as class indices, lists of class indices or floats, with its feature; DataError names the row."""
    return KINDS[labels.kind].encode_column(as_array(values), feature, labels, where)


def value_encoder(feature: object, labels: Labels) -> Callable[[object, str], object]:
    """A function of one label of a stream and its place in words, for messages; it returns the label of an item.

    `feature` is that of the streamed column. The function raises DataError for a label that does not fit.
    """
    return KINDS[labels.kind].value_encoder(feature, labels)


def column_labels(dataset: datasets.Dataset, column: str | None, labels: Labels):
    """The labels of all rows of an encoded column, as a tensor; None without labels."""
    if labels.kind == "none":
        return None
    return KINDS[labels.kind].column_labels(as_array(column_values(dataset, column)), labels, column)


__all__ = [
    "NONE",
    "Labels",
    "check_kind",
    "column_labels",
    "column_values",
    "describe_labels",
    "encode_column",
    "named",
    "names_of",
    "value_encoder",
]
