"""Streamed splits: one to train on, which stays where it is, and one to evaluate on, which is stored in the cache."""

from collections.abc import Iterator

import datasets

from ...errors import DataError
from ...hub.retry import reason, retried
from ..open_dataset import FAILURES, Found, network_error
from .shards import COUNT, Shards, find_shards

Split = datasets.Dataset | datasets.IterableDataset


def shards_of(
    found: Found,
    split: Split,
    name: str,
    columns: tuple[str, str],
    where: str,
    *,
    key: str,
    per_shard: int | list[int] | str | None = None,
    token: str | None = None,
) -> Shards | datasets.IterableDataset:
    """The split as Shards, or as it is where its files do not tell their rows.

    `name` may be a sum "a+b"; `columns` are image and label; `key` names data set, configuration and commit.
    """
    parts = name.split("+")
    files = [file for part in parts for file in found.files.get(part, [])]
    if per_shard is not None:
        _check(per_shard, found.kind)
    if not files or (found.kind == "webdataset" and per_shard is None):
        return split
    image, label = columns
    return find_shards(
        found.kind,
        files,
        per_shard=per_shard,
        key=f"{key} {name}",
        features=split.features,
        image_column=image,
        label_column=label,
        revision=found.pin,
        where=where,
        token=token,
    )


def _check(per_shard: int | list[int] | str, kind: str) -> None:
    if kind != "webdataset":
        raise DataError(
            f"rows_per_shard={per_shard!r} is for streamed WebDataset tar files, and these are {kind or 'others'}: "
            "leave it out."
        )
    numbers = per_shard if isinstance(per_shard, list) else [per_shard]
    if per_shard != COUNT and not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise DataError(f"rows_per_shard={per_shard!r}: give a number of rows, a list of them, or {COUNT!r}.")


def stored(split: Shards | Split, features: datasets.Features, name: str, key: str, where: str) -> datasets.Dataset:
    """The split as a Dataset in the cache, where it is written by one process, once for each `key`."""
    if isinstance(split, datasets.Dataset):
        return split
    # a tuple, because the generator would be given the items of a list one by one
    made = {"source": split if isinstance(split, Shards) else split.decode(False), "columns": tuple(features)}

    def make() -> datasets.Dataset:
        return datasets.Dataset.from_generator(
            _rows,
            datasets.Features({column: features[column] for column in made["columns"]}),
            gen_kwargs=made,
            split=datasets.NamedSplit(name),
            fingerprint=datasets.fingerprint.Hasher.hash(key),
        )

    try:
        return retried(make, f"store the {where}")
    except DataError:
        raise
    except FAILURES as error:
        raise _told(error, where) from error


def _told(error: BaseException, where: str) -> DataError:
    """What ended the reading of a split, without the library's words around it."""
    while not isinstance(error, DataError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DataError):
        return type(error)(str(error))
    advice = "Try again later." if network_error(error) else "Check its files, or choose another revision."
    return DataError(f"The {where} cannot be read ({reason(error)}). {advice}")


def _rows(source: Shards | datasets.IterableDataset, columns: tuple[str, ...]) -> Iterator[dict]:
    for row in source:
        yield row if isinstance(row, dict) else dict(zip(columns, row, strict=True))
