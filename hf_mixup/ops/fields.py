"""Smooth fields over an image: low-frequency random fields and Gaussians."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# lower bound of a Gaussian's exponent: arithmetic on denormal numbers is ten times slower
MIN_LOG = -40.0
SPECTRUM_SIDE = 64  # frequencies kept per side: from decay 2 on, the others hold less than a thousandth of the power
TRUNCATED_DECAY = 2.0  # decay from which frequencies are truncated; below it all are kept


def spectrum_size(size: tuple[int, int], decay: float) -> tuple[int, int, int]:
    """Shape of the noise that `fourier` takes for one field: (real and imaginary part, rows, half of the columns)."""
    height, width = (min(side, SPECTRUM_SIDE) if decay >= TRUNCATED_DECAY else side for side in size)
    return 2, height, width // 2 + 1


def amplitudes(size: tuple[int, int], decay: float) -> Tensor:
    """(h, w) float64 `1 / frequency ** decay`, frequency in cycles per pixel, at least one cycle per image."""
    _, rows, columns = spectrum_size(size, decay)
    height, width = size
    down = torch.fft.fftfreq(rows, 1 / rows, dtype=torch.float64) / height
    right = torch.arange(columns, dtype=torch.float64) / width
    frequency = (down[:, None].square() + right.square()).sqrt()
    return frequency.clamp(min=1 / max(size)) ** -decay


@lru_cache(maxsize=16)
def _basis(size: tuple[int, int], decay: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitudes (h, w) and real inverse DFT matrices of columns (2H, 2h) and rows (2w, W); cached, do not modify."""
    _, rows, columns = spectrum_size(size, decay)
    height, width = size
    scale = amplitudes(size, decay)
    down = torch.fft.fftfreq(rows, 1 / rows, dtype=torch.float64)
    down = torch.arange(height, dtype=torch.float64)[:, None] * down * (2 * torch.pi / height)
    right = torch.arange(columns, dtype=torch.float64)
    weight = torch.where((right == 0) | (2 * right == width), 1.0, 2.0)  # 2 where the conjugate column is omitted
    right = right[:, None] * torch.arange(width, dtype=torch.float64) * (2 * torch.pi / width)
    complex_down = torch.cat([torch.cat([down.cos(), -down.sin()], 1), torch.cat([down.sin(), down.cos()], 1)])
    real_across = torch.cat([weight[:, None] * right.cos(), -weight[:, None] * right.sin()])
    parts = scale / scale.max(), complex_down, real_across
    return tuple(part.float().to(device, non_blocking=True) for part in parts)


def fourier(noise: Tensor, size: tuple[int, int], decay: float) -> Tensor:
    """(B, H, W) random fields with amplitudes `1 / frequency ** decay`, up to a constant factor.

    `noise` (B, 2, h, w) standard normal, with (2, h, w) from `spectrum_size`. The inverse FFT of a spectrum truncated
    at SPECTRUM_SIDE / 2 cycles, as two small matrix products.
    """
    scale, down, across = _basis(tuple(size), decay, noise.device)
    waves = down @ (noise * scale).flatten(1, 2)
    return waves.unflatten(1, (2, -1)).transpose(1, 2).flatten(2) @ across


def top_mask(field: Tensor, count: Tensor) -> Tensor:
    """(B, 1, H, W) float32 mask, one at the `count` (B or 1,) highest values of each `field` (B or 1, H, W).

    Pixels equal to the lowest of these values are also one.
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
    return torch.from_numpy(np.sort(values.numpy(), 1))  # twenty times faster than torch's sort on the CPU


def soft_top_mask(field: Tensor, count: Tensor, soft: Tensor) -> Tensor:
    """(B, 1, H, W) float32 mask: as `top_mask`, but decreasing from one to zero over `2 * soft` (B,) ranks."""
    rank = field.flatten(1).argsort(1, descending=True).argsort(1)
    count, soft = (number.to(rank.device, non_blocking=True)[:, None] for number in (count, soft))
    sharp = (rank < count).float()
    falling = (count + soft - 1 - rank) / (2 * soft - 1)
    mask = torch.where(soft > 0, falling.clamp(0, 1), sharp)
    return mask.view(-1, 1, *field.shape[1:])


def gaussian_factors(size: tuple[int, int], centre: Tensor, rate: Tensor, device: torch.device) -> list[Tensor]:
    """Factors (B, H) and (B, W) of the Gaussian `exp(-rate * d^2)`, float32; d is the distance to `centre` in pixels.

    `centre` (B or 1, 2) row and column; `rate` (B or 1,).
    """
    centre, rate = (number.to(device, torch.float32, non_blocking=True) for number in (centre, rate))
    return [
        (-rate[:, None] * (torch.arange(side, device=device) - centre[:, axis : axis + 1]).square())
        .clamp(min=MIN_LOG)
        .exp()
        for axis, side in enumerate(size)
    ]
