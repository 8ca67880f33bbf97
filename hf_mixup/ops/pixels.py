"""Pillow's image operations on batches, with one parameter per image.

Images are float32 (N, C, H, W) with integer values 0..255; every operation rounds as Pillow does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 255


def black_and_white(x: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """Values of `x` (B, C, H, W) that map to levels 0 and 255, each (B or 1, C or 1, 1, 1) float32.

    For integer images 0 and 255. With `mean` and `std` (one number per channel), the normalised values of 0 and 1.
    Otherwise the minimum and maximum of each image.
    """
    if not x.is_floating_point():
        black, white = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), float(LEVELS))
    elif std is None:
        return x.float().amin((1, 2, 3), keepdim=True), x.float().amax((1, 2, 3), keepdim=True)
    else:
        mean, std = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1) for values in (mean, std))
        black, white = -mean / std, (1 - mean) / std
    return tuple(value.to(x.device, non_blocking=True) for value in (black, white))


def to_levels(x: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """`x` (B, C, H, W) as levels 0..255, rounded and clipped; all zero where `white` equals `black`."""
    span = torch.where(white > black, white - black, 1.0)
    return ((x.float() - black) * (LEVELS / span)).round().clamp(0, LEVELS)


def from_levels(x: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Levels 0..255 scaled to values between `black` and `white`."""
    return black + (white - black) * (x / LEVELS)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched so that its minimum is 0 and its maximum 255; a constant channel is not changed."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, ((x - low) * LEVELS / span.clamp(min=1)).floor(), x)


def equalize(x: Tensor) -> Tensor:
    """Each channel with an equalised histogram.

    A pixel's new level is the number of darker pixels divided by a step: 1/255 of all pixels below the maximum level. A
    channel with fewer than 255 such pixels is not changed.
    """
    level = x.flatten(2).long()
    darker = _count_darker(level)
    step = darker.gather(2, level.amax(2, keepdim=True)) // LEVELS
    mapped = ((step // 2 + darker) // step.clamp(min=1)).clamp(max=LEVELS)
    mapped = torch.where(step > 0, mapped, torch.arange(LEVELS + 1, device=x.device))
    return mapped.gather(2, level).view(x.shape).to(x.dtype)


def _count_darker(level: Tensor) -> Tensor:
    """(N, C, 256) number of pixels of `level` (N, C, pixels) below each level, per channel."""
    shape = *level.shape[:2], LEVELS + 1
    start = torch.arange(shape[0] * shape[1], device=level.device).view(*shape[:2], 1) * shape[2]
    count = torch.zeros(shape, dtype=torch.long, device=level.device).flatten()
    # one-dimensional, because scatter_add_ is then deterministic on a GPU
    count = count.scatter_add_(0, (start + level).flatten(), torch.ones_like(level).flatten()).view(shape)
    return count.cumsum(2) - count


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """Levels reduced to their highest `bits` (N,), 0 to 8."""
    step = torch.exp2(8 - bits.to(x.dtype))[:, None, None, None]
    return (x / step).floor() * step


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Levels at or above `threshold` (N,) inverted."""
    return torch.where(x < threshold.to(x.dtype)[:, None, None, None], x, LEVELS - x)


def affine(x: Tensor, matrix: Tensor) -> Tensor:
    """Affine transform: output pixel (column, row) is sampled at `matrix` (N, 2, 3) @ (column, row, 1).

    Bilinear, black outside the image. Coordinates are in pixels; pixel centres are at half-integers.
    """
    height, width = x.shape[-2:]
    column = torch.arange(width, device=x.device) + 0.5
    row = (torch.arange(height, device=x.device) + 0.5)[:, None]
    across, down, offset = matrix[:, :, :, None, None].unbind(2)
    place = across * column + down * row + offset
    column, row = place.unbind(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    (left, right, right_share), (above, below, below_share) = (
        _neighbours(column, width),
        _neighbours(row, height),
    )

    def pixels(rows: Tensor, columns: Tensor) -> Tensor:
        index = (rows * width + columns).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return x.flatten(2).gather(2, index).view(x.shape)

    upper = torch.lerp(pixels(above, left), pixels(above, right), right_share)
    lower = torch.lerp(pixels(below, left), pixels(below, right), right_share)
    return torch.where(inside[:, None], torch.lerp(upper, lower, below_share).floor(), 0.0)


def _neighbours(place: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels next to each coordinate `place` (N, H, W), clamped to the image, and the weight of the second."""
    first = (place - 0.5).floor()
    share = (place - 0.5 - first)[:, None]
    return first.long().clamp(0, side - 1), (first.long() + 1).clamp(0, side - 1), share
