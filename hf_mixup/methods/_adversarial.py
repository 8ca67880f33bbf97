"""Noise that a network takes badly: one step from a random start (Wong et al., 2020, section 4)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.sampling import on_device

OVERSHOOT = 2 / 255  # how much longer than the noise may be the step is, in PuzzleMix's code


class Pixels:
    """Images of values 0 to 1, of channels that were normalised with `mean` and `std`."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], like: Tensor):
        self.mean, self.std = (
            torch.tensor(values).to(like.device, non_blocking=True)[:, None, None] for values in (mean, std)
        )

    def add(self, x: Tensor, noise: Tensor) -> Tensor:
        """Like normalised images `x` (B, C, H, W), with `noise` in pixel units, clipped to 0 to 1."""
        pixels = (x.float() * self.std + self.mean + noise).clamp(0, 1)
        return ((pixels - self.mean) / self.std).to(x.dtype)

    def room(self, x: Tensor, noise: Tensor) -> Tensor:
        """As much of `noise` as changes a pixel."""
        pixels = x.float() * self.std + self.mean
        return (pixels + noise).clamp(0, 1) - pixels


def attack(
    x: Tensor, gradient: Callable[[Tensor], Tensor], pixels: Pixels, most: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images with noise of at most `most` a pixel, a random part of the step, and the loss's gradient at its start.

    Both (B, C, H, W); `gradient` gives that of images like `x`.
    """
    start = torch.empty(x.shape, device=x.device).uniform_(-most, most, generator=on_device(rng, x.device))
    start = pixels.room(x, start)
    slope = gradient(pixels.add(x, start))
    return pixels.add(x, step(start, slope, most) * float(torch.rand((), generator=rng))), slope


def step(start: Tensor, slope: Tensor, most: float) -> Tensor:
    """Noise `start` after a step along the signs of `slope`, none larger than `most`."""
    return (start + (most + OVERSHOOT) * slope.sign()).clamp(-most, most)
