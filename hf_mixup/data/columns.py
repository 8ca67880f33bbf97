"""Checks of the image and label columns, over whole columns instead of row by row."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError, did_you_mean


def check_columns(features: datasets.Features | None, names: list[str], image: str, label: str, where: str) -> None:
    """Raise DataError, with existing columns and the nearest name, unless the two columns hold images and labels."""
    features = features or {}
    for column, role in ((image, "image"), (label, "label")):
        if column not in names:
            advice = _advice(features, names, column, role)
            raise DataError(
                f"The {where} has no column {column!r}; its columns are {sorted(names)}.{advice} "
                f"Pass {role}_column=... with the right one."
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


def column_values(dataset: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A whole column as an Arrow array; images are not decoded."""
    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    if pa.types.is_dictionary(values.type):
        values = pc.dictionary_decode(values)
    return values.cast(pa.int64()) if pa.types.is_boolean(values.type) else values


def is_text(dtype: pa.DataType) -> bool:
    """Whether this Arrow type is a string type."""
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)


def find_classes(feature: object, values: pa.ChunkedArray, where: str) -> list[str]:
    """The class names: those of a ClassLabel, the sorted strings of a text column, or "0" to "K-1" of integers."""
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if is_text(values.type):
        return sorted(pc.unique(values).drop_null().to_pylist())
    if pa.types.is_integer(values.type):
        return [str(number) for number in range((pc.max(values).as_py() or 0) + 1)]
    raise DataError(
        f"The label column of {where} holds {values.type}, not classes: pass label_column=... with a column of "
        "integers, strings or ClassLabel."
    )


def encode(values: pa.ChunkedArray, classes: list[str], where: str) -> np.ndarray:
    """The class indices, int64 (rows,), all in 0..K-1; DataError names the first row with another label."""
    if is_text(values.type):
        indices = pc.index_in(values, pa.array(classes, values.type))
    elif pa.types.is_integer(values.type):
        indices = values
    else:
        raise DataError(
            f"The labels of {where} are {values.type}, but the labels of the training split have another type: use "
            "the same type in both splits."
        )
    indices = pc.fill_null(indices.cast(pa.int64()), -1).to_numpy()
    wrong = np.flatnonzero((indices < 0) | (indices >= len(classes)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(label_error(values[row].as_py(), f"Row {row} of {where}", classes, len(wrong)))
    return indices


def label_error(value: object, row: str, classes: list[str], count: int | None = None) -> str:
    """The error message for a label outside the classes, in `row`; `count` is the number of such rows, if known."""
    known, hint = f"0..{len(classes) - 1}", ""
    if isinstance(value, str):
        known, hint = f"the {len(classes)} classes", did_you_mean(value, classes)
    if value is None or value == -1:
        hint = " None and -1 mark rows without a label, as in hidden test splits: choose another split, or drop them."
    others = f" ({count} such row(s))" if count else ""
    return f"{row} has the label {value!r}, which is not in {known}{others}.{hint}"


def integer_labels(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """The class indices of a column of integers, int64 (rows,)."""
    values = column_values(dataset, column)
    if not pa.types.is_integer(values.type) or values.null_count:
        raise DataError(
            f"The label column {column!r} holds {values.type} with {values.null_count} empty cell(s), not class "
            "indices: load the data with load_data, which encodes and checks labels."
        )
    return np.array(values.to_numpy(), dtype=np.int64)


def with_classes(dataset: datasets.Dataset, column: str, classes: list[str], where: str) -> datasets.Dataset:
    """The data set with a checked ClassLabel column of these classes; images are not decoded."""
    indices = encode(column_values(dataset, column), classes, where)
    feature = dataset.features[column]
    if isinstance(feature, datasets.ClassLabel) and feature.names == classes:
        return dataset
    order = dataset.column_names
    without = dataset.remove_columns([column])
    encoded = without.add_column(column, pa.array(indices), feature=datasets.ClassLabel(names=classes))
    return encoded.select_columns(order)
