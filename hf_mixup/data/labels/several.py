"""Any number of classes per image: lists of integers, strings or ClassLabel, or rows of zeros and ones."""

from functools import partial

import datasets
import numpy as np
import pyarrow as pa
import torch

from ...errors import DataError
from ._base import (
    Labels,
    advice,
    brief,
    equal_to,
    is_list,
    is_number,
    is_text,
    item_feature,
    label_error,
    lists_of,
    named,
    plain,
)
from .classes import FROM_EVALUATION, Index, classes_of, index_of, indices_of


def describe(kind, feature, values: pa.Array, where: str, class_names, unlabelled: bool) -> Labels:
    """The classes of a column of lists. The length of rows of zeros and ones is found by `hot_length`."""
    dtype = values.type.value_type if is_list(values.type) else None
    if dtype is None or not (is_text(dtype) or is_number(dtype) or pa.types.is_null(dtype)):
        raise DataError(
            f"The label column of {where} holds {advice(values)}. A multi-label task requires lists of class numbers "
            "or names, or rows of zeros and ones: pass label_column=... with such a column."
        )
    if size := hot_length(values, item_feature(feature)):
        names = class_names or [str(number) for number in range(size)]
        if len(names) != size:
            raise DataError(
                f"class_names has {len(names)} names ({named(names)}), but the labels of {where} are rows of {size} "
                "zeros and ones: give one name for each column."
            )
        return Labels(kind, names, size, multi_hot=True)
    if pa.types.is_floating(dtype):
        raise DataError(
            f"The label column of {where} holds {advice(values)}. A multi-label task requires 1 for each class of the "
            "image and 0 for the others, or lists of class numbers as integers."
        )
    names, index = classes_of(item_feature(feature), lists_of(values)[1], where, class_names)
    return Labels(kind, names, len(names), index)


def hot_length(values: pa.Array, feature: object) -> int:
    """The length of rows of zeros and ones; 0 for lists of classes.

    Most lists must be of one length and hold only zeros and ones: others are reported when the column is encoded.
    Integers must also show that they are not class numbers: in a row that has 0 or 1 twice, or by pairs of both only.
    """
    lengths, items = lists_of(values)
    if isinstance(feature, datasets.ClassLabel) or not is_number(items.type) or not len(items):
        return 0
    ones, zeros = (_sums(equal_to(items, number), lengths) for number in (1, 0))
    length = int(np.bincount(lengths[lengths > 0]).argmax())
    hot = (lengths == length) & (ones + zeros == length)
    if 2 * hot.sum() <= (lengths >= 0).sum():
        return 0
    if pa.types.is_floating(items.type) or pa.types.is_boolean(items.type):
        return length
    return length if length > 1 and (np.maximum(ones, zeros)[hot].max() > 1 or hot.all()) else 0


def _sums(flags: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The number of set flags in each list."""
    totals = np.zeros(len(flags) + 1, dtype=np.int32 if len(flags) < 2**31 else np.int64)
    np.cumsum(flags, out=totals[1:])
    stops = np.cumsum(np.maximum(lengths, 0))
    return totals[stops] - totals[stops - np.maximum(lengths, 0)]


def encode_column(values: pa.Array, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """Lists of class indices, in increasing order."""
    _check_lists(values, labels, where)
    lengths, items = lists_of(values)
    if labels.multi_hot:
        rows, indices = _ones(values, labels, where)
    else:
        rows = np.repeat(np.arange(len(values)), lengths)
        if hot_length(values, item_feature(feature)) > 2:
            raise DataError(
                f"The label column of {where} holds rows of zeros and ones, but that of the training split lists of "
                "classes: use the same form in both splits."
            )
        indices = indices_of(items, item_feature(feature), labels, where)
        if (wrong := np.flatnonzero(indices < 0)).size:
            value, row = items[int(wrong[0])].as_py(), f"Row {rows[wrong[0]]} of {where}"
            raise DataError(label_error(value, row, labels.classes, len(np.unique(rows[wrong]))))
    order = np.lexsort((indices, rows))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(values)))])
    encoded = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(indices[order], pa.int64()))
    return encoded.cast(pa.list_(pa.int64())), datasets.List(datasets.ClassLabel(names=labels.classes))


def _check_lists(values: pa.Array, labels: Labels, where: str) -> None:
    """DataError if the column does not hold lists of the training split's kind, or a row has none."""
    dtype = values.type.value_type if is_list(values.type) else None
    fits = dtype is not None and (
        is_number(dtype) if labels.multi_hot else is_text(dtype) or pa.types.is_integer(dtype)
    )
    if not fits and not (dtype is not None and pa.types.is_null(dtype)):
        form = "rows of zeros and ones" if labels.multi_hot else "lists of classes"
        raise DataError(
            f"The label column of {where} holds {advice(values)}. Those of the training split are {form}: use the same "
            "kind of labels in both splits."
        )
    if values.null_count:
        row = int(values.is_null().to_numpy(zero_copy_only=False).argmax())
        raise DataError(_no_list(None, f"Row {row} of {where}") + f" Such rows: {values.null_count}.")


def _no_list(value: object, row: str) -> str:
    return f"{row} has the label {brief(value)}: give a list of classes, an empty one for an image without a class."


def _ones(values: pa.Array, labels: Labels, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Row and class index of each item that is one; DataError for rows of another length or with other values."""
    lengths, items = lists_of(values)
    ones = equal_to(items, 1)
    wrong = (lengths != labels.size) | (_sums(ones | equal_to(items, 0), lengths) != lengths)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(_not_hot(values[row].as_py(), f"Row {row} of {where}", labels))
    return np.divmod(np.flatnonzero(ones), labels.size)


def _not_hot(value: object, row: str, labels: Labels) -> str:
    return (
        f"{row} has the label {brief(value)}: give {labels.size} zeros and ones, as in most rows. (If the numbers are "
        "classes, list each class of an image once.)"
    )


def value_encoder(feature: object, labels: Labels):
    """A function of a list and its place that returns float32 (K,), 1 for each class."""
    if labels.multi_hot:
        return partial(_encode_hot, labels)
    return partial(_encode_list, index_of(item_feature(feature), labels, "the training split"), labels)


def _encode_hot(labels: Labels, value: object, row: str) -> torch.Tensor:
    value = plain(value)
    if not isinstance(value, list | tuple):
        raise DataError(_no_list(value, row))
    if len(value) != labels.size or not all(isinstance(item, int | float) and item in (0, 1) for item in value):
        raise DataError(_not_hot(value, row, labels))
    return torch.tensor(value, dtype=torch.float32)


def _encode_list(index: Index, labels: Labels, value: object, row: str) -> torch.Tensor:
    value = plain(value)
    if not isinstance(value, list | tuple):
        raise DataError(_no_list(value, row))
    hot = torch.zeros(labels.size)
    for item in value:
        number = index.get(item) if isinstance(item, int | str) else None
        if number is None:
            raise DataError(label_error(item, row, labels.classes) + FROM_EVALUATION)
        hot[number] = 1
    return hot


def column_labels(values: pa.Array, labels: Labels, column: str) -> torch.Tensor:
    """bool (rows, K); as floats in a batch."""
    lengths, items = lists_of(values)
    hot = np.zeros((len(lengths), labels.size), dtype=bool)
    hot[np.repeat(np.arange(len(lengths)), lengths), items.to_numpy(zero_copy_only=False)] = True
    return torch.from_numpy(hot)
