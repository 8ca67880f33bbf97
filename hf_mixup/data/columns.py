"""What the columns of a data set must hold: images and class numbers; checked over whole columns, not row by row."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError, nearest


def check_columns(features: datasets.Features | None, names: list[str], image: str, label: str, where: str) -> None:
    """Nothing, or a DataError that names the columns there are and the nearest one."""
    features = features or {}
    for column, role in ((image, "image"), (label, "label")):
        if column not in names:
            advice = _advice(features, names, column, role)
            raise DataError(
                f"{where} has no column {column!r}; its columns are {sorted(names)}.{advice} "
                f"Pass {role}_column=... with the right one."
            )
    kind = features.get(image)
    if kind is not None and not isinstance(kind, datasets.Image) and not _holds_files(kind):
        raise DataError(
            f"Column {image!r} of {where} holds {kind}, not images.{_advice(features, names, image, 'image')} "
            "Pass image_column=... with a column of images, of encoded bytes or of file paths."
        )
    if image == label:
        raise DataError(f"image_column and label_column are both {image!r} in {where}: name two columns.")


def _advice(features: dict, names: list[str], column: str, role: str) -> str:
    wanted = datasets.Image if role == "image" else datasets.ClassLabel
    fitting = [name for name, feature in features.items() if isinstance(feature, wanted) and name != column]
    return f" Columns of type {wanted.__name__}: {fitting}." if fitting else nearest(column, set(names) - {column})


def _holds_files(kind: object) -> bool:
    """Whether datasets can read the column as images: bytes, paths, or both in a struct."""
    if isinstance(kind, dict):
        return "bytes" in kind
    return isinstance(kind, datasets.Value) and kind.dtype in ("binary", "large_binary", "string", "large_string")


def column_values(dataset: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A whole column as Arrow, without decoding anything."""
    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    if pa.types.is_dictionary(values.type):
        values = pc.dictionary_decode(values)
    return values.cast(pa.int64()) if pa.types.is_boolean(values.type) else values


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def find_classes(feature: object, values: pa.ChunkedArray, where: str) -> list[str]:
    """The class names: a ClassLabel's own, the sorted strings of a text column, or "0" to "K-1" of integers."""
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
    """The class numbers, int64 (rows,), all checked to be in 0..K-1; DataError names the first row that is not."""
    if is_text(values.type):
        numbers = pc.index_in(values, pa.array(classes, values.type))
    elif pa.types.is_integer(values.type):
        numbers = values
    else:
        raise DataError(f"The labels of {where} are {values.type}, those of the training split are not: use one type.")
    numbers = pc.fill_null(numbers.cast(pa.int64()), -1).to_numpy()
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(classes)))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(bad_label(values[row].as_py(), f"Row {row} of {where}", classes, len(wrong)))
    return numbers


def bad_label(value: object, what: str, classes: list[str], count: int | None = None) -> str:
    """The message for a label outside the classes; `count` is the number of such rows, where it is known."""
    known, hint = f"0..{len(classes) - 1}", ""
    if isinstance(value, str):
        known, hint = f"the {len(classes)} classes known", nearest(value, classes)
    if value is None or value == -1:
        hint = " None and -1 mark rows without a label, as in secret test splits: choose another split, or drop them."
    others = f" ({count} such row(s))" if count else ""
    return f"{what} has the label {value!r}, which is not in {known}{others}.{hint}"


def integer_labels(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """The class numbers of a data set that holds integers already, int64 (rows,)."""
    values = column_values(dataset, column)
    if not pa.types.is_integer(values.type) or values.null_count:
        raise DataError(
            f"The label column {column!r} holds {values.type} with {values.null_count} empty cell(s), not class "
            "numbers: load the data with load_data, which encodes classes and checks them."
        )
    return np.array(values.to_numpy(), dtype=np.int64)


def with_classes(dataset: datasets.Dataset, column: str, classes: list[str], where: str) -> datasets.Dataset:
    """The data set with a checked ClassLabel column of these classes; images are not touched."""
    numbers = encode(column_values(dataset, column), classes, where)
    feature = dataset.features[column]
    if isinstance(feature, datasets.ClassLabel) and feature.names == classes:
        return dataset
    order = dataset.column_names
    bare = dataset.remove_columns([column])
    new = bare.add_column(
        column, pa.array(numbers), feature=datasets.Features({column: datasets.ClassLabel(names=classes)})[column]
    )
    return new.select_columns(order)
