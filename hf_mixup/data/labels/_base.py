"""Labels: what the label column of a data set holds."""

from dataclasses import dataclass, field

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import did_you_mean

NO_REGRESSION = "hf_mixup has no regression task yet, give a task of your own"
SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Labels:
    """The kind of a label column, and what its values mean.

    `classes`: names in the order of the class indices, empty for numbers. `size`: outputs that a network needs:
    classes, or numbers of a row. `index`: class index of each integer of a column without ClassLabel; None if integers
    are class indices. `multi_hot`: rows of zeros and ones instead of lists of classes. `unlabelled`: rows may have no
    label; it is -1. `mean`, `std`: of numbers, one for each output, over the rows of the training split, or of the
    evaluation split of a stream.
    """

    kind: str
    classes: list[str] = field(default_factory=list)
    size: int = 0
    index: dict[int, int] | None = None
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


def column_values(dataset: datasets.Dataset, column: str) -> pa.ChunkedArray:
    """A whole column as an Arrow array; images are not decoded."""
    return dataset.select_columns([column]).with_format("arrow")[:][column]


def as_array(values: pa.ChunkedArray) -> pa.Array:
    """A column as one array, without dictionaries; booleans that are not in lists are 0 and 1."""
    dtype = values.type
    if pa.types.is_dictionary(dtype):
        values = values.cast(dtype.value_type)
    elif is_list(dtype) and pa.types.is_dictionary(dtype.value_type):
        values = values.cast(pa.list_(dtype.value_type.value_type))
    elif pa.types.is_boolean(dtype):
        values = values.cast(pa.int64())
    return values.combine_chunks()


def lists_of(values: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The length of each list, -1 without a list, and the items of all lists."""
    lengths = pc.list_value_length(values).cast(pa.int64()).fill_null(-1)
    return lengths.to_numpy(zero_copy_only=False), pc.list_flatten(values)


def as_floats(values: pa.Array) -> np.ndarray:
    """Numbers as float64, rounded if they are larger integers; NaN for empty cells."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def equal_to(values: pa.Array, number: int) -> np.ndarray:
    """Whether each item is this number; False for empty cells."""
    if not pa.types.is_integer(values.type):
        return as_floats(values) == number
    return pc.equal(values, pa.scalar(number, values.type)).fill_null(False).to_numpy(zero_copy_only=False)


def plain(value: object) -> object:
    """One label of a stream as Python's own type; WebDataset files may hold NumPy arrays and numbers."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def item_feature(feature: object) -> object:
    """The feature of the items of a list column; None if it is not one."""
    if isinstance(feature, list):  # older data sets
        return feature[0]
    return getattr(feature, "feature", None)


def names_of(feature: object) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them; None for other features."""
    feature = feature if isinstance(feature, datasets.ClassLabel) else item_feature(feature)
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def advice(values: pa.Array) -> str:
    """What a column holds, in words, and the task or column to choose."""
    dtype = values.type
    if pa.types.is_null(dtype):
        return "only empty cells: choose a column with labels"
    if is_list(dtype):
        return _advice_of_lists(dtype.value_type)
    if pa.types.is_floating(dtype):
        numbers = as_floats(values)
        whole = len(numbers) and bool((np.isnan(numbers) | (numbers == np.floor(numbers))).all())
        classes = ", or cast the column to integers if they are classes" if whole else ""
        return f"numbers ({dtype}): {NO_REGRESSION} that reads numbers (kind number){classes}"
    if is_text(dtype) or pa.types.is_integer(dtype):
        return "one class per image: choose task classification (kind class)"
    return f"values of type {dtype}, which are no labels: choose another column"


def _advice_of_lists(items: pa.DataType) -> str:
    if is_text(items) or pa.types.is_integer(items) or pa.types.is_boolean(items) or pa.types.is_null(items):
        return "lists: for images of several classes choose task multilabel (kind classes)"
    if is_number(items):
        return (
            "lists of numbers: for rows of zeros and ones choose task multilabel (kind classes); for others, "
            f"{NO_REGRESSION} that reads vectors (kind vector)"
        )
    return f"lists of {items}, which are no labels: choose another column"


def brief(value: object) -> str:
    """The value as Python writes it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def named(names: list) -> str:
    """The first names of a list, for messages."""
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")


def label_error(value: object, row: str, classes: list[str], count: int | None = None) -> str:
    """The error message for a label outside the classes, in `row`; `count` is the number of such rows, if known."""
    hint = did_you_mean(value, classes) if isinstance(value, str) else ""
    if value is None or value == -1:
        hint = " None and -1 mark rows without a label, as in hidden test splits: choose another split, or drop them."
    elif not hint:
        hint = " Correct the label, or use the same classes in all splits."
    others = f" ({count} such row(s))" if count else ""
    wrong = f"{row} has the label {brief(value)}, which is not one of the {len(classes)} classes ({named(classes)})"
    return f"{wrong}{others}.{hint}"
