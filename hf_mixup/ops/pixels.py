"""Pillow's image operations on whole batches, each image with its own parameter.

Images are float32 (N, C, H, W) of whole numbers 0..255, as 8-bit images are: every operation rounds as Pillow does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 255


def black_and_white(x: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, Tensor]:
    """What stands for levels 0 and 255 in images `x` (B, C, H, W), each (B or 1, C or 1, 1, 1) float32.

    Whole-number images: 0 and 255. With `mean` and `std`, one number a channel: 0 and 1, normalised. Without: each
    image's own lowest and highest value.
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
    """`x` (B, C, H, W) as levels, rounded and clipped; all zero where `white` is `black`."""
    span = torch.where(white > black, white - black, 1.0)
    return ((x.float() - black) * (LEVELS / span)).round().clamp(0, LEVELS)


def from_levels(x: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Levels `x` as numbers between `black` and `white`."""
    return black + (white - black) * (x / LEVELS)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched so that its darkest pixel is 0 and its brightest 255; an even channel stays as it is."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, ((x - low) * LEVELS / span.clamp(min=1)).floor(), x)


def equalize(x: Tensor) -> Tensor:
    """Each channel with an even histogram.

    A pixel's level follows from how many are darker, counted in steps: a 255th of all pixels but the brightest ones. A
    channel with fewer of them than 255 stays as it is.
    """
    level = x.flatten(2).long()
    darker = _darker(level)
    step = darker.gather(2, level.amax(2, keepdim=True)) // LEVELS
    become = ((step // 2 + darker) // step.clamp(min=1)).clamp(max=LEVELS)
    become = torch.where(step > 0, become, torch.arange(LEVELS + 1, device=x.device))
    return become.gather(2, level).view(x.shape).to(x.dtype)


def _darker(level: Tensor) -> Tensor:
    """(N, C, 256) how many pixels of each channel of `level` (N, C, pixels) are darker than a level."""
    shape = *level.shape[:2], LEVELS + 1
    start = torch.arange(shape[0] * shape[1], device=level.device).view(*shape[:2], 1) * shape[2]
    count = torch.zeros(shape, dtype=torch.long, device=level.device).flatten()
    # of one axis, where adding is deterministic on a GPU too
    count = count.scatter_add_(0, (start + level).flatten(), torch.ones_like(level).flatten()).view(shape)
    return count.cumsum(2) - count


def posterize(x: Tensor, bits: Tensor) -> Tensor:
    """The highest `bits` (N,) of each level, 0 to 8."""
    step = torch.exp2(8 - bits.to(x.dtype))[:, None, None, None]
    return (x / step).floor() * step


def solarize(x: Tensor, threshold: Tensor) -> Tensor:
    """Levels from `threshold` (N,) on turned round."""
    return torch.where(x < threshold.to(x.dtype)[:, None, None, None], x, LEVELS - x)


def affine(x: Tensor, matrix: Tensor) -> Tensor:
    """Each pixel from where `matrix` (N, 2, 3) sends its column, row and one; bilinear, black from beyond the border.

    Units are pixels, and a pixel's centre lies at a half.
    """
    height, width = x.shape[-2:]
    column = torch.arange(width, device=x.device) + 0.5
    row = (torch.arange(height, device=x.device) + 0.5)[:, None]
    across, down, ahead = matrix[:, :, :, None, None].unbind(2)
    place = across * column + down * row + ahead
    column, row = place.unbind(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    (left, right, right_share), (above, below, below_share) = (
        _neighbours(column, width),
        _neighbours(row, height),
    )

    def pixels(rows, columns):
        index = (rows * width + columns).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return x.flatten(2).gather(2, index).view(x.shape)

    upper = torch.lerp(pixels(above, left), pixels(above, right), right_share)
    lower = torch.lerp(pixels(below, left), pixels(below, right), right_share)
    return torch.where(inside[:, None], torch.lerp(upper, lower, below_share).floor(), 0.0)


def _neighbours(place: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels about a `place` (N, H, W), the border's own where one is missing, and the second one's share."""
    first = (place - 0.5).floor()
    share = (place - 0.5 - first)[:, None]
    return first.long().clamp(0, side - 1), (first.long() + 1).clamp(0, side - 1), share
