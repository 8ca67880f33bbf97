"""Images of more than 8 bits, scaled to 8 bits by the range that the file states, or else by that of its values.

The result depends on the image alone, so that streams, stored data and worker processes give equal pixels.
"""

import logging
import multiprocessing
import os
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image

logger = logging.getLogger(__name__)

FULL = 65535  # the largest value of 16 bits
DEPTHS = (8, 10, 12, 14, 16)  # bits of sensors
DARK = 64  # high bytes below it are those of at most 14 bits
SLACK = 0.1  # share of a range by which interpolated floats may exceed it
# Pillow's modes of 16-bit colours, with those that read the low bytes: of the other byte order, or of single bytes.
LOW = {
    f"{mode};16{order}": f"{mode};16{'L' if order == 'B' else 'B'}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order in "BLN"
}
LOW |= {"LA;16B": "RGBA"}
BITS, MIN_VALUE, MAX_VALUE, MIN_FLOAT, MAX_FLOAT = 258, 280, 281, 340, 341  # tags of TIFF
# Not of the default context, whose start method the user may still set.
LOCK = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn").Lock()


@dataclass(frozen=True)
class PixelRange:
    """The values that become 0 and 255. `assumed`: the file does not state them."""

    low: float
    high: float
    assumed: bool = False


class DeepImages:
    """Whether images of more than 8 bits were read, in all worker processes of a run; warns of the first assumed range.

    The flags are in shared memory.
    """

    def __init__(self):
        self.flags = torch.zeros(2, dtype=torch.uint8).share_memory_()

    @property
    def seen(self) -> bool:
        """Whether an image was scaled to 8 bits."""
        return bool(self.flags[0])

    def add(self, found: PixelRange, where: str) -> None:
        """Count an image that was scaled by this range; `where` names it."""
        self.flags[0] = 1
        if not found.assumed or self.flags[1]:
            return
        with LOCK:
            first = not self.flags[1]
            self.flags[1] = 1
        if first and os.environ.get("RANK", "0") == "0":
            logger.warning(
                "%s has more than 8 bits, and the file does not state the range of its values: by the values found, "
                "the range %g to %g is scaled to 8 bits. So is each further image, by its own values. If this is "
                "wrong, store the range in the files (tag MaxSampleValue of TIFF, sBIT of PNG), or convert them.",
                where,
                found.low,
                found.high,
            )


def is_deep(image: Image.Image) -> bool:
    """Whether an image has one channel of integers of more than 8 bits, or of floats."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def eight_bits(image: Image.Image, stated: PixelRange | None) -> tuple[Image.Image, PixelRange]:
    """A deep image as grey image of 8 bits, and the range of values that was scaled."""
    values = np.asarray(image)
    found = _range_of(values, stated)
    return Image.fromarray(scaled(values, found)), found


def scaled(values: np.ndarray, found: PixelRange) -> np.ndarray:
    """uint8: `found.low` and below become 0, `found.high` and above 255; NaN becomes 0."""
    span = (found.high - found.low) or 1
    shares = (np.clip(values.astype(np.float64), found.low, found.high) - found.low) / span
    return np.floor(255 * np.nan_to_num(shares, nan=0.0) + 0.5).astype(np.uint8)


def stated_range(image: Image.Image) -> PixelRange | None:
    """What the file of an image that is not loaded yet says about the range of its values."""
    if image.mode != "F" and (image.format == "PPM" or (image.format == "JPEG2000" and _bits_of_jpeg2000(image) < 16)):
        return PixelRange(0, FULL)  # Pillow has scaled fewer bits to 16
    if image.format == "PNG":
        bits = _significant_bits(image)
        return PixelRange(0, 2**bits - 1) if bits else None
    return _range_of_tags(image.tag_v2) if image.format == "TIFF" else None


def _range_of_tags(tags) -> PixelRange | None:
    low, high = (_number(tags, names) for names in ((MIN_FLOAT, MIN_VALUE), (MAX_FLOAT, MAX_VALUE)))
    low = low or 0
    if high is not None and high > low:
        return PixelRange(low, high)
    bits = _number(tags, (BITS,)) or 16
    return PixelRange(0, 2**bits - 1) if 8 < bits < 16 else None


def _number(tags, names: tuple[int, ...]) -> float | None:
    """The first number of the first of these tags that exists."""
    for name in names:
        value = tags.get(name)
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, int | float) or hasattr(value, "numerator"):
            return value if isinstance(value, int) else float(value)
    return None


def _significant_bits(image: Image.Image) -> int | None:
    """The largest number of the chunk sBIT of a PNG file, which Pillow does not read; None without it."""
    content = _content(image)
    start = 8
    while 0 < start < len(content) - 12:
        length, name = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        if name == b"sBIT":
            return max(content[start + 8 : start + 8 + length], default=None)
        if name in (b"IDAT", b"PLTE"):
            return None
        start += 12 + length
    return None


def _bits_of_jpeg2000(image: Image.Image) -> int:
    """The bits of a value, from the marker SIZ."""
    content = _content(image)
    place = content.find(b"\xff\x4f\xff\x51") + 42
    return (content[place] & 127) + 1 if 42 <= place < len(content) else 16


def _content(image: Image.Image) -> bytes:
    """The bytes of the file of an image that is not loaded yet, else b""."""
    file = getattr(image, "fp", None)
    if file is None:
        return b""
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    return content


def _range_of(values: np.ndarray, stated: PixelRange | None) -> PixelRange:
    """The stated range, unless values are outside it; else the usual range that the values fill."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return stated or PixelRange(0, 1)
    low, high = finite.min().item(), finite.max().item()
    if stated is not None and stated.low <= low and high <= stated.high:
        return stated
    return _float_range(low, high) if values.dtype.kind == "f" else _integer_range(values, low, high)


