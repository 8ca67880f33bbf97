"""Images resized into boxes of others, and maps averaged over boxes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import is_shared, mingle, outside

INTERPOLATIONS = ("bilinear", "nearest")


def paste_resized(x: Tensor, other: Tensor, corners: Tensor, interpolation: str) -> Tensor:
    """`x` (B, C, H, W) with `other` (B, C, h, w) resized into the boxes `corners` (B, 4), half-open, maybe empty.

    One box for all rows is a slice, boxes of their own are sampled: the same result.
    """
    wide = other.to(torch.promote_types(other.dtype, torch.float32))
    if not is_shared(corners):
        corners = corners.to(x.device, non_blocking=True)
        return mingle(x, resized(wide, corners, x.shape[-2:], interpolation), outside(corners, x.shape[-2:], x.device))
    mixed = x.clone()
    top, bottom, left, right = corners[0].tolist()
    if bottom > top and right > left:
        small = F.interpolate(wide, size=(bottom - top, right - left), mode=interpolation)
        mixed[..., top:bottom, left:right] = small if x.is_floating_point() else small.round()
    return mixed


def resized(other: Tensor, corners: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """(B, C, *size) of zeros and, in each box, the image of `other` (B, C, h, w) that fits it."""
    planes = []
    for side, pixels, low, high in zip(size, other.shape[-2:], corners[:, ::2].T, corners[:, 1::2].T, strict=True):
        place = torch.arange(side, device=other.device) - low[:, None]
        planes.append(_lines(place, (high - low).clamp(min=1)[:, None], pixels, interpolation, other.dtype))
    down, across = planes
    return down[:, None] @ other @ across[:, None].mT


def _lines(place: Tensor, length: Tensor, pixels: int, interpolation: str, dtype: torch.dtype) -> Tensor:
    """(B, side, pixels) how much of each source pixel makes each pixel at `place` of `length`; rows sum to one."""
    source = torch.arange(pixels, device=place.device)
    if interpolation == "nearest":
        # torch's "nearest" takes the pixel below
        return ((place * pixels // length).clamp(0, pixels - 1)[..., None] == source).to(dtype)
    middle = ((place.to(dtype) + 0.5) * pixels / length - 0.5).clamp(0, pixels - 1)
    return (1 - (middle[..., None] - source).abs()).clamp(min=0)


def enlarged(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size) `cells` (B, C, h, w) of an image, each over the pixels that it stands for."""
    for dim, side in ((3, size[1]), (2, size[0])):  # columns first: rows are then copied whole
        cell = torch.arange(side, device=cells.device) * cells.shape[dim] // side
        cells = cells.index_select(dim, cell)
    return cells


def box_mean(maps: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C) mean of `maps` (B, C, h, w) over the boxes `corners` (B or 1, 4) of an image of `size`.

    A cell counts by its part inside the box; an empty box gives zero.
    """
    shares = []
    for cells, side, low, high in zip(maps.shape[-2:], size, corners[:, ::2].T, corners[:, 1::2].T, strict=True):
        cell = torch.arange(cells, device=maps.device)
        low, high = (edge[:, None].to(maps.dtype) * cells / side for edge in (low, high))
        shares.append((torch.minimum(high, cell + 1) - torch.maximum(low, cell)).clamp(min=0))
    down, across = (share / share.sum(1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny) for share in shares)
    return ((maps * down[:, None, :, None]).sum(2) * across[:, None]).sum(-1)
