"""`load_data`: two checked splits and their class names, from the built-in sample, a local folder or the Hub."""

from dataclasses import dataclass, field

import datasets

from ..errors import DataError, did_you_mean
from .columns import add_nested_column, check_columns, classes_in, warn_of_unseen_classes, with_labels
from .labels import NONE, Labels, check_kind, column_values, describe_labels
from .open_dataset import OpenedDataset, Split, Splits, open_splits
from .parts import check_parts, held_out, sliced
from .pixel_range import DeepImages
from .streaming.cache import cache_split
from .streaming.shards import Shards, find_shards

# The default evaluation split is the first of these names that exists.
EVAL_SPLITS = ("validation", "valid", "val", "test")


@dataclass(frozen=True)
class Data:
    """Two splits with an image column and an encoded label column, and their description."""

    train: Split | Shards  # a streamed split is Shards, or an IterableDataset if the rows of its files are not known
    eval: datasets.Dataset | None  # None without evaluation, if the data has no split for it
    labels: Labels  # kind and meaning of the label column
    path: str
    config: str | None
    revision: str  # the Hub's commit sha, or the fingerprint of local files
    splits: dict[str, int | None]  # rows of each split; None for a streamed split of unknown length
    image_column: str
    label_column: str | None  # None if no labels are read
    train_split: str
    eval_split: str | None
    skip_corrupt: bool  # an option of Images and Stream; load_data itself decodes no images
    home: str | None = None  # folder of local data, or URL prefix of the files of a Hub data set; None allows any file
    deep: DeepImages = field(default_factory=DeepImages, compare=False, repr=False)  # what Images and Stream tell

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the class indices; empty for labels that are not classes."""
        return self.labels.classes

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def eval_classes(self) -> dict[int, str]:
        """Number and name of the classes that occur in the evaluation split."""
        if self.eval is None or self.labels.kind not in ("class", "classes"):
            return {}
        return {number: self.classes[number] for number in sorted(classes_in(self.eval, self.label_column))}

    @property
    def train_rows(self) -> int | None:
        """Rows of the training split; None for a stream of unknown length."""
        return self.splits[self.train_split]


def load_data(
    *,
    data: str = "sample",
    data_config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    eval_split: str | None = None,
    eval_fraction: float | None = None,
    num_examples: int | None = None,
    rows_per_shard: int | list[int] | str | None = None,
    skip_corrupt: bool = False,
    token: str | None = None,
    labels: str = "class",
    class_names: list[str] | None = None,
    unlabelled: bool = False,
    allow_outside_files: bool = False,
    evaluated: bool = True,
) -> Data:
    """Both splits, checked and with encoded labels; `data` is "sample", a folder or a Hub id.

    `labels`: kind of the label column, as a task reads it: class (one class per image), classes (lists of them, or rows
    of zeros and ones), number, vector, or none (no column is read). Classes are those of a ClassLabel, or the values of
    the training split in sorted order, which then are the names. `class_names` orders classes with these names, or
    names integers: one name for each in increasing order, or for each position from 0 if some do not occur.
    `unlabelled`: with labels="class", rows without a label (None or -1) are kept, with label -1.

    A folder holds `train/cat/1.png` or parquet files named after their splits; "train+validation" concatenates splits,
    and "train[:90%]" is a part of a stored one. `eval_fraction`, between 0 and 1, holds out this share of the rows of
    each class of the training split for evaluation, always the same ones.
    Files and URLs outside the data set, named by its card or rows, are refused without `allow_outside_files`.
    Stored data that is not `evaluated` may have no evaluation split.
    `revision` pins a Hub commit (its sha is looked up) or the fingerprint of local files.

    With `streaming` the training split is read during training: as `Shards` from parquet files, or from WebDataset tar
    files with `rows_per_shard` (a number, a list with one number per shard, or "count" to read them once to count);
    from other files as an IterableDataset, whose length is `num_examples` if the repository does not record it. The
    evaluation split is stored in the cache; without ClassLabel and class_names, its labels define the classes.
    `num_examples` must equal the number of rows if that is known.
    """
    check_kind(labels, class_names)
    check_parts(train_split, eval_split, eval_fraction, rows_per_shard, streaming)
    columns = (image_column, None if labels == "none" else label_column)
    options = {"label": columns[1], "outside": allow_outside_files}
    source = open_splits(data, data_config, revision, streaming, token, **options)
    eval_split = eval_split if eval_fraction is None else train_split
    names = (train_split, eval_split or _default_eval_split(source.splits, data, required=evaluated or streaming))
    where = [_describe(name, data) for name in names]
    train, evaluation, rows = _two_splits(source, names, columns, data)
    if streaming:
        key = str((data, data_config, source.revision))
        options = {"columns": columns, "key": key, "token": token}
        train, evaluation = _stream_splits(source, (train, evaluation), names, where, rows_per_shard, **options)
    rows[names[0]] = _known_rows(train, num_examples, where[0])
    found = _describe_labels(train, evaluation, columns[1], where, labels, class_names, unlabelled)
    if isinstance(train, datasets.Dataset):  # a stream is checked while it is read
        train = with_labels(train, columns[1], found, where[0])
    if eval_fraction is None:
        evaluation = evaluation and with_labels(evaluation, columns[1], found, where[1])
    else:
        train, evaluation = held_out(train, eval_fraction, columns[1] if found.kind == "class" else None)
        rows[train_split], names = len(train), (train_split, f"{eval_fraction:g} of {train_split}")
    if evaluation is not None:
        rows[names[1]] = len(evaluation)
    described = (data, data_config, source.revision, rows, *columns, *names)
    loaded = Data(train, evaluation, found, *described, skip_corrupt, source.home)
    if isinstance(train, datasets.Dataset):
        warn_of_unseen_classes(train, columns[1], loaded.eval_classes, where[0])
    return loaded


def _stream_splits(
    source: OpenedDataset, pair: tuple[Split, Split], names, where, rows_per_shard, *, columns, key, token
) -> tuple[Shards | datasets.IterableDataset, datasets.Dataset]:
    """The training split as a stream, and the evaluation split stored in the cache."""
    columns = tuple(column for column in columns if column is not None)
    train, evaluation = pair
    features, options = evaluation.features, {"key": key, "token": token}
    train = find_shards(source, train, names[0], columns, where[0], rows_per_shard=rows_per_shard, **options)
    if _is_stream(evaluation):
        evaluation = find_shards(source, evaluation, names[1], columns, where[1], **options)
    return train, cache_split(evaluation, features, names[1], f"{key} {names[1]} {columns}", where[1])


def _is_stream(split: object) -> bool:
    return isinstance(split, datasets.IterableDataset)


def _two_splits(source: OpenedDataset, names: tuple[str, str], columns: tuple[str, str], data: str) -> tuple:
    """The training and the evaluation split with their two columns, and the number of rows of all splits."""
    train, evaluation = (
        None
        if name is None
        else _select_columns(
            _select_split(source.splits, name, data, option), *columns, _describe(name, data), source.advice
        )
        for name, option in zip(names, ("train_split", "eval_split"), strict=True)
    )
    return train, evaluation, {name: _num_rows(split) for name, split in source.splits.items()}


def _describe_labels(
    train, evaluation: datasets.Dataset, column: str | None, where: list[str], kind, *options
) -> Labels:
    """What the label column holds: in the training split, or for a stream in the evaluation split."""
    if column is None:
        return NONE
    stored = isinstance(train, datasets.Dataset)
    values = column_values(train if stored else evaluation, column)
    return describe_labels(kind, train.features[column], values, where[0 if stored else 1], *options)


def _describe(split: str, data: str) -> str:
    return f"split {split!r} of {data!r}"


def _default_eval_split(splits: Splits, data: str, required: bool) -> str | None:
    found = [name for name in EVAL_SPLITS if name in splits]
    if found or not required:
        return found[0] if found else None
    raise DataError(
        f"{data!r} has no split to evaluate on, only {sorted(splits)}: name one with eval_split=..., hold out a part "
        "with eval_fraction: 0.1, or with train_split: train[:90%] and eval_split: train[90%:]; or train without "
        f"evaluation, with eval_strategy: no. Names of evaluation splits: {', '.join(EVAL_SPLITS)}."
    )


def _select_split(splits: Splits, split: str, data: str, option: str) -> Split:
    """The split; for a sum "a+b" the splits concatenated."""
    parts = split.split("+")
    for part in parts:
        if part.partition("[")[0] not in splits:
            hint = did_you_mean(part, splits)
            raise DataError(
                f"{data!r} has no split {part!r}, only {sorted(splits)}.{hint} Pass {option}=... with one of them."
            )
    if "[" in split:
        return sliced(splits, split, option)
    if len(parts) == 1:
        return splits[split]
    return datasets.concatenate_datasets([splits[part] for part in parts])


def _select_columns(split: Split, image: str, label: str | None, where: str, label_advice: str) -> Split:
    """The split with its image column, cast to Image, and its label column if there is one."""
    if isinstance(split, datasets.Dataset) and not len(split):
        raise DataError(f"The {where} is empty: check the files, or choose another split.")
    if split.features is None:
        # The columns of a stream may be unknown before rows are read; this reads a few of them.
        split = split._resolve_features()
    columns = [image] if label is None else [image, label]
    for column in columns:
        split = add_nested_column(split, column)
    check_columns(split.features, list(split.features or {}), image, label, where, label_advice)
    split = split.select_columns(columns)
    if not isinstance(split.features[image], datasets.Image):
        split = split.cast_column(image, datasets.Image())
    return split


def _num_rows(split: Split | Shards) -> int | None:
    if not _is_stream(split):
        return len(split)
    info = (split.info.splits or {}).get(str(split.split))
    return info.num_examples if info else None


def _known_rows(split: Split | Shards, num_examples: int | None, where: str) -> int | None:
    """The number of rows of the split, or `num_examples` if it is unknown; DataError if both are known and differ."""
    rows = _num_rows(split)
    if rows is not None and num_examples is not None and rows != num_examples:
        raise DataError(f"num_examples={num_examples}, but the {where} has {rows} rows: leave num_examples out.")
    if rows == 0 or num_examples == 0:
        raise DataError(f"The {where} is empty: check the files, or choose another split.")
    return rows if rows is not None else num_examples
