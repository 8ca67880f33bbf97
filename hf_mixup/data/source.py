"""`load_data`: two checked splits and their class names, from the embedded sample, a local folder or the Hub."""

from dataclasses import dataclass

import datasets

from .columns import check_columns, column_values, find_classes, with_classes
from .errors import DataError, nearest
from .origin import Splits, open_splits

Split = datasets.Dataset | datasets.IterableDataset

# A split held in memory becomes a stream of so many parts.
STREAM_SHARDS = 4
# Tried in this order where no evaluation split is named.
EVAL_SPLITS = ("validation", "valid", "val", "test")


@dataclass(frozen=True)
class Data:
    """Two splits with an image column and a label column of classes 0..K-1, and what they are."""

    train: Split  # an IterableDataset where streamed
    eval: datasets.Dataset
    classes: list[str]
    path: str
    config: str | None
    revision: str  # the Hub's commit sha, or the fingerprint of local files
    splits: dict[str, int | None]  # rows of each split; None where a streamed one does not say
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
    skip_corrupt: bool = False,
    token: str | None = None,
) -> Data:
    """Both splits, checked and with class numbers for labels; `data` is "sample", a folder or a Hub id.

    A folder holds `train/cat/1.png` or parquet files named after their splits; "train+validation" names a split, too.
    With `streaming` the training split is an IterableDataset of `num_examples` rows, if its repository does not say;
    the other is stored, and gives the classes if labels are no ClassLabel. `revision` pins a Hub commit (its sha is
    looked up) or the fingerprint of local files.
    """
    found, pin = open_splits(data, data_config, revision, streaming, token)
    names = (train_split, eval_split or _eval_split(found, data))
    train, test, rows = _two_splits(found, names, (image_column, label_column), data, num_examples)
    if streaming:
        columns = (names[1], image_column, label_column)
        train, test = _stream(train), _download(test, str((data, data_config, pin, *columns)))
    train, test, classes = _classes(train, test, label_column, [_where(name, data) for name in names])
    rows[names[1]] = len(test)
    return Data(train, test, classes, data, data_config, pin, rows, image_column, label_column, *names, skip_corrupt)


def _two_splits(found: Splits, names: tuple[str, str], columns: tuple[str, str], data: str, given: int | None) -> tuple:
    """The training and the evaluation split with their two columns, and the rows of all splits."""
    train, test = (
        _columns(_pick(found, name, data, option), *columns, _where(name, data))
        for name, option in zip(names, ("train_split", "eval_split"), strict=True)
    )
    rows = {name: _rows(split) for name, split in found.items()}
    return train, test, rows | {names[0]: _known_rows(train, given, _where(names[0], data))}


def _classes(train: Split, evaluation: datasets.Dataset, label: str, where: list[str]) -> tuple:
    """Both splits with a checked ClassLabel column (a stream is checked as it is read), and the class names."""
    streamed = isinstance(train, datasets.IterableDataset)
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
    check_columns(split.features, list(split.features or {}), image, label, f"The {where}")
    split = split.select_columns([image, label])
    if not isinstance(split.features[image], datasets.Image):
        split = split.cast_column(image, datasets.Image())
    return split


def _stream(split: Split) -> datasets.IterableDataset:
    return split.to_iterable_dataset(STREAM_SHARDS) if isinstance(split, datasets.Dataset) else split


def _download(split: Split, key: str) -> datasets.Dataset:
    """A streamed split as a Dataset in the cache: this split alone is stored, and read again only if `key` changes."""
    if isinstance(split, datasets.Dataset):
        return split
    name = datasets.NamedSplit(str(split.split or "eval"))
    print_of_key = datasets.fingerprint.Hasher.hash(key)
    stream = {"stream": split.decode(False)}
    return datasets.Dataset.from_generator(
        _iterate, split.features, gen_kwargs=stream, split=name, fingerprint=print_of_key
    )


def _iterate(stream: datasets.IterableDataset):
    yield from stream


def _rows(split: Split) -> int | None:
    if isinstance(split, datasets.Dataset):
        return len(split)
    info = (split.info.splits or {}).get(str(split.split))
    return info.num_examples if info else None


def _known_rows(split: Split, given: int | None, where: str) -> int | None:
    """The rows of a split; those given count where the split does not say, and must agree where it does."""
    rows = _rows(split)
    if rows is not None and given is not None and rows != given:
        raise DataError(f"num_examples={given}, but the {where} has {rows} rows: leave num_examples out.")
    if rows == 0 or given == 0:
        raise DataError(f"The {where} is empty: check the files, or choose another split.")
    return rows if rows is not None else given
