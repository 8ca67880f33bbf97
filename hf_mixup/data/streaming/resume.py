"""Whether a streamed run can be resumed exactly: a checkpoint records the settings that determine the row order."""

import json
from pathlib import Path

from ...errors import DataError
from ...files import atomic_write
from .dataset import Stream

ORDER_FILE = "stream.json"  # in a checkpoint


def order_of(stream: Stream, **settings: int) -> dict:
    """The settings that determine the row order of a stream: data, block size, and `settings` such as the seed.

    Empty for a stream without row counts, which cannot be resumed.
    """
    if not stream.resumable:
        return {}
    source = stream.source
    return {**settings, "shuffle_block": stream.block, "data revision": source.revision, "rows": source.digest()}


def write_order(folder: Path, order: dict) -> None:
    """Write the result of `order_of` into a checkpoint."""
    atomic_write(folder / ORDER_FILE, json.dumps(order, indent=2) + "\n")


def check_order(folder: Path, order: dict) -> None:
    """Raise DataError if resuming from the checkpoint would not continue with the same rows in the same order."""
    if not order:
        raise DataError(
            "A streamed run can be resumed only if the row count of each file is known. It is unknown for this data: "
            "give rows_per_shard (WebDataset), choose a copy in parquet, or train without streaming."
        )
    file = folder / ORDER_FILE
    if not file.is_file():
        raise DataError(
            f"{folder} is not a checkpoint of a streamed run: resume without streaming, or choose another output_dir."
        )
    recorded = json.loads(file.read_text())
    for name, new in order.items():
        old = recorded.get(name)
        if old != new:
            raise DataError(
                f"The run started with {name} {old} and cannot be resumed exactly with {new}: use {old} again."
            )
