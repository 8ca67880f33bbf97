"""Labels: what the label column of a data set holds."""

from dataclasses import dataclass, field

import datasets
import pyarrow as pa

from ...errors import did_you_mean


@dataclass(frozen=True)
class Labels:
    """The kind of a label column, and what its values mean.

    `classes`: names in the order of the class indices, empty for numbers. `size`: outputs that a network needs: classes,
    or numbers of a row. `index`: class index of each value of the column (integers and strings, without ClassLabel).
    `multi_hot`: rows of zeros and ones instead of lists of classes. `unlabelled`: rows may have no label; it is -1.
    `mean`, `std`: of numbers, one for each output, over the rows of the training split, or of the evaluation split of a
    stream.
    """

    kind: str
    classes: list[str] = field(default_factory=list)
    size: int = 0
    index: dict[int | str, int] | None = None
    multi_hot: bool = False
    unlabelled: bool = False
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


NONE = Labels("none")


def is_text(dtype: pa.DataType) -> bool:
    """Whether this Arrow type is a string type."""
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)


def is_list(dtype: pa.DataType) -> bool:
    return pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype)


def is_number(dtype: pa.DataType) -> bool:
    return pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_boolean(dtype)


def item_feature(feature: object) -> object:
    """The feature of the items of a list column; None if it is not one."""
    if isinstance(feature, list):  # older data sets
        return feature[0]
    return getattr(feature, "feature", None)


def names_of(feature: object) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them; None for other features."""
    feature = feature if isinstance(feature, datasets.ClassLabel) else item_feature(feature)
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def advice(dtype: pa.DataType) -> str:
    """The kind of labels that a column of this Arrow type has, in words, and the task for it."""
    if is_list(dtype) and (is_text(dtype.value_type) or pa.types.is_integer(dtype.value_type)):
        return "lists: for images of several classes choose task multilabel (kind classes)"
    if is_list(dtype) and is_number(dtype.value_type):
        return "lists of numbers: choose a task that reads vectors"
    if pa.types.is_floating(dtype):
        return "numbers with a fraction: choose a task that predicts numbers"
    if is_text(dtype) or pa.types.is_integer(dtype):
        return "one class per image: choose task classification (kind class)"
    return f"values of type {dtype}"


def label_error(value: object, row: str, classes: list[str], count: int | None = None) -> str:
    """The error message for a label outside the classes, in `row`; `count` is the number of such rows, if known."""
    hint = did_you_mean(value, classes) if isinstance(value, str) else ""
    if value is None or value == -1:
        hint = " None and -1 mark rows without a label, as in hidden test splits: choose another split, or drop them."
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    others = f" ({count} such row(s))" if count else ""
    return f"{row} has the label {value!r}, which is not one of the {len(classes)} classes ({shown}){others}.{hint}"
