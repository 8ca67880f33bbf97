"""Parts of stored splits: slices such as "train[:90%]", and rows held out for evaluation."""

import logging

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from ..errors import DataError

logger = logging.getLogger(__name__)

SEED = 0  # of the rows that are held out: the same ones in every run


def check_parts(
    train_split: str, eval_split: str | None, fraction: float | None, rows_per_shard: object, streaming: bool
) -> None:
    """DataError for parts of splits that exclude each other or streaming; `fraction` is `eval_fraction`."""
    if fraction is not None and not 0 < fraction < 1:
        raise DataError(f"eval_fraction={fraction!r}: give a share between 0 and 1, such as 0.1.")
    if fraction is not None and eval_split is not None:
        raise DataError(f"eval_fraction={fraction} and eval_split={eval_split!r} exclude each other: leave one out.")
    if fraction is not None and streaming:
        raise DataError(f"eval_fraction={fraction} requires stored data: leave out streaming, or name an eval_split.")
    if "[" in train_split and streaming:  # also of the built-in sample
        problem = f"train_split={train_split!r} is a part of a split, which requires stored data"
        raise DataError(f"{problem}: leave out streaming.")
    if rows_per_shard is not None and not streaming:
        raise DataError(f"rows_per_shard={rows_per_shard!r} is for streamed data: leave it out, or set streaming.")


def held_out(rows: datasets.Dataset, fraction: float, label: str | None) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The rows without and with those that are held out: this share of all rows, of each class of column `label`."""
    numbers = np.arange(len(rows))
    classes = None if label is None else np.array(rows.select_columns([label])[:][label])
    if classes is not None and np.unique(classes, return_counts=True)[1].min() < 2:
        logger.warning("A class has one image only: eval_fraction holds out rows regardless of their class.")
        classes = None
    try:
        kept, held = train_test_split(numbers, test_size=fraction, random_state=SEED, stratify=classes)
    except ValueError as error:
        raise DataError(
            f"eval_fraction={fraction} of {len(rows)} rows is not possible ({error}): give another share."
        ) from error
    return rows.select(np.sort(kept)), rows.select(np.sort(held))


def sliced(splits: dict, split: str, option: str) -> datasets.Dataset:
    """The rows that `split` names, slices of stored splits such as "train[:90%]" or "train[:500]+test"."""
    lengths = {name: len(rows) for name, rows in splits.items() if isinstance(rows, datasets.Dataset)}
    if not lengths:
        raise DataError(f"{option}={split!r}: a part of a split requires stored data, so leave out streaming.")
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"{option}={split!r} is not a part of a split ({error}): give for example 'train[:90%]'."
        ) from error
    return datasets.concatenate_datasets([splits[part.splitname].select(range(part.from_, part.to)) for part in parts])
