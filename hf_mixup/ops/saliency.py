"""Saliency of image batches without a network, and pooling of saliency maps."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import widest

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LEVELS = 255
WINDOWS = (12, 24, 48, 28, 56, 112)  # half sides of the surrounding squares, in pixels (Montabone and Soto, 2010)
SPECTRAL_SIDE = 32  # side in pixels at which the spectral residual is computed
SPECTRAL_BLUR = 1.25  # standard deviation of the blur, in pixels at that size
SPECTRAL_CUTOFF = 5.0  # the blur is truncated at this many standard deviations


def grey(x: Tensor, mean: tuple | None = None, std: tuple | None = None) -> Tensor:
    """(B, H, W) float32 grey levels of images `x` (B, C, H, W), integers 0..255.

    `mean`, `std`: the normalisation of the images. Without them, each image's grey values are stretched to 0..255.
    Three channels are weighted as red, green and blue; any other number of channels is averaged.
    """
    x = x.float() if x.dtype != torch.float64 else x
    if std is not None:
        x = x * _per_channel(std, x) + _per_channel(mean, x)
    light = x.mean(1) if x.shape[1] != len(LUMA) else sum(part * x[:, c] for c, part in enumerate(LUMA))
    if std is None:
        low, high = light.amin((1, 2), keepdim=True), light.amax((1, 2), keepdim=True)
        light = (light - low) / torch.where(high > low, high - low, 1.0)
    return (light.float() * LEVELS).round().clamp(0, LEVELS)


def _per_channel(values: tuple, x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype).to(x.device, non_blocking=True)[:, None, None]


def fine_grained(light: Tensor) -> Tensor:
    """(B, H, W) contrast of each pixel of `light` (B, H, W; integers 0..255) with its surroundings.

    Montabone and Soto (2010): positive and negative differences from the mean of a square around the pixel, each summed
    over six squares and scaled to 0..255, then added, as integers. As in OpenCV's detector, except that its sum
    overflows at 256.
    """
    light = _blur(_blur(light))
    # float32 represents integers up to 2^24; devices without float64 round the sums of larger images
    exact = torch.float32 if LEVELS * light[0].numel() < 2**24 else widest(light.device)
    total = F.pad(light.cumsum(1, dtype=exact).cumsum(2), (1, 0, 1, 0))
    brighter = darker = torch.zeros_like(light)
    windows = [min(window, max(light.shape[1:])) for window in WINDOWS]  # equal for all sides larger than the image
    for window in dict.fromkeys(windows):
        times = sum(other == window for other in windows)
        contrast = light - _surround(light, total, window).float()
        brighter = brighter + times * contrast.clamp(min=0).floor()
        darker = darker + times * (-contrast).clamp(min=0).floor()
    return sum((LEVELS * (part / part.amax((1, 2), keepdim=True).clamp(min=1))).floor() for part in (brighter, darker))


def _blur(light: Tensor) -> Tensor:
    """3x3 binomial blur, rounded, with reflected borders."""
    padded = F.pad(light, (1, 1, 1, 1), mode="reflect" if min(light.shape[1:]) > 1 else "replicate")
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return ((down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:] + 8) / 16).floor()


def _surround(light: Tensor, total: Tensor, window: int) -> Tensor:
    """Mean of the other pixels within `window` of each pixel; `total` (B, H+1, W+1) is the integral image."""
    (height, width), first, last = light.shape[1:], 1, 2 * window + 1
    rows = F.pad(total, (0, 0, window, window), mode="replicate")
    rows = rows[:, last : last + height] - rows[:, first : first + height]
    inside = F.pad(rows, (window, window, 0, 0), mode="replicate")
    inside = inside[..., last : last + width] - inside[..., first : first + width]
    down, across = (_window_counts(side, window, light.device) for side in (height, width))
    return (inside - light) / (down[:, None] * across - 1).clamp(min=1)


def _window_counts(side: int, window: int, device: torch.device) -> Tensor:
    """(side,) number of pixels of a line within `window` of each pixel."""
    place = torch.arange(side, device=device)
    return (place + window + 1).clamp(max=side) - (place - window + 1).clamp(min=0)


def spectral_residual(light: Tensor) -> Tensor:
    """(B, h, w) spectral residual saliency of `light` (B, h, w), blurred.

    Hou and Zhang (2007), section 2; the average of the log spectrum wraps around at its borders.
    """
    spectrum = torch.fft.fft2(light)
    power = spectrum.real.square() + spectrum.imag.square()
    log = 0.5 * power.clamp(min=1e-12).log()  # power may be zero
    average = sum(log.roll(shift, 1) for shift in (-1, 0, 1))
    average = sum(average.roll(shift, 2) for shift in (-1, 0, 1)) / 9
    # exp(-average) times the spectrum has the residual amplitude exp(log - average) and the same phase
    residual = torch.fft.ifft2(spectrum * (-average).exp())
    down, across = (_blur_matrix(side, light.device) for side in light.shape[1:])
    return down @ (residual.real.square() + residual.imag.square()) @ across


@lru_cache(maxsize=16)
def _blur_matrix(side: int, device: torch.device) -> Tensor:
    """(side, side) symmetric matrix that blurs a line by SPECTRAL_BLUR; cached, do not modify."""
    place = torch.arange(side, dtype=torch.float32)
    distance = (place[:, None] - place) / SPECTRAL_BLUR
    weight = (-0.5 * distance.square()).exp().masked_fill(distance.abs() > SPECTRAL_CUTOFF, 0.0)
    return weight.to(device, non_blocking=True)


def downsample(x: Tensor, side: int) -> Tensor:
    """`x` (B, C, H, W) average-pooled to at most `side` pixels per side, in float32 or wider."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    size = tuple(min(side, pixels) for pixels in x.shape[-2:])
    if any(pixels % small for pixels, small in zip(x.shape[-2:], size, strict=True)):
        return F.adaptive_avg_pool2d(wide, size)
    return wide.unflatten(2, (size[0], -1)).mean(3).unflatten(3, (size[1], -1)).mean(4)


def block_shares(saliency: Tensor, blocks: int) -> Tensor:
    """(B, blocks, blocks) share of each block in the image's saliency, summing to one; uniform if it is all zero."""
    worth = F.adaptive_avg_pool2d(saliency.float(), blocks)
    total = worth.sum((1, 2), keepdim=True)
    return torch.where((total > 0) & total.isfinite(), worth / total, 1 / blocks**2)


def peak(saliency: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 2) row and column, in an image of `size`, of the first maximum of each map (B, h, w)."""
    height, width = saliency.shape[1:]
    first = saliency.flatten(1).argmax(1)
    row, column = first // width, first % width
    # centre of the pixels that the map's cell covers
    return torch.stack([(2 * row + 1) * size[0] // (2 * height), (2 * column + 1) * size[1] // (2 * width)], 1)
