"""Smooth fields over an image: random ones of low frequency, and bells."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# logarithm below which a bell's factor falls no more: denormal numbers take a processor ten times as long
FAINT = -40.0
FIELD_SIDE = 64  # frequencies kept a side: above decay 2 the others hold less than a thousandth of the power
STEEP = 2.0  # decay from which that holds; below it all frequencies are kept


def spectrum_size(size: tuple[int, int], decay: float) -> tuple[int, int, int]:
    """Shape of the noise that `fourier` takes for one field: real and imaginary parts, rows, half of the columns."""
    height, width = (min(side, FIELD_SIDE) if decay >= STEEP else side for side in size)
    return 2, height, width // 2 + 1


def amplitudes(size: tuple[int, int], decay: float) -> Tensor:
    """(h, w) float64 `1 / frequency ** decay`, frequencies in waves a pixel, none below one wave an image."""
    _, rows, columns = spectrum_size(size, decay)
    height, width = size
    down = torch.fft.fftfreq(rows, 1 / rows, dtype=torch.float64) / height
    right = torch.arange(columns, dtype=torch.float64) / width
    frequency = (down[:, None].square() + right.square()).sqrt()
    return frequency.clamp(min=1 / max(size)) ** -decay


@lru_cache(maxsize=16)
def _waves(size: tuple[int, int], decay: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitudes (h, w), and the waves down (2H, 2h) and across (2w, W) as real matrices; not to be written to."""
    _, rows, columns = spectrum_size(size, decay)
    height, width = size
    scale = amplitudes(size, decay)
    down = torch.fft.fftfreq(rows, 1 / rows, dtype=torch.float64)
    down = torch.arange(height, dtype=torch.float64)[:, None] * down * (2 * torch.pi / height)
    right = torch.arange(columns, dtype=torch.float64)
    twice = torch.where((right == 0) | (2 * right == width), 1.0, 2.0)  # a column stands for its mirror image too
    right = right[:, None] * torch.arange(width, dtype=torch.float64) * (2 * torch.pi / width)
    complex_down = torch.cat([torch.cat([down.cos(), -down.sin()], 1), torch.cat([down.sin(), down.cos()], 1)])
    real_across = torch.cat([twice[:, None] * right.cos(), -twice[:, None] * right.sin()])
    return tuple(part.float().to(device) for part in (scale / scale.max(), complex_down, real_across))


def fourier(noise: Tensor, size: tuple[int, int], decay: float) -> Tensor:
    """(B, H, W) random fields whose waves grow rarer by `1 / frequency ** decay`; only their order has a meaning.

    `noise` (B, 2, h, w) standard normal, of the shape `spectrum_size` says. Two small matrix products: the inverse
    transform of a spectrum that is zero above FIELD_SIDE / 2 waves.
    """
    scale, down, across = _waves(tuple(size), decay, noise.device)
    waves = down @ (noise * scale).flatten(1, 2)
    return waves.unflatten(1, (2, -1)).transpose(1, 2).flatten(2) @ across


def highest(field: Tensor, count: Tensor) -> Tensor:
    """(B, 1, H, W) float32 mask, one at the `count` (B or 1,) highest values of each `field` (B or 1, H, W).

    Where float32 has several values equal to the last of them, all of these are one.
    """
    values = field.flatten(1)
    rows, pixels = max(len(field), len(count)), values.shape[1]
    count = count.to(values.device, non_blocking=True)[:, None].expand(rows, 1)
    least = _sorted(values).expand(rows, -1).gather(1, (pixels - count).clamp(max=pixels - 1))
    least = torch.where(count > 0, least, torch.inf)
    return (values >= least).float().view(-1, 1, *field.shape[1:])


def _sorted(values: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or values.device.type != "cpu":
        return values.sort(1).values
    return torch.from_numpy(np.sort(values.numpy(), 1))  # twenty times as fast there


def ramp(field: Tensor, count: Tensor, soft: Tensor) -> Tensor:
    """(B, 1, H, W) float32 mask: as `highest`, but falling from one to zero over `2 * soft` (B,) ranks."""
    rank = field.flatten(1).argsort(1, descending=True).argsort(1)
    count, soft = (number.to(rank.device, non_blocking=True)[:, None] for number in (count, soft))
    sharp = (rank < count).float()
    falling = (count + soft - 1 - rank) / (2 * soft - 1)
    mask = torch.where(soft > 0, falling.clamp(0, 1), sharp)
    return mask.view(-1, 1, *field.shape[1:])


def bell(size: tuple[int, int], centre: Tensor, rate: Tensor, device: torch.device) -> list[Tensor]:
    """Factors (B, H) and (B, W) of `exp(-rate * d^2)`, float32, where d is the distance in pixels from `centre`.

    `centre` (B or 1, 2) row and column; `rate` (B or 1,).
    """
    centre, rate = (number.to(device, torch.float32, non_blocking=True) for number in (centre, rate))
    return [
        (-rate[:, None] * (torch.arange(side, device=device) - centre[:, axis : axis + 1]).square())
        .clamp(min=FAINT)
        .exp()
        for axis, side in enumerate(size)
    ]
