"""`load_data`: two checked splits and their class names, from the embedded sample, a local folder or the Hub."""

import re
from dataclasses import dataclass

import datasets

from ..errors import DataError, nearest
from .columns import check_columns, column_values, find_classes, with_classes
from .open_dataset import Splits, open_splits
from .streaming.shards import Shards
from .streaming.splits import Split, shards_of, stored

# Tried in this order where no evaluation split is named.
EVAL_SPLITS = ("validation", "valid", "val", "test")


@dataclass(frozen=True)
class Data:
    """Two splits with an image column and a label column of classes 0..K-1, and what they are."""

    train: Split | Shards  # of a streamed split its Shards; an IterableDataset where files do not tell their rows
    eval: datasets.Dataset
    classes: list[str]
    path: str
    config: str | None
    revision: str  # the Hub's commit sha, or the fingerprint of local files
    splits: dict[str, int | None]  # rows of each split; None where a streamed one was not counted
    image_column: str
    label_column: str
    train_split: str
    eval_split: str
    skip_corrupt: bool  # for Images and Stream, which decode; nothing is decoded while loading

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def home(self) -> str | None:
        """Where all files of a data set on the Hub are; None for local data, which may name any file."""
        on_hub = re.fullmatch(r"[0-9a-f]{40}", self.revision)
        return f"hf://datasets/{self.path}@{self.revision}/" if on_hub else None

    @property
    def train_rows(self) -> int | None:
        """The rows of the training split, None for a stream of unknown length."""
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
    num_examples: int | None = None,
    rows_per_shard: int | list[int] | str | None = None,
    skip_corrupt: bool = False,
    token: str | None = None,
) -> Data:
    """Both splits, checked and with class numbers for labels; `data` is "sample", a folder or a Hub id.

    A folder holds `train/cat/1.png` or parquet files named after their splits; "train+validation" names a split, too.
    `revision` pins a Hub commit (its sha is looked up) or the fingerprint of local files.

    With `streaming` the training split is read while training: `Shards` of parquet files, or of WebDataset tar files
    with `rows_per_shard` (a number, a list with one for each, or "count" to read them once); of other files an
    IterableDataset, of `num_examples` rows if its repository does not say. The evaluation split is stored in the cache
    once, and gives the classes if labels are no ClassLabel. `num_examples` is refused where it is not the rows found.
    """
    found = open_splits(data, data_config, revision, streaming, token)
    names, columns = (train_split, eval_split or _eval_split(found.splits, data)), (image_column, label_column)
    train, test, rows = _two_splits(found.splits, names, columns, data)
    wheres = [_where(name, data) for name in names]
    if streaming:
        about = {"columns": columns, "key": str((data, data_config, found.pin)), "token": token}
        train, test = _streamed(found, (train, test), names, wheres, rows_per_shard, **about)
    elif rows_per_shard is not None:
        raise DataError(f"rows_per_shard={rows_per_shard!r} is for streamed data: leave it out, or set streaming.")
    rows[names[0]] = _known_rows(train, num_examples, wheres[0])
    train, test, classes = _classes(train, test, label_column, wheres)
    rows[names[1]] = len(test)
    return Data(train, test, classes, data, data_config, found.pin, rows, *columns, *names, skip_corrupt)


def _streamed(found, pair, names, wheres, per_shard, *, columns, key, token) -> tuple:
    """The training split as it is streamed, and the evaluation split as it is stored."""
    train, test = pair
    shared = {"key": key, "token": token}
    train = shards_of(found, train, names[0], columns, wheres[0], per_shard=per_shard, **shared)
    source = shards_of(found, test, names[1], columns, wheres[1], **shared) if _is_stream(test) else test
    return train, stored(source, test.features, names[1], f"{key} {names[1]} {columns}", wheres[1])


def _is_stream(split: object) -> bool:
    return isinstance(split, datasets.IterableDataset)


def _two_splits(found: Splits, names: tuple[str, str], columns: tuple[str, str], data: str) -> tuple:
    """The training and the evaluation split with their two columns, and the rows of all splits."""
    train, test = (
        _columns(_pick(found, name, data, option), *columns, _where(name, data))
        for name, option in zip(names, ("train_split", "eval_split"), strict=True)
    )
    return train, test, {name: _rows(split) for name, split in found.items()}


def _classes(train: Split, evaluation: datasets.Dataset, label: str, where: list[str]) -> tuple:
    """Both splits with a checked ClassLabel column (a stream is checked as it is read), and the class names."""
    streamed = not isinstance(train, datasets.Dataset)
    values = column_values(evaluation if streamed else train, label)
    classes = find_classes(train.features[label], values, where[0])
    if not streamed:
        train = with_classes(train, label, classes, where[0])
    return train, with_classes(evaluation, label, classes, where[1]), classes


def _where(split: str, data: str) -> str:
    return f"split {split!r} of {data!r}"


def _eval_split(found: Splits, data: str) -> str:
    for name in EVAL_SPLITS:
        if name in found:
            return name
    raise DataError(
        f"{data!r} has no split to evaluate on, only {sorted(found)}: name one with eval_split=..., or add a folder "
        f"or file called one of {list(EVAL_SPLITS)}."
    )


def _pick(found: Splits, split: str, data: str, option: str) -> Split:
    """The split, or the splits of a sum "a+b" one after the other."""
    parts = split.split("+")
    for part in parts:
        if part not in found:
            hint = nearest(part, found)
            raise DataError(
                f"{data!r} has no split {part!r}, only {sorted(found)}.{hint} Pass {option}=... with one of them."
            )
    if len(parts) == 1:
        return found[split]
    return datasets.concatenate_datasets([found[part] for part in parts])


def _columns(split: Split, image: str, label: str, where: str) -> Split:
    """The split with its two columns only, the image column one of Image."""
    if isinstance(split, datasets.Dataset) and not len(split):
        raise DataError(f"The {where} is empty: check the files, or choose another split.")
    if split.features is None:
        # A stream may not know its columns before its first rows are read; datasets looks at a few of them.
        split = split._resolve_features()
    split = _lifted(_lifted(split, image), label)
    check_columns(split.features, list(split.features or {}), image, label, f"The {where}")
    split = split.select_columns([image, label])
    if not isinstance(split.features[image], datasets.Image):
        split = split.cast_column(image, datasets.Image())
    return split


def _lifted(split: Split, column: str) -> Split:
    """The split with a column "json.label" for that key of the json, if that is what `column` names."""
    name, *keys = column.split(".")
    kind = (split.features or {}).get(name)
    for key in keys:
        kind = kind.get(key) if isinstance(kind, dict) else None
    if column in split.features or kind is None:
        return split
    return split.map(_lift, fn_kwargs={"column": column}, features=datasets.Features({**split.features, column: kind}))


def _lift(row: dict, column: str) -> dict:
    value = row
    for key in column.split("."):
        value = value[key]
    return {column: value}


def _rows(split: Split | Shards) -> int | None:
    if not _is_stream(split):
        return len(split)
    info = (split.info.splits or {}).get(str(split.split))
    return info.num_examples if info else None


def _known_rows(split: Split | Shards, given: int | None, where: str) -> int | None:
    """The rows of a split; those given count where the split does not say, and must agree where it does."""
    rows = _rows(split)
    if rows is not None and given is not None and rows != given:
        raise DataError(f"num_examples={given}, but the {where} has {rows} rows: leave num_examples out.")
    if rows == 0 or given == 0:
        raise DataError(f"The {where} is empty: check the files, or choose another split.")
    return rows if rows is not None else given
