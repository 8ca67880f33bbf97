"""Random crop, flip and erasing of a whole batch on its device, with separate draws for each image.

There is no loop over images and no synchronisation: the draws of all images are one small CPU tensor that is copied to
the device once, the source index of each pixel is computed, and one gather reads all pixels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Random erasing (Zhong et al., 2017) with timm's limits: share of the area, and height over width.
ERASED_AREA = (0.02, 1 / 3)
ERASED_ASPECT = (0.3, 1 / 0.3)
# Rows of the table of draws: crop top and left, flip, erase, area, aspect, box top and left.
DRAWS = 8


def augment(
    x: Tensor,
    rng: torch.Generator,
    *,
    crop_padding: int = 0,
    crop_mode: str = "constant",
    flip: float = 0.5,
    erasing: float = 0.0,
    erasing_fill: str = "pixel",
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """The uint8 images (B, 3, H, W) cropped, flipped, normalised and erased: float32 (B, 3, H, W), on the same device.

    `crop_padding` pixels are added on each side ("constant": black, or "reflect") before a crop of the size of `x`;
    `flip` and `erasing` are probabilities. An erased box is filled with normal noise ("pixel") or the "mean", after
    normalisation. `rng` is a CPU generator; the draws of all steps are made even if a step is disabled, so that
    enabling one does not change the draws of the others.
    """
    _check(x, crop_padding, crop_mode, erasing_fill)
    draws = torch.rand(DRAWS, len(x), generator=rng).to(x.device, non_blocking=True)
    noise_seed = int(torch.randint(2**62, (), generator=rng))
    if crop_padding or flip:
        x = _crop_and_flip(x, draws, crop_padding, crop_mode, flip)
    x = normalise(x, mean, std)
    return _erase(x, draws, erasing, erasing_fill, noise_seed) if erasing else x


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`(x / 255 - mean) / std` as float32, for uint8 (B, 3, H, W) or (3, H, W): bit-equal to ToTensor and Normalize."""
    if x.dtype != torch.uint8:
        raise ValueError(f"normalise expects uint8 images, not {x.dtype}: float images are already normalised.")
    mean, std = (_channels(values, x.device) for values in (mean, std))
    # Divide: multiplying by 1/255 differs from the evaluation transform in the last bit.
    return x.to(torch.float32).div_(255).sub_(mean).div_(std)


def _channels(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).to(device, non_blocking=True).view(-1, 1, 1)


def _check(x: Tensor, padding: int, crop_mode: str, erasing_fill: str) -> None:
    if x.dtype != torch.uint8 or x.dim() != 4:
        raise ValueError(f"augment expects uint8 (B, C, H, W) images, not {x.dtype} {tuple(x.shape)}.")
    if crop_mode not in ("constant", "reflect"):
        raise ValueError(f"Unknown crop_mode {crop_mode!r}. Choose one of: 'constant', 'reflect'.")
    if erasing_fill not in ("pixel", "mean"):
        raise ValueError(f"Unknown erasing_fill {erasing_fill!r}. Choose one of: 'pixel', 'mean'.")
    if padding < 0 or (crop_mode == "reflect" and padding >= min(x.shape[-2:])):
        side = min(x.shape[-2:])
        raise ValueError(
            f"crop_padding={padding} does not fit images of side {side}: give 0 to {side - 1} for crop_mode='reflect'."
        )


def _crop_and_flip(x: Tensor, draws: Tensor, padding: int, mode: str, flip: float) -> Tensor:
    """A random window of each padded image, mirrored if its third draw is below `flip`: uint8."""
    images, channels, height, width = x.shape
    offset = (draws[:2] * (2 * padding + 1)).long()
    columns = torch.arange(width, device=x.device)
    columns = torch.where(draws[2, :, None] < flip, width - 1 - columns, columns) + offset[1, :, None]
    rows = torch.arange(height, device=x.device) + offset[0, :, None]
    if mode == "reflect":
        # reflected indices are inside the image, which needs no padding
        rows, columns = _reflect(rows - padding, height), _reflect(columns - padding, width)
    elif padding:
        x = F.pad(x, (padding,) * 4)
    pixel = (rows[:, :, None] * x.shape[-1] + columns[:, None, :]).view(images, 1, -1)
    return x.flatten(2).gather(2, pixel.expand(-1, channels, -1)).view(images, channels, height, width)


def _reflect(index: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - index.abs()).abs()


def _erase(x: Tensor, draws: Tensor, probability: float, fill: str, noise_seed: int) -> Tensor:
    """Normalised images with filled boxes; after normalisation the mean is zero."""
    box = _boxes(draws, probability, x.shape[-2], x.shape[-1])
    if fill == "mean":
        return x.masked_fill_(box, 0.0)
    noise = torch.Generator(x.device).manual_seed(noise_seed)
    return torch.where(box, torch.randn(x.shape, generator=noise, device=x.device), x)


def _boxes(draws: Tensor, probability: float, height: int, width: int) -> Tensor:
    """True inside one box for each image whose fourth draw is below `probability`: (B, 1, H, W).

    If a box is larger than the image, timm draws again, up to ten times; here its side is clipped to that of the image,
    because a variable number of draws cannot be batched. This affects only large boxes with an extreme aspect ratio.
    """
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * draws[4]) * (height * width)
    low, high = (math.log(value) for value in ERASED_ASPECT)
    aspect = torch.exp(low + (high - low) * draws[5])
    inside = draws[3, :, None, None] < probability
    for axis, (size, side) in enumerate(((height, (area * aspect).sqrt()), (width, (area / aspect).sqrt()))):
        side = side.round().clamp(1, size)
        start = (draws[6 + axis] * (size - side + 1)).floor()
        position = torch.arange(size, device=draws.device)
        covered = (position >= start[:, None]) & (position < (start + side)[:, None])
        inside = inside & (covered[:, :, None] if axis == 0 else covered[:, None, :])
    return inside[:, None]
