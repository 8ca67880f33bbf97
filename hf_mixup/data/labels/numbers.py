"""A number, or a vector of numbers, per image."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ...errors import DataError
from ._base import Labels, advice, is_list, is_number, names_of


def describe(kind, feature, values: pa.ChunkedArray, where: str, class_names, unlabelled: bool) -> Labels:
    """One number, or the length of the vectors."""
    if kind == "number":
        _check_type(kind, is_number(values.type) and names_of(feature) is None, values, where)
        return Labels(kind, size=1, **_statistics(values, 1))
    _check_type(kind, is_list(values.type) and is_number(values.type.value_type), values, where)
    lengths = pc.unique(pc.list_value_length(values)).drop_null().to_pylist()
    if len(lengths) != 1 or lengths[0] == 0:
        raise DataError(
            f"The label column of {where} holds lists of {sorted(lengths)[:5]} numbers, not all of one length."
        )
    return Labels(kind, size=lengths[0], **_statistics(pc.list_flatten(values), lengths[0]))


def _statistics(items: pa.ChunkedArray, size: int) -> dict[str, list[float]]:
    """Mean and standard deviation of each number; NaN and infinity are reported when the column is encoded."""
    numbers = items.drop_null().cast(pa.float64()).to_numpy(zero_copy_only=False)
    rows = numbers[: len(numbers) // size * size].reshape(-1, size)
    return {"mean": rows.mean(0).tolist(), "std": rows.std(0).tolist()}


def _check_type(kind: str, right: bool, values: pa.ChunkedArray, where: str) -> None:
    if not right:
        wanted = "numbers" if kind == "number" else "lists of numbers"
        raise DataError(
            f"The label column of {where} holds {advice(values.type)}. This task requires {wanted}: pass "
            "label_column=... with such a column."
        )


def encode_column(values: pa.ChunkedArray, feature: object, labels: Labels, where: str) -> tuple[pa.Array, object]:
    """float32 numbers or lists of numbers; DataError for empty cells, NaN and infinity."""
    _check_type(labels.kind, _fits(values.type, labels.kind), values, where)
    values = values.combine_chunks()
    items = values if labels.kind == "number" else pc.list_flatten(values)
    numbers = items.cast(pa.float64()).to_numpy(zero_copy_only=False)
    wrong = np.zeros(len(values), dtype=bool)
    if labels.kind == "vector":
        lengths = pc.list_value_length(values).fill_null(-1).to_numpy(zero_copy_only=False)
        wrong = lengths != labels.size
    if not wrong.any():
        wrong = ~np.isfinite(numbers.reshape(len(values), -1)).all(1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(_message(values[row].as_py(), f"Row {row} of {where}", labels))
    flat = pa.array(numbers.astype(np.float32))
    if labels.kind == "number":
        return flat, datasets.Value("float32")
    feature = datasets.List(datasets.Value("float32"), length=labels.size)
    return pa.FixedSizeListArray.from_arrays(flat, labels.size), feature


def _fits(dtype: pa.DataType, kind: str) -> bool:
    return is_number(dtype) if kind == "number" else is_list(dtype) and is_number(dtype.value_type)


def _message(value: object, row: str, labels: Labels) -> str:
    wanted = "a finite number" if labels.kind == "number" else f"{labels.size} finite numbers"
    return f"{row} has the label {value!r}: give {wanted}, or drop the row."


def encode_value(value: object, feature: object, labels: Labels, row: str) -> torch.Tensor:
    """float32 () or (D,)."""
    try:
        numbers = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    shape = () if labels.kind == "number" else (labels.size,)
    if numbers.shape != shape or not np.isfinite(numbers).all():
        raise DataError(_message(value, row, labels))
    return torch.from_numpy(numbers.copy())


def column_labels(dataset: datasets.Dataset, column: str, labels: Labels) -> torch.Tensor:
    """float32 (rows,) or (rows, D)."""
    values = dataset.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    items = values if labels.kind == "number" else pc.list_flatten(values)
    numbers = np.array(items.to_numpy(zero_copy_only=False), dtype=np.float32)
    return torch.from_numpy(numbers.reshape((len(values),) if labels.kind == "number" else (len(values), labels.size)))