def _float_range(low: float, high: float) -> PixelRange:
    for top in (1, 255, FULL):
        fills = high > top / 16 or top == 1
        if fills and -SLACK * top <= low and high <= (1 + SLACK) * top:
            return PixelRange(0, top, assumed=True)
    if -1 - SLACK <= low and high <= 1 + SLACK:
        return PixelRange(-1, 1, assumed=True)
    return PixelRange(min(low, 0), high, assumed=True)


def _integer_range(values: np.ndarray, low: int, high: int) -> PixelRange:
    if low < 0 or high > FULL:
        return PixelRange(min(low, 0), high, assumed=True)
    values = values.astype(np.int64)
    if not (values % 257).any() or not (values % 256).any():  # 8 bits that were widened to 16
        return PixelRange(0, FULL)
    bits = next(bits for bits in DEPTHS if high < 2**bits)
    return PixelRange(0, 2**bits - 1, assumed=bits < 16)


def low_bytes(image: Image.Image) -> Image.Image | None:
    """The low bytes of 16-bit colours of an image that is not loaded yet; Pillow reads their high bytes only."""
    if image.mode not in ("RGB", "RGBA") or not any(_low(part) != part for part in getattr(image, "tile", ())):
        return None
    second = Image.open(BytesIO(_content(image)), formats=[image.format])
    grey = any("LA;16B" in part for part in second.tile)
    second.tile = [_low(part) for part in second.tile]
    if not grey:
        return second
    merged = Image.merge("RGB", [second.getchannel("G")] * 3)
    merged.info = second.info  # has its orientation
    return merged


def _low(part):
    """A tile of Pillow, changed so that its low bytes are read."""
    codec, box, offset, arguments = part
    changed = tuple(LOW.get(value, value) for value in ((arguments,) if isinstance(arguments, str) else arguments))
    changed = changed[0] if isinstance(arguments, str) else changed
    return type(part)(codec, box, offset, changed) if hasattr(part, "_fields") else (codec, box, offset, changed)


def colours_of_8_bits(
    image: Image.Image, low: Image.Image, stated: PixelRange | None
) -> tuple[Image.Image, PixelRange | None]:
    """A loaded image of 16-bit colours: scaled, and with its range, if its values are those of at most 14 bits."""
    high = np.asarray(image)[..., :3]
    if high.max(initial=0) >= DARK:
        return image, None
    values = high.astype(np.int32) * 256 + np.asarray(low)[..., :3]
    found = _range_of(values, stated)
    return (image, None) if found.high == FULL else (Image.fromarray(scaled(values, found)), found)
