"""One class per image: integers, strings or ClassLabel."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ...errors import DataError
from ._base import Labels, advice, is_text, label_error, names_of

MISSING = -1  # marks a row without a label


def describe(kind, feature, values: pa.ChunkedArray, where: str, class_names, unlabelled: bool) -> Labels:
    """The classes: names of a ClassLabel, `class_names`, or the values that occur, sorted, as names."""
    if not (is_text(values.type) or pa.types.is_integer(values.type)):
        raise DataError(
            f"The label column of {where} holds {advice(values.type)}. Or pass label_column=... with a column of "
            "integers, strings or ClassLabel."
        )
    names, index = classes_of(feature, values, where, class_names)
    return Labels(kind, names, len(names), index, unlabelled=unlabelled)


def classes_of(
    feature: object, values: pa.ChunkedArray, where: str, class_names: list[str] | None
) -> tuple[list[str], dict | None]:
    """Class names, and the class index of each value that occurs; None with a ClassLabel, whose values are indices."""
    names = names_of(feature)
    if names is not None:
        if class_names is None or class_names == names:
            return names, None
        _check_renamed(names, class_names, where)
        return class_names, {old: class_names.index(name) for old, name in enumerate(names)}
    found = pc.unique(values).drop_null().to_pylist()
    found = sorted(value for value in found if value != MISSING)
    if class_names is not None:
        return class_names, _given_index(found, class_names, where)
    if not found:
        raise DataError(f"The label column of {where} holds no label: choose another column or split.")
    return [str(value) for value in found], {value: number for number, value in enumerate(found)}


def _check_renamed(names: list[str], class_names: list[str], where: str) -> None:
    if sorted(names) != sorted(class_names):
        raise DataError(
            f"class_names has {len(class_names)} names, {class_names[:5]}, but the classes of {where} are {names[:5]} "
            f"({len(names)}): give the same names, in the order you want, or leave class_names out."
        )


def _given_index(found: list, class_names: list[str], where: str) -> dict:
    """The class index of each value, for the user's names: strings are names, integers are positions."""
    if len(set(class_names)) != len(class_names):
        raise DataError(f"class_names has duplicates: {class_names[:10]}. Give each class one name.")
    known = class_names if found and isinstance(found[0], str) else range(len(class_names))
    if unknown := [value for value in found if value not in known]:
        raise DataError(
            f"The label column of {where} holds {unknown[0]!r}, but class_names has {len(class_names)} names, "
            f"{class_names[:5]}: give a name for each class, at the position of its number."
        )
    return {value: position for position, value in enumerate(known)}


def merged_index(feature: object, labels: Labels, where: str) -> dict | None:
    """The class index of each value of a column with this feature; None if its values are indices already.

    DataError if the column is a ClassLabel with other classes than `labels`.
    """
    names = names_of(feature)
    if names is None:
        return labels.index
    if names == labels.classes:
        return None
    if unknown := sorted(set(names) - set(labels.classes)):
        raise DataError(
            f"The label column of {where} has the classes {names[:5]} ({len(names)}), among them {unknown[0]!r}, but "
            f"those of the training split are {labels.classes[:5]} ({len(labels.classes)}): use the same classes in "
            "both splits."
        )
    return {old: labels.classes.index(name) for old, name in enumerate(names)}


def encode_column(values: pa.ChunkedArray, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """Class indices as a ClassLabel column; integers without a feature if rows may be unlabelled."""
    indices = indices_of(values, feature, labels, where)
    wrong = np.flatnonzero(indices == MISSING) if not labels.unlabelled else _unknown(values, indices)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(label_error(values[row].as_py(), f"Row {row} of {where}", labels.classes, len(wrong)))
    return pa.array(indices), datasets.ClassLabel(names=labels.classes)


def _unknown(values: pa.ChunkedArray, indices: np.ndarray) -> np.ndarray:
    """The rows with a label that is not one of the classes, and not missing."""
    missing = values.is_null().to_numpy()
    if pa.types.is_integer(values.type):
        missing |= pc.fill_null(pc.equal(values, MISSING), True).to_numpy()
    return np.flatnonzero((indices == MISSING) & ~missing)


def indices_of(values: pa.ChunkedArray | pa.Array, feature: object, labels: Labels, where: str) -> np.ndarray:
    """The class indices, int64 (rows,); MISSING where a value is not one of the classes."""
    if not (is_text(values.type) or pa.types.is_integer(values.type)):
        raise DataError(
            f"The labels of {where} are {values.type}, but the labels of the training split have another type: use "
            "the same type in both splits."
        )
    index = merged_index(feature, labels, where)
    if index is None and is_text(values.type):
        index = {name: number for number, name in enumerate(labels.classes)}
    if index is None:
        indices = pc.fill_null(values.cast(pa.int64()), MISSING).to_numpy(zero_copy_only=False).copy()
        indices[(indices < 0) | (indices >= len(labels.classes))] = MISSING
        return indices
    dtype = pa.large_string() if is_text(values.type) else pa.int64()
    keys = [key for key in index if isinstance(key, str) == is_text(values.type)]
    found = pc.index_in(values.cast(dtype), pa.array(keys, dtype))
    table = np.array([*(index[key] for key in keys), MISSING])
    return table[pc.fill_null(found, len(keys)).to_numpy(zero_copy_only=False)]


def encode_value(value: object, feature: object, labels: Labels, row: str) -> int:
    """The class index of one value."""
    index = merged_index(feature, labels, "the training split")
    known = not isinstance(value, bool) and isinstance(value, int | str)
    if index is None and isinstance(value, str):
        index = {name: number for number, name in enumerate(labels.classes)}
    if index is None:
        number = value if known and 0 <= value < len(labels.classes) else None
    else:
        number = index.get(value) if known else None
    if number is None and labels.unlabelled and value in (None, MISSING):
        return MISSING
    if number is None:
        message = label_error(value, row, labels.classes)
        if value not in (None, MISSING):
            message += " A stream without class names takes its classes from the evaluation split."
        raise DataError(message)
    return number


def column_labels(dataset: datasets.Dataset, column: str, labels: Labels) -> torch.Tensor:
    """int64 (rows,)."""
    return torch.from_numpy(integers(dataset.select_columns([column]).with_format("arrow")[:][column], column))


def integers(values: pa.ChunkedArray, column: str) -> np.ndarray:
    """The class indices of an encoded column."""
    if not pa.types.is_integer(values.type) or values.null_count:
        raise DataError(
            f"The label column {column!r} holds {values.type} with {values.null_count} empty cell(s), not class "
            "indices: load the data with load_data, which encodes and checks labels."
        )
    return np.array(values.to_numpy(), dtype=np.int64)
