"""The position of a run in its training data: written with checkpoints, and where a resumed run continues.

A run may be resumed with another number of processes, batch size or accumulation: the rest of its epoch are then the
rows that no process had, and its learning rates follow the epochs.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers.trainer import TRAINER_STATE_NAME

from ..data import Images, Stream
from ..data.position import Part, Position, check_same, describe, rows_left
from ..plain_data import read_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where training begins: the position, and in its epoch the batches to leave empty, and the rows that are left."""

    position: Position
    empty: int = 0
    done: int = 0
    left: np.ndarray | None = None

    @property
    def empty_before(self) -> int:
        """Empty batches of this epoch before the first batch of the present settings."""
        return self.empty - self.done


NEW_RUN = Start(Position({}))


def settings(trainer) -> Part:
    """The settings that the order of the rows depends on, as an empty part of an epoch."""
    args, data = trainer.args, trainer.train_dataset
    stream = {"memory": data.memory, "resident": data.resident} if isinstance(data, Stream) else {}
    return Part(args.world_size, trainer._train_batch_size, **stream)


def is_ours(trainer) -> bool:
    """Whether the training data is read in an order that can be repeated."""
    data = trainer.train_dataset
    return isinstance(data, Images) or (isinstance(data, Stream) and data.resumable)


def start(trainer, folder: Path | None) -> Start:
    """Where training begins: for a new run, and for checkpoints that do not record it, at the first batch.

    DataError if a streamed run cannot go on from the checkpoint with the rows that it had not seen.
    """
    data, seed = trainer.train_dataset, trainer.args.seed
    new = Start(Position(describe(data, seed))) if is_ours(trainer) else NEW_RUN
    if folder is None or not isinstance(data, Images | Stream):
        return new
    recorded = Position.read(folder)
    if isinstance(data, Stream):
        check_same(folder, recorded, new.position.data)
    return resumed(trainer, folder, recorded) if recorded is not None and recorded.parts else new


def resumed(trainer, folder: Path, recorded: Position) -> Start:
    """Where a run continues from a checkpoint that recorded its position."""
    now, accumulated = settings(trainer), trainer.args.gradient_accumulation_steps
    length = len(trainer.get_train_dataloader())
    steps = -(-length // accumulated)
    *before, last = recorded.parts
    if changed := not now.same_settings(last) or steps != recorded.steps:
        before, last = [part for part in recorded.parts if part.batches], now
        _warn(now, recorded.parts[-1])
    position, left, empty = replace(recorded, parts=(*before, last), steps=steps), None, 0
    if before:
        left = rows_left(trainer.train_dataset, recorded.epoch, before, trainer.args.seed)
        batches = len(left) // (now.processes * now.batch_size)
        empty = length - _fitting(batches, length, accumulated)
    if changed:
        position = replace(position, offset=_step(folder) - recorded.epoch * steps - empty // accumulated)
    return Start(position, empty + last.batches, last.batches, left)


def _warn(now: Part, before: Part) -> None:
    words = [f"{part.processes} process(es) and batches of {part.batch_size}" for part in (now, before)]
    logger.warning(
        "The run is resumed with %s instead of %s: it continues with the rows of the epoch that no process had, and "
        "will not end with the same parameters as an uninterrupted run.",
        *words,
    )


def _fitting(batches: int, length: int, accumulated: int) -> int:
    """The largest number up to `batches` with which an epoch of `length` batches ends in whole optimizer steps."""
    return max(0, batches - (batches - length) % accumulated)


def _step(folder: Path) -> int:
    return read_json(folder / TRAINER_STATE_NAME)["global_step"]


def write(folder: Path, trainer) -> None:
    """Write the position into a checkpoint; no effect for data without a repeatable order."""
    if not is_ours(trainer):
        return
    start, accumulated = trainer.start, trainer.args.gradient_accumulation_steps
    length = len(trainer.callback_handler.train_dataloader)
    steps = -(-length // accumulated)
    epoch, step = divmod(trainer.state.global_step - start.position.offset, steps)
    batches, before = min(step * accumulated, length), ()
    if epoch == start.position.epoch and start.position.parts[:-1]:
        batches, before = batches - start.empty_before, start.position.parts[:-1]
    parts = (*before, replace(settings(trainer), batches=batches))
    replace(start.position, epoch=epoch, parts=parts, steps=steps).write(folder)


def initial_values(trainer, values: tuple) -> tuple:
    """The Trainer's initial values (epochs, ..., optimizer steps), for a run that was resumed with other settings."""
    position, (epochs, *rest, steps) = trainer.start.position, values
    if not position.offset:
        return values
    if trainer.args.max_steps > 0:  # they may take another number of epochs
        left = steps - position.offset - position.epoch * position.steps
        return position.epoch + -(-left // position.steps), *rest, steps
    return epochs, *rest, steps + position.offset


def initial_epoch(trainer, found: tuple[int, int]) -> tuple[int, int]:
    """The epoch in which a run continues, and its batches to skip: upstream's, or those of the position."""
    start, skips = trainer.start, not trainer.args.ignore_data_skip
    if start.position.offset or start.position.parts[:-1]:
        return start.position.epoch, start.empty if skips else 0
    return found
