"""What catches the eye in an image, without a network; and saliency on grids. A batch at once."""

from collections import Counter
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LEVELS = 255
WINDOWS = (12, 24, 48, 28, 56, 112)  # half the sides of the surrounds, in pixels (Montabone and Soto, 2010)
SPECTRAL_SIDE = 32  # pixels a side at which the spectral residual is taken
SPECTRAL_BLUR = 1.25  # standard deviation, in pixels of that size
SPECTRAL_REACH = 5.0  # standard deviations at which the blur ends


def grey(x: Tensor, mean: tuple | None = None, std: tuple | None = None) -> Tensor:
    """(B, H, W) float32 whole numbers 0..255, the brightness of images `x` (B, C, H, W).

    `mean`, `std`: those that images of values 0..1 were normalised with. Without them each image's darkest pixel
    becomes 0 and its brightest 255. Three channels are red, green, blue; others are averaged.
    """
    x = x.float() if x.dtype != torch.float64 else x
    if std is not None:
        x = x * _like_channels(std, x) + _like_channels(mean, x)
    light = x.mean(1) if x.shape[1] != len(LUMA) else sum(part * x[:, c] for c, part in enumerate(LUMA))
    if std is None:
        low, high = light.amin((1, 2), keepdim=True), light.amax((1, 2), keepdim=True)
        light = (light - low) / torch.where(high > low, high - low, 1.0)
    return (light.float() * LEVELS).round().clamp(0, LEVELS)


def _like_channels(values: tuple, x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype).to(x.device, non_blocking=True)[:, None, None]


def fine_grained(light: Tensor) -> Tensor:
    """(B, H, W) how much each pixel of `light` (B, H, W; whole numbers 0..255) differs from its surrounds.

    Montabone and Soto (2010): brighter than the mean of a square around it, and darker, each summed over six squares,
    scaled to 0..255 and added, in whole numbers. As OpenCV's detector, whose sum wraps around at 256.
    """
    light = _blur(_blur(light))
    # float32 holds whole numbers up to 2^24
    exact = torch.float32 if LEVELS * light[0].numel() < 2**24 else torch.float64
    total = F.pad(light.cumsum(1, dtype=exact).cumsum(2), (1, 0, 1, 0))
    brighter = darker = torch.zeros_like(light)
    # windows that reach beyond the image on all sides are alike
    for window, times in Counter(min(window, max(light.shape[1:])) for window in WINDOWS).items():
        contrast = light - _surround(light, total, window).float()
        brighter = brighter + times * contrast.clamp(min=0).floor()
        darker = darker + times * (-contrast).clamp(min=0).floor()
    return sum((LEVELS * (part / part.amax((1, 2), keepdim=True).clamp(min=1))).floor() for part in (brighter, darker))


def _blur(light: Tensor) -> Tensor:
    """3x3 binomial blur, rounded; the border is mirrored."""
    padded = F.pad(light, (1, 1, 1, 1), mode="reflect" if min(light.shape[1:]) > 1 else "replicate")
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return ((down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:] + 8) / 16).floor()


def _surround(light: Tensor, total: Tensor, window: int) -> Tensor:
    """Mean of the pixels within `window` of each one, itself left out; `total` (B, H+1, W+1) are running sums."""
    (height, width), first, last = light.shape[1:], 1, 2 * window + 1
    rows = F.pad(total, (0, 0, window, window), mode="replicate")
    rows = rows[:, last : last + height] - rows[:, first : first + height]
    inside = F.pad(rows, (window, window, 0, 0), mode="replicate")
    inside = inside[..., last : last + width] - inside[..., first : first + width]
    down, across = (_covered(side, window, light.device) for side in (height, width))
    return (inside - light) / (down[:, None] * across - 1).clamp(min=1)


def _covered(side: int, window: int, device: torch.device) -> Tensor:
    """(side,) how many pixels of a line lie within `window` of each one."""
    place = torch.arange(side, device=device)
    return (place + window + 1).clamp(max=side) - (place - window + 1).clamp(min=0)


def spectral_residual(light: Tensor) -> Tensor:
    """(B, h, w) what is left of `light` (B, h, w) when each wave has the height its neighbours do not explain.

    Hou and Zhang (2007), section 2; the neighbourhood of a wave goes round the spectrum.
    """
    spectrum = torch.fft.fft2(light)
    power = spectrum.real.square() + spectrum.imag.square()
    log = 0.5 * power.clamp(min=1e-12).log()  # some waves are not there
    near = sum(log.roll(shift, 1) for shift in (-1, 0, 1))
    near = sum(near.roll(shift, 2) for shift in (-1, 0, 1)) / 9
    # the phase, times exp(log - near): what is left of the height
    seen = torch.fft.ifft2(spectrum * (-near).exp())
    down, across = (_bell_matrix(side, light.device) for side in light.shape[1:])
    return down @ (seen.real.square() + seen.imag.square()) @ across


@lru_cache(maxsize=16)
def _bell_matrix(side: int, device: torch.device) -> Tensor:
    """(side, side) what blurs a line by SPECTRAL_BLUR; symmetric, not to be written to."""
    place = torch.arange(side, dtype=torch.float32)
    far = (place[:, None] - place) / SPECTRAL_BLUR
    return (-0.5 * far.square()).exp().masked_fill(far.abs() > SPECTRAL_REACH, 0.0).to(device)


def shrunk(x: Tensor, side: int) -> Tensor:
    """`x` (B, C, H, W) in float32 or wider, of at most `side` pixels a side, each the mean of those it covers."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    size = tuple(min(side, pixels) for pixels in x.shape[-2:])
    if any(pixels % small for pixels, small in zip(x.shape[-2:], size, strict=True)):
        return F.adaptive_avg_pool2d(wide, size)
    return wide.unflatten(2, (size[0], -1)).mean(3).unflatten(3, (size[1], -1)).mean(4)


def pooled(saliency: Tensor, blocks: int) -> Tensor:
    """(B, blocks, blocks) share of each block in its image's saliency, summing to one; even where there is none."""
    worth = F.adaptive_avg_pool2d(saliency.float(), blocks)
    total = worth.sum((1, 2), keepdim=True)
    return torch.where((total > 0) & total.isfinite(), worth / total, 1 / blocks**2)


def peak(saliency: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 2) row and column, in an image of `size`, of the first highest value of each map (B, h, w)."""
    height, width = saliency.shape[1:]
    first = saliency.flatten(1).argmax(1)
    row, column = first // width, first % width
    # the middle of what a cell of the map covers
    return torch.stack([(2 * row + 1) * size[0] // (2 * height), (2 * column + 1) * size[1] // (2 * width)], 1)
