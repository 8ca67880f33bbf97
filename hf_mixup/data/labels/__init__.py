"""Label columns by kind: what a column holds, checked as a whole, and its values as tensors.

| kind | column | labels of a batch |
|---|---|---|
| class | integers, strings, ClassLabel | int64 (B,), class indices |
| classes | lists of these, or rows of zeros and ones | float32 (B, K), 1 for each class of the image |
| number | numbers | float32 (B,) |
| vector | lists of numbers, equally long | float32 (B, D) |
| none | no column is read | none |
"""

from types import ModuleType

import datasets
import pyarrow as pa

from ...errors import DataError
from . import classes, numbers, several
from ._base import NONE, Labels

KINDS: dict[str, ModuleType] = {"class": classes, "classes": several, "number": numbers, "vector": numbers}


def check_kind(kind: str) -> None:
    """Raise DataError if label columns of this kind cannot be read."""
    if kind not in (*KINDS, "none"):
        raise DataError(
            f"Labels of kind {kind!r} cannot be read from a column. Choose one of: {', '.join(KINDS)}, none."
        )


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
    return KINDS[kind].describe(kind, feature, values, where, class_names, unlabelled)


def encode_column(values: pa.ChunkedArray, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """A label column as class indices, lists of class indices or floats, with its feature; DataError names the row."""
    return KINDS[labels.kind].encode_column(values, feature, labels, where)


def encode_value(value: object, feature: object, labels: Labels, row: str):
    """One label of a stream, as an item of a batch; DataError with `row`, its place in words."""
    return KINDS[labels.kind].encode_value(value, feature, labels, row)


def column_labels(dataset: datasets.Dataset, column: str | None, labels: Labels):
    """The labels of all rows of an encoded column, as a tensor; None without labels."""
    return None if labels.kind == "none" else KINDS[labels.kind].column_labels(dataset, column, labels)


__all__ = ["NONE", "Labels", "check_kind", "column_labels", "describe_labels", "encode_column", "encode_value"]
