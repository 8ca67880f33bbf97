"""The units of a streamed split: the parts of files that are read with one request each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

ROW_BYTES = 600  # of a row in memory beside its encoded image
MIXED = 0.8  # of the range of all labels that a unit covers on average, if the rows are not sorted by class


@dataclass(frozen=True)
class Unit:
    """Rows that are read together: neighbouring row groups of a parquet file, a tar file, or a section of one."""

    file: str
    size: int  # bytes of the file
    first: int  # row number of the unit's first row in its file
    rows: int
    bytes: int  # of the encoded images in memory
    start: int  # the first row group, or the first byte in a tar file
    stop: int  # the row group or byte after the last one
    labels: tuple[int, int] | None = None  # the smallest and the largest label, if the file says them

    def followed_by(self, other: "Unit") -> "Unit":
        """This unit and the next one of its file as one."""
        both = (self.labels, other.labels)
        labels = None if None in both else (min(low for low, _ in both), max(high for _, high in both))
        return replace(
            self, rows=self.rows + other.rows, bytes=self.bytes + other.bytes, stop=other.stop, labels=labels
        )


@dataclass(frozen=True)
class UnitSizes:
    """Rows of each unit, and bytes that they take in memory.

    `sequential`: a unit is read from its start. `mixed`: each unit holds a mixture of the classes, so drawing may begin
    before the memory is full.
    """

    rows: tuple[int, ...]
    bytes: tuple[int, ...]
    sequential: bool = False
    mixed: bool = False

    def row_bytes(self, unit: int) -> int:
        """The mean bytes of a row of a unit."""
        return -(-self.bytes[unit] // max(self.rows[unit], 1))


def merged(units: Sequence[Unit], target: int) -> tuple[Unit, ...]:
    """The same rows in larger units: neighbours in a file are merged up to `target` bytes."""
    found = []
    for unit in units:
        last = found[-1] if found else None
        if last and (last.file, last.stop) == (unit.file, unit.start) and last.bytes + unit.bytes <= target:
            found[-1] = last.followed_by(unit)
        else:
            found.append(unit)
    return tuple(found)


def mixed(units: Sequence[Unit]) -> bool:
    """Whether the labels of each unit, as far as the files say, cover nearly the range of all labels."""
    limits = [unit.labels for unit in units if unit.rows]
    if not limits or None in limits:
        return False
    span = max(high for _, high in limits) - min(low for low, _ in limits)
    rows = [unit.rows for unit in units if unit.rows]
    return span > 0 and sum((high - low) * count for (low, high), count in zip(limits, rows)) >= MIXED * span * sum(
        rows
    )
