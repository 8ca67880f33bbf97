"""Adversarial noise: one FGSM step from a random start (Wong et al., 2020, section 4)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.sampling import on_device

STEP_MARGIN = 2 / 255  # step size minus the largest noise, in PuzzleMix's code


class PixelRange:
    """Converts between normalised images and pixels in [0, 1]; `mean`, `std` per channel, on the device of `like`."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], like: Tensor) -> None:
        self.mean, self.std = (
            torch.tensor(values).to(like.device, non_blocking=True)[:, None, None] for values in (mean, std)
        )

    def add_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """Normalised images `x` (B, C, H, W) plus `noise` in pixel units, clipped to pixel values 0 to 1."""
        pixels = (x.float() * self.std + self.mean + noise).clamp(0, 1)
        return ((pixels - self.mean) / self.std).to(x.dtype)

    def clip_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """`noise` limited so that pixel values stay in 0 to 1."""
        pixels = x.float() * self.std + self.mean
        return (pixels + noise).clamp(0, 1) - pixels


def attack(
    x: Tensor, gradient: Callable[[Tensor], Tensor], pixels: PixelRange, max_noise: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images with adversarial noise, scaled by a random factor in [0, 1), and the loss gradient at the random start.

    Both (B, C, H, W). `gradient(images)` is the gradient of the loss; `max_noise`: largest change of pixels in [0, 1].
    """
    start = torch.empty(x.shape, device=x.device).uniform_(-max_noise, max_noise, generator=on_device(rng, x.device))
    start = pixels.clip_noise(x, start)
    grad = gradient(pixels.add_noise(x, start))
    return pixels.add_noise(x, sign_step(start, grad, max_noise) * float(torch.rand((), generator=rng))), grad


def sign_step(start: Tensor, grad: Tensor, max_noise: float) -> Tensor:
    """`start` plus a step in the direction `grad.sign()`, clipped to `max_noise`."""
    return (start + (max_noise + STEP_MARGIN) * grad.sign()).clamp(-max_noise, max_noise)
