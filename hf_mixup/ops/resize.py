"""Images resized into boxes of others, and maps averaged over boxes."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import copied, is_shared, mingle, outside

INTERPOLATIONS = ("bilinear", "nearest")
SMALL = 64  # pixels a side of images that a matrix product shrinks faster


def paste_resized(
    x: Tensor,
    other: Tensor,
    corners: Tensor,
    interpolation: str,
    partner: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`x` (B, C, H, W) with `other` (B, C, h, w) resized into the boxes `corners` (B, 4), half-open, maybe empty.

    `partner` (B,): which row of `other` each gets; its own by default. `out` as in `masks.blend`. One box for all rows
    is a slice, boxes of their own are sampled: the same result.
    """
    wide = other.to(torch.promote_types(other.dtype, torch.float32))
    partner = None if partner is None else partner.to(x.device, non_blocking=True)
    if not is_shared(corners):
        wide = wide if partner is None else wide.index_select(0, partner)
        small = resized(wide, corners.to(x.device, non_blocking=True), x.shape[-2:], interpolation)
        return mingle(x, small, outside(corners, x.shape[-2:], x.device), out)
    top, bottom, left, right = corners[0].tolist()
    small = None
    if bottom > top and right > left:
        small = _shrunk(wide, (bottom - top, right - left), interpolation)
        small = small if partner is None else small.index_select(0, partner)
    mixed = copied(x, out)
    if small is not None:
        mixed[..., top:bottom, left:right] = small if x.is_floating_point() else small.round()
    return mixed


def _shrunk(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """`x` (B, C, h, w) at another size, as F.interpolate gives it."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return F.interpolate(x, size=size, mode=interpolation)
    if interpolation == "nearest" and max(x.shape[-2:]) <= SMALL:
        # two matrix products take a third of the time
        down, across = (_picks(*sides).to(x.dtype) for sides in zip(size, x.shape[-2:], strict=True))
        with torch.autocast("cpu", enabled=False):
            return down @ x @ across.T
    # one channel at a time: of few channels, torch's kernels put the channels last and back again
    small = F.interpolate(x.flatten(0, 1)[:, None], size=size, mode=interpolation)
    return small.view(*x.shape[:2], *size)


@lru_cache(maxsize=256)
def _picks(side: int, pixels: int) -> Tensor:
    """(side, pixels) ones where one of `pixels` is taken for each of `side`, the one below; not to be written to."""
    return (torch.arange(side)[:, None] * pixels // side == torch.arange(pixels)).float()


def resized(other: Tensor, corners: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """(B, C, *size) with `other` (B, C, h, w) resized into the boxes `corners`; what lies outside them is undefined."""
    row, column = (
        (torch.arange(side, device=other.device) - low[:, None], (high - low).clamp(min=1)[:, None])
        for side, low, high in zip(size, corners[:, ::2].T, corners[:, 1::2].T, strict=True)
    )
    if interpolation == "nearest":
        return _pick(_pick(other, 2, *row), 3, *column)
    # centres of the pixels, as places in `other` from -1 to 1, which is what grid_sample takes
    row, column = (((place.to(other.dtype) + 0.5) / length) * 2 - 1 for place, length in (row, column))
    grid = torch.stack(torch.broadcast_tensors(column[:, None, :], row[:, :, None]), -1)
    grid = grid.expand(len(other), -1, -1, -1)
    return F.grid_sample(other, grid, mode=interpolation, padding_mode="border", align_corners=False)


def _pick(other: Tensor, dim: int, place: Tensor, length: Tensor) -> Tensor:
    """As F.interpolate's "nearest", which takes the pixel below and not the nearest, as grid_sample does."""
    side = other.shape[dim]
    source = (place * side // length).clamp(0, side - 1)
    source = source[:, None, :, None] if dim == 2 else source[:, None, None, :]
    shape = [*other.shape[:dim], source.shape[dim], *other.shape[dim + 1 :]]
    return other.gather(dim, source.expand(shape))


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
