"""Where a run is in the order of its rows: recorded in checkpoints, and continued by any number of processes."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..files import atomic_write
from ..plain_data import read_json
from .batch_sampler import BatchPlan
from .images import Images
from .streaming.dataset import Stream

FILE, FORMER_FILE = "data_order.json", "stream.json"  # in a checkpoint; the second in those of version 0.1


@dataclass(frozen=True)
class Part:
    """Batches of an epoch that each process drew, and the settings that their order depends on."""

    processes: int
    batch_size: int
    batches: int = 0
    memory: int = 0  # of a stream
    resident: bool = False

    def same_settings(self, other: "Part") -> bool:
        """Whether both have the same settings, so that one continues the other."""
        return asdict(self) | {"batches": 0} == asdict(other) | {"batches": 0}


@dataclass(frozen=True)
class Position:
    """An epoch, and its parts so far; the last one is that of the present settings.

    `steps`: optimizer steps in an epoch. `offset`: how many more steps the run has counted than its epochs have, since
    it was resumed with other numbers of steps in an epoch.
    """

    data: dict  # what must be the same: seed, revision, rows
    epoch: int = 0
    parts: tuple[Part, ...] = ()
    steps: int = 0
    offset: int = 0

    def write(self, folder: Path) -> None:
        """Write the position into a checkpoint."""
        atomic_write(folder / FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Position | None":
        """The position in a checkpoint; None if it has none. DataError if the file is damaged."""
        try:
            if not (folder / FILE).exists():
                return None
            values = read_json(folder / FILE)
            return cls(**values | {"parts": tuple(Part(**part) for part in values["parts"])})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder / FILE} is damaged ({error}): delete this checkpoint to continue from the one before it."
            ) from error


def describe(data: Images | Stream, seed: int) -> dict:
    """What the order of the rows depends on, beside the settings of a Part. Empty if it cannot be repeated."""
    if isinstance(data, Images):
        return {"seed": seed, "rows": len(data)}
    if not data.resumable:
        return {}
    return {"seed": seed, "data revision": data.source.revision, "rows": data.source.digest()}


def check_same(folder: Path, recorded: Position | None, present: dict) -> None:
    """DataError if a streamed run cannot go on from the checkpoint with the rows that it had not seen."""
    if not present:
        raise DataError(
            "A streamed run can be resumed only if the row count of each file is known. It is unknown for this data: "
            "give rows_per_shard (WebDataset), choose a copy in parquet, or train without streaming."
        )
    if recorded is None and (folder / FORMER_FILE).is_file():
        raise DataError(
            f"{folder} is of a streamed run of version 0.1, whose order of rows no longer exists: start a new run from "
            f"its weights, --model {folder}."
        )
    if recorded is None:
        raise DataError(
            f"{folder} is not a checkpoint of a streamed run: resume without streaming, or choose another output_dir."
        )
    for name, new in present.items():
        if (old := recorded.data.get(name)) != new:
            raise DataError(f"The run started with {name} {old} and cannot be resumed with {new}: use {old} again.")


def rows_left(data: Images | Stream, epoch: int, parts: Sequence[Part], seed: int) -> np.ndarray | None:
    """The numbers, ascending, of the rows that no process had in `parts` of an epoch; None for all rows."""
    left = None
    for part in parts:
        plans = [_plan(data, part, seed, rank) for rank in range(part.processes)]
        drawn = [rows for plan in plans for rows in islice(plan(epoch, left), part.batches)]
        everything = np.arange(len(data)) if left is None else left
        left = np.setdiff1d(everything, np.concatenate(drawn) if drawn else [], assume_unique=True)
    return left


def _plan(data: Images | Stream, part: Part, seed: int, rank: int):
    """A function of epoch and rows that returns the row numbers of each batch of a rank."""
    place = {"seed": seed, "rank": rank, "world": part.processes}
    if isinstance(data, Images):
        plan = BatchPlan(len(data), part.batch_size, **place)
        return lambda epoch, left: ([row for row, _ in batch] for batch in plan.draw(epoch, left))
    plan = data.plan(part.batch_size, memory=part.memory, resident=part.resident, **place)
    return lambda epoch, left: (rows for _, rows in plan.epoch(epoch, left=left)[1])
