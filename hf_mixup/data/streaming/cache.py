"""The cache of streamed data: the units of a split, and the evaluation split as a Dataset."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict

import datasets
from filelock import FileLock

from ...errors import DataError
from ...files import atomic_write, cache_folder
from ...hub.retry import reason, retried
from ..open_dataset import OPEN_ERRORS, network_error
from .units import Unit

ENCODED = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
VERSION = 2  # of the cached units


class UnitCache:
    """The units of a split in one JSON file, written by one process of a machine at a time."""

    def __init__(self, key: str, files: list[str]):
        name = hashlib.sha256(f"{VERSION} {key}".encode()).hexdigest()[:24]
        self.files, self.path = files, cache_folder("units") / f"{name}.json"

    def get(self, find: Callable[[], list[Unit]]) -> list[Unit]:
        """The cached units. If there are none, `find` is called and its result is cached."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return find()  # the cache is read-only
        with FileLock(f"{self.path}.lock"):
            units = self._read()
            if units is None:
                units = find()
                self._write(units)
        return units

    def _read(self) -> list[Unit] | None:
        try:
            cached = json.loads(self.path.read_text())
            units = [unit | {"labels": unit["labels"] and tuple(unit["labels"])} for unit in cached["units"]]
            return [Unit(**unit) for unit in units] if cached["files"] == self.files else None
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
            return None

    def _write(self, units: list[Unit]) -> None:
        with suppress(OSError):  # the disk is full: counted again next time
            atomic_write(self.path, json.dumps({"files": self.files, "units": [asdict(unit) for unit in units]}))


def cache_split(split: Iterable, features: datasets.Features, name: str, key: str, where: str) -> datasets.Dataset:
    """The split as a Dataset in the cache; one process writes it, once for each `key`. A Dataset is returned as it is.

    Raises DataError if the split cannot be read; `where` is the description of the split in its message.
    """
    if isinstance(split, datasets.Dataset):
        return split
    source = split.decode(False) if isinstance(split, datasets.IterableDataset) else split
    # a tuple, because from_generator passes the items of a list one by one
    arguments = {"source": source, "columns": tuple(features)}

    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]

    def make() -> datasets.Dataset:
        # not as images, since `datasets` would replace bytes whose path happens to be a file of the working directory
        stored = datasets.Features({**features, **dict.fromkeys(images, ENCODED)})
        rows = datasets.Dataset.from_generator(
            _rows,
            stored,
            gen_kwargs=arguments,
            split=datasets.NamedSplit(name),
            fingerprint=datasets.fingerprint.Hasher.hash(key),
        )
        for column in images:
            rows = rows.cast_column(column, datasets.Image())
        return rows

    try:
        return retried(make, f"store the {where}")
    except DataError:
        raise
    except OPEN_ERRORS as error:
        raise _root_error(error, where) from error


def _rows(source: Iterable, columns: tuple[str, ...]) -> Iterator[dict]:
    for row in source:
        yield row if isinstance(row, dict) else dict(zip(columns, row))  # a row of Shards without labels has None


def _root_error(error: BaseException, where: str) -> DataError:
    """The DataError that `datasets` wrapped in its own, or a new one about the root cause."""
    while not isinstance(error, DataError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DataError):
        return type(error)(str(error))
    advice = "Try again later." if network_error(error) else "Check its files, or choose another revision."
    return DataError(f"The {where} cannot be read ({reason(error)}). {advice}")
