"""Loaders of the trainer's own kinds of data, and what a checkpoint says of the order of a stream."""

import logging
from pathlib import Path

from torch.utils.data import DataLoader

from ..data import BatchPlan, Images, Stream, StreamLoader, check_order, order_of, train_loader, write_order

logger = logging.getLogger(__name__)


def pins(args) -> bool:
    """Whether batches are put where a GPU copies them from."""
    return args.dataloader_pin_memory and args.device.type == "cuda"


def make_train_loader(data, args, batch_size: int) -> DataLoader | None:
    """This process's batches of `Images` or of a `Stream`; None for other data. ValueError for what does not fit."""
    place, repeats = {"rank": args.process_index, "world": args.world_size}, getattr(args, "aug_repeats", 1)
    if isinstance(data, Images):
        plan = BatchPlan(len(data), batch_size, seed=args.seed, repeats=repeats, **place)
        return train_loader(data, plan, args.dataloader_num_workers, pins(args))
    if repeats > 1:
        raise ValueError(f"aug_repeats={repeats} is for hf_mixup.data.Images: leave it out.")
    if not isinstance(data, Stream):
        return None
    if data.rows is None and getattr(args, "mixup_off_epoch", 0):
        raise ValueError("mixup_off_epoch needs to know how long an epoch is: give num_examples.")
    place |= {"num_workers": args.dataloader_num_workers, "pin_memory": pins(args)}
    return StreamLoader(data, batch_size, seed=args.seed, **place)


def keep_order(folder: Path, trainer) -> None:
    """Write into a checkpoint of a streamed run what its order depends on."""
    if isinstance(trainer.train_dataset, Stream):
        write_order(folder, _order(trainer))


def check_resumable(folder: Path, trainer) -> None:
    """DataError if a streamed run cannot go on from the checkpoint with the same samples in the same order."""
    if isinstance(trainer.train_dataset, Stream):
        check_order(folder, _order(trainer))


def warn_of_stream(trainer) -> None:
    """Say before the first step that a run whose stream has no plan cannot be resumed."""
    data = trainer.train_dataset
    if isinstance(data, Stream) and not data.resumable and trainer.is_world_process_zero():
        logger.warning(
            "The rows of each file of this stream are not known: the run cannot be resumed. Give rows_per_shard "
            "(WebDataset), or choose a copy in parquet, if it should be."
        )


def _order(trainer) -> dict:
    args = trainer.args
    settings = {"processes": args.world_size, "batch size": trainer._train_batch_size, "seed": args.seed}
    accumulated = {"gradient accumulation": args.gradient_accumulation_steps}
    return order_of(trainer.train_dataset, **settings, **accumulated)
