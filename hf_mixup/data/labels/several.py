"""Any number of classes per image: lists of integers, strings or ClassLabel, or rows of zeros and ones."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ...errors import DataError
from ._base import Labels, advice, is_list, is_number, is_text, item_feature, label_error
from .classes import MISSING, classes_of, indices_of, merged_index


def describe(kind, feature, values: pa.ChunkedArray, where: str, class_names, unlabelled: bool) -> Labels:
    """The classes of a column of lists. Rows of zeros and ones are found by `is_multi_hot`."""
    if not is_list(values.type) or not (is_text(values.type.value_type) or is_number(values.type.value_type)):
        raise DataError(
            f"The label column of {where} holds {advice(values.type)}. A multi-label task requires lists of class "
            "numbers or names, or rows of zeros and ones: pass label_column=... with such a column."
        )
    items = pc.list_flatten(values)
    if is_multi_hot(values, item_feature(feature)):
        size = len(values[0].as_py())
        names = class_names or [str(number) for number in range(size)]
        if len(names) != size:
            raise DataError(f"class_names has {len(names)} names, but the labels of {where} are rows of {size}.")
        return Labels(kind, names, size, multi_hot=True)
    if pa.types.is_floating(items.type):
        raise DataError(
            f"The label column of {where} holds rows of numbers that are not all zeros and ones, or not equally long: "
            "a multi-label task requires 1 for each class of the image, 0 for the others."
        )
    names, index = classes_of(item_feature(feature), items, where, class_names)
    return Labels(kind, names, len(names), index)


def is_multi_hot(values: pa.ChunkedArray, feature: object) -> bool:
    """Whether lists are rows of zeros and ones: equally long, all values 0 or 1, and not lists of different classes.

    Rows of one integer, and pairs of the integers 0 and 1 in which none is repeated, are lists of classes.
    """
    items = pc.list_flatten(values)
    if isinstance(feature, datasets.ClassLabel) or not is_number(items.type) or not len(items) or values.null_count:
        return False
    lengths = set(pc.unique(pc.list_value_length(values)).to_pylist())
    if len(lengths) != 1 or not set(pc.unique(items.cast(pa.float64())).to_pylist()) <= {0.0, 1.0}:
        return False
    [length] = lengths
    if pa.types.is_floating(items.type) or pa.types.is_boolean(items.type) or length > 2:
        return True
    rows = items.to_numpy(zero_copy_only=False).reshape(-1, length) if length else np.empty((0, 0))
    return length == 2 and bool((rows[:, 0] == rows[:, 1]).any())


def encode_column(values: pa.ChunkedArray, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """Lists of class indices, in increasing order."""
    if not is_list(values.type):
        raise DataError(f"The labels of {where} are {advice(values.type)}, but those of the training split are lists.")
    if values.null_count:
        row = values.is_null().to_numpy().argmax()
        raise DataError(
            f"Row {row} of {where} has no list of labels ({values.null_count} such row(s)): give an empty list for an "
            "image without a class."
        )
    values = values.combine_chunks()
    rows = np.repeat(np.arange(len(values)), pc.list_value_length(values).to_numpy(zero_copy_only=False))
    if labels.multi_hot:
        indices = _ones(values, rows, labels, where)
        rows, indices = rows[indices >= 0], indices[indices >= 0]
    else:
        indices = indices_of(pc.list_flatten(values), item_feature(feature), labels, where)
        if (wrong := np.flatnonzero(indices == MISSING)).size:
            value, row = pc.list_flatten(values)[int(wrong[0])].as_py(), f"Row {rows[wrong[0]]} of {where}"
            raise DataError(label_error(value, row, labels.classes))
    order = np.lexsort((indices, rows))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(values)))])
    encoded = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(indices[order], pa.int64()))
    return encoded.cast(pa.list_(pa.int64())), datasets.List(datasets.ClassLabel(names=labels.classes))


def _ones(values: pa.Array, rows: np.ndarray, labels: Labels, where: str) -> np.ndarray:
    """The class index of each item that is one, -1 of each that is zero."""
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    items = pc.list_flatten(values).cast(pa.float64()).to_numpy(zero_copy_only=False)
    wrong_length = np.flatnonzero(lengths != labels.size)
    wrong_value = rows[~np.isin(items, (0, 1))]
    if len(wrong_length) or len(wrong_value):
        row = int(min([*wrong_length[:1], *wrong_value[:1]]))
        raise DataError(
            f"Row {row} of {where} has the labels {values[row].as_py()!r}: give {labels.size} zeros and ones, as in the "
            "other rows."
        )
    return np.where(items == 1, np.tile(np.arange(labels.size), len(values)), -1)


def encode_value(value: object, feature: object, labels: Labels, row: str) -> torch.Tensor:
    """float32 (K,), 1 for each class of a list."""
    if not isinstance(value, list | tuple | np.ndarray):
        raise DataError(f"{row} has the label {value!r}: a multi-label task requires lists of classes.")
    if labels.multi_hot:
        hot = torch.tensor([float(item) for item in value])
        if len(hot) != labels.size or not bool(((hot == 0) | (hot == 1)).all()):
            raise DataError(f"{row} has the labels {value!r}: give {labels.size} zeros and ones.")
        return hot
    index = merged_index(item_feature(feature), labels, "the training split")
    if index is None:
        by_name = {name: number for number, name in enumerate(labels.classes)}
        index = by_name | {number: number for number in range(len(labels.classes))}
    hot = torch.zeros(labels.size)
    for item in value:
        if item not in index:
            raise DataError(
                f"{label_error(item, row, labels.classes)} A stream without class names takes its classes from the "
                "evaluation split."
            )
        hot[index[item]] = 1
    return hot


def column_labels(dataset: datasets.Dataset, column: str, labels: Labels) -> torch.Tensor:
    """bool (rows, K); as floats in a batch."""
    values = dataset.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    hot = np.zeros((len(values), labels.size), dtype=bool)
    rows = np.repeat(np.arange(len(values)), pc.list_value_length(values).to_numpy(zero_copy_only=False))
    hot[rows, pc.list_flatten(values).to_numpy(zero_copy_only=False)] = True
    return torch.from_numpy(hot)
