"""Loaders for `Images` and `Stream`."""

import logging

from torch import Tensor
from torch.utils.data import DataLoader

from ..data import (
    BatchPlan,
    Images,
    Stream,
    StreamLoader,
    eval_loader,
    train_loader,
)

logger = logging.getLogger(__name__)


def pins_memory(args) -> bool:
    """Whether batches are copied to pinned memory."""
    return args.dataloader_pin_memory and args.device.type == "cuda"


def make_train_loader(data, args, batch_size: int) -> DataLoader | None:
    """A loader of this rank's batches, for `Images` or a `Stream`; else None. ValueError for unsupported settings."""
    repeats, balanced = getattr(args, "aug_repeats", 1), getattr(args, "class_balanced", False)
    shard = {"rank": args.process_index, "world": args.world_size}
    if isinstance(data, Images):
        rows = len(data)  # first, because it omits the classes of skipped rows
        classes = _classes(data) if balanced else None
        plan = BatchPlan(rows, batch_size, seed=args.seed, repeats=repeats, classes=classes, **shard)
        return train_loader(data, plan, args.dataloader_num_workers, pins_memory(args))
    for name, value in (("aug_repeats", repeats > 1 and repeats), ("class_balanced", balanced)):
        if value:
            raise ValueError(f"{name}={value} requires hf_mixup.data.Images: leave it out, or use Images.")
    if not isinstance(data, Stream):
        return None
    if data.rows is None and getattr(args, "mixup_off_epoch", 0):
        raise ValueError("mixup_off_epoch requires the length of an epoch: give num_examples.")
    options = {"num_workers": args.dataloader_num_workers, "pin_memory": pins_memory(args)}
    return StreamLoader(data, batch_size, seed=args.seed, **shard, **options)


def _classes(images: Images) -> Tensor:
    """The class of each row; ValueError for labels of another kind."""
    kind = images.label_info.kind
    if kind != "class":
        raise ValueError(
            f"class_balanced requires one class per image; the labels of this data are of kind {kind!r}: leave it out."
        )
    return images.labels


def make_eval_loader(data, args) -> DataLoader | None:
    """A loader of every row of `Images`, in order; None for other data."""
    if not isinstance(data, Images):
        return None
    data.load()  # before accelerate wraps the loader, whose workers would each decode the whole split
    return eval_loader(data, args.eval_batch_size, args.dataloader_num_workers, pins_memory(args))


def warn_if_not_resumable(trainer) -> None:
    """Log a warning before the first step if the rows in each file of a stream are unknown: it cannot be resumed."""
    data = trainer.train_dataset
    if isinstance(data, Stream) and not data.resumable and trainer.is_world_process_zero():
        logger.warning(
            "The number of rows in each file of this stream is unknown: the run cannot be resumed. To make it "
            "resumable, give rows_per_shard (WebDataset), or use a copy of the data in parquet."
        )
