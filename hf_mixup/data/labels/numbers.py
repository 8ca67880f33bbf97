"""A number, or a vector of numbers, per image."""

from functools import partial

import datasets
import numpy as np
import pyarrow as pa
import torch

from ...errors import DataError
from ._base import Labels, advice, as_floats, brief, is_list, is_number, lists_of, names_of, plain


def describe(kind, feature, values: pa.Array, where: str, class_names, unlabelled: bool) -> Labels:
    """One number, or the length of most vectors; other lengths are reported when the column is encoded."""
    _check_type(kind, values, feature, where)
    if kind == "number":
        return Labels(kind, size=1, **_statistics(as_floats(values)[:, None]))
    lengths, items = lists_of(values)
    if not (lengths > 0).any():
        raise DataError(f"The label column of {where} holds no numbers: choose another column or split.")
    size = int(np.bincount(lengths[lengths > 0]).argmax())
    rows = np.repeat(lengths, np.maximum(lengths, 0)) == size
    return Labels(kind, size=size, **_statistics(as_floats(items)[rows].reshape(-1, size)))


def _statistics(rows: np.ndarray) -> dict[str, list[float]]:
    """Mean and standard deviation of each number; rows that are not finite in float32 are reported when encoded."""
    finite = rows[np.isfinite(_as_float32(rows)).all(1)]
    return {"mean": finite.mean(0).tolist(), "std": finite.std(0).tolist()} if len(finite) else {}


def _check_type(kind: str, values: pa.Array, feature: object, where: str) -> None:
    dtype = values.type.value_type if kind == "vector" and is_list(values.type) else values.type
    if not is_number(dtype) or names_of(feature) is not None or is_list(values.type) != (kind == "vector"):
        wanted = "numbers" if kind == "number" else "lists of numbers, equally long"
        raise DataError(
            f"The label column of {where} holds {advice(values)}. A task that reads labels of kind {kind} requires "
            f"{wanted}: pass label_column=... with such a column."
        )


def encode_column(values: pa.Array, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """float32 numbers or lists of numbers; DataError for empty cells, other lengths, NaN and infinity."""
    _check_type(labels.kind, values, feature, where)
    is_vector = labels.kind == "vector"
    lengths, items = lists_of(values) if is_vector else (np.ones(len(values), dtype=np.int64), values)
    numbers = _as_float32(as_floats(items))
    wrong = lengths != labels.size
    wrong[np.repeat(np.arange(len(values)), np.maximum(lengths, 0))[~np.isfinite(numbers)]] = True
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(_message(values[row].as_py(), f"Row {row} of {where}", labels, int(wrong.sum())))
    flat, feature = pa.array(numbers), datasets.Value("float32")
    if not is_vector:
        return flat, feature
    return pa.FixedSizeListArray.from_arrays(flat, labels.size), datasets.List(feature, length=labels.size)


def _as_float32(numbers: object) -> np.ndarray:
    """float32 of numbers, infinity for those beyond its range."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)


def _message(value: object, row: str, labels: Labels, count: int | None = None) -> str:
    wanted = "a finite number" if labels.kind == "number" else f"{labels.size} finite numbers, as in most rows"
    others = f" ({count} such row(s))" if count else ""
    return f"{row} has the label {brief(value)}{others}: give {wanted}, or drop the row."


def value_encoder(feature: object, labels: Labels):
    """A function of a value and its place that returns float32 () or (D,)."""
    if names_of(feature) is not None:
        raise DataError(
            f"The labels of the training split are classes, not labels of kind {labels.kind}: choose another task."
        )
    return partial(_encode_value, labels)


def _encode_value(labels: Labels, value: object, row: str) -> torch.Tensor:
    value = plain(value)
    is_vector = labels.kind == "vector"
    items = value if is_vector else [value]
    fits = isinstance(items, list | tuple) and len(items) == labels.size
    if not fits or not all(isinstance(item, int | float) for item in items):
        raise DataError(_message(value, row, labels))
    numbers = _as_float32([float(item) if abs(item) < 1e300 else np.inf for item in items])
    if not np.isfinite(numbers).all():
        raise DataError(_message(value, row, labels))
    return torch.from_numpy(numbers if is_vector else numbers[0:1].reshape(()))


def column_labels(values: pa.Array, labels: Labels, column: str) -> torch.Tensor:
    """float32 (rows,) or (rows, D)."""
    items = lists_of(values)[1] if labels.kind == "vector" else values
    numbers = np.array(items.to_numpy(zero_copy_only=False), dtype=np.float32)
    return torch.from_numpy(numbers.reshape((len(values),) if labels.kind == "number" else (len(values), labels.size)))
