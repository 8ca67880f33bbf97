"""One class per image: integers, strings or ClassLabel."""

from functools import partial

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ...errors import DataError
from ._base import Labels, advice, is_text, label_error, named, names_of, plain

MISSING = -1  # marks a row without a label
WRONG = -2  # marks a label that is not one of the classes
FROM_EVALUATION = (
    " A stream without ClassLabel takes its classes from the evaluation split: if it lacks some, give class_names."
)
Index = dict[int | str, int]


def describe(kind, feature, values: pa.Array, where: str, class_names, unlabelled: bool) -> Labels:
    """The classes: names of a ClassLabel, `class_names`, or the values that occur, sorted, as names."""
    if not (_holds_classes(values.type) or pa.types.is_null(values.type)):
        raise DataError(
            f"The label column of {where} holds {advice(values)}. Or pass label_column=... with a column of integers, "
            "strings or ClassLabel."
        )
    names, index = classes_of(feature, values, where, class_names)
    return Labels(kind, names, len(names), index, unlabelled=unlabelled)


def _holds_classes(dtype: pa.DataType) -> bool:
    return is_text(dtype) or pa.types.is_integer(dtype)


def classes_of(
    feature: object, values: pa.Array, where: str, class_names: list[str] | None
) -> tuple[list[str], dict[int, int] | None]:
    """Class names, and the class index of each integer; None if integers are class indices."""
    names = names_of(feature)
    if names is not None:
        if class_names is None or class_names == names:
            return names, None
        if sorted(names) != sorted(class_names):
            raise DataError(
                f"class_names has {len(class_names)} names ({named(class_names)}), but the classes of {where} are "
                f"{len(names)} ({named(names)}): give the same names, in the order you want, or leave class_names out."
            )
        return class_names, {old: class_names.index(name) for old, name in enumerate(names)}
    found = sorted(value for value in pc.unique(values).drop_null().to_pylist() if value != MISSING)
    if not found:
        raise DataError(f"The label column of {where} holds no label: choose another column or split.")
    index = _index_of_names(found, class_names or [str(value) for value in found])
    if index is None:
        raise DataError(
            f"class_names has {len(class_names)} names ({named(class_names)}), but the label column of {where} has the "
            f"{len(found)} values {named(found)}: give all these texts, or for integers one name each in increasing "
            "order, or leave class_names out."
        )
    return class_names or [str(value) for value in found], index


def _index_of_names(found: list, names: list[str]) -> dict[int, int] | None:
    """The class index of each integer, for values that occur and the names of all classes; None if they do not match.

    Values are names if all of them are among `names`. Other integers are named in increasing order if there are as many
    names, otherwise they are positions in `names`.
    """
    if {str(value) for value in found} <= set(names):
        return _named_integers(names)
    if isinstance(found[0], str):
        return None
    if len(found) == len(names):
        return {value: position for position, value in enumerate(found)}
    return {position: position for position in range(len(names))} if 0 <= found[0] and found[-1] < len(names) else None


def _named_integers(names: list[str]) -> dict[int, int]:
    """The class index of each integer that is the name of a class."""
    digits = [number for number, name in enumerate(names) if name.removeprefix("-").isdecimal()]
    found = {int(names[number]): number for number in digits if str(int(names[number])) == names[number]}
    return {value: number for value, number in found.items() if value != MISSING}


def index_of(feature: object, labels: Labels, where: str) -> Index:
    """The class index of each integer and each name that a column with this feature may hold.

    DataError if the column is a ClassLabel with other classes than `labels`.
    """
    by_name = {name: number for number, name in enumerate(labels.classes)}
    names = names_of(feature)
    if names is None:
        return by_name | (_numbers(labels.classes) if labels.index is None else labels.index)
    if unknown := [name for name in names if name not in by_name]:
        raise DataError(
            f"The label column of {where} has the classes {named(names)} ({len(names)}), among them {unknown[0]!r}, "
            f"but those of the training split are {named(labels.classes)} ({len(labels.classes)}): use the same "
            "classes in both splits."
        )
    return by_name | {old: by_name[name] for old, name in enumerate(names)}


def _numbers(names: list[str]) -> dict[int, int]:
    """The class index of each integer, for classes whose numbers are not given: integers may be names."""
    integers = _named_integers(names)
    return integers if len(integers) == len(names) else {number: number for number in range(len(names))}


def encode_column(values: pa.Array, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """Class indices as a ClassLabel column, MISSING for rows without a label."""
    indices = indices_of(values, feature, labels, where)
    wrong = np.flatnonzero(indices < (MISSING if labels.unlabelled else 0))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(label_error(values[row].as_py(), f"Row {row} of {where}", labels.classes, len(wrong)))
    return pa.array(indices), datasets.ClassLabel(names=labels.classes)


def indices_of(values: pa.Array, feature: object, labels: Labels, where: str) -> np.ndarray:
    """The class indices, int64 (rows,); MISSING for empty cells and -1, WRONG for values that are not classes."""
    if pa.types.is_null(values.type):
        return np.full(len(values), MISSING)
    if not _holds_classes(values.type):
        raise DataError(
            f"The label column of {where} holds {advice(values)}. The training split has {len(labels.classes)} classes "
            f"({named(labels.classes)}): use the same kind of labels in both splits."
        )
    index, encoded = index_of(feature, labels, where), values.dictionary_encode()
    known = [MISSING if value == MISSING else index.get(value, WRONG) for value in encoded.dictionary.to_pylist()]
    return np.array([*known, MISSING])[encoded.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)]


def value_encoder(feature: object, labels: Labels):
    """A function of a value and its place that returns the class index."""
    return partial(_encode_value, index_of(feature, labels, "the training split"), labels)


def _encode_value(index: Index, labels: Labels, value: object, row: str) -> int:
    value = plain(value)
    if value is None or value == MISSING:
        if not labels.unlabelled:
            raise DataError(label_error(value, row, labels.classes))
        return MISSING
    number = index.get(value) if isinstance(value, int | str) else None
    if number is None:
        raise DataError(label_error(value, row, labels.classes) + FROM_EVALUATION)
    return number


def column_labels(values: pa.Array, labels: Labels, column: str) -> torch.Tensor:
    """int64 (rows,)."""
    if not pa.types.is_integer(values.type) or values.null_count:
        raise DataError(
            f"The label column {column!r} holds {values.type} with {values.null_count} empty cell(s), not class "
            "indices: load the data with load_data, which encodes and checks labels."
        )
    return torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False), dtype=np.int64))
