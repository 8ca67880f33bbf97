"""Resizing images into boxes of other images, and averaging maps over boxes."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import blend_with, box_mask, is_shared, writable_copy

INTERPOLATIONS = ("bilinear", "nearest")
SMALL_SIDE = 64  # largest side in pixels for which matrix products are faster than F.interpolate


def paste_resized(
    x: Tensor,
    other: Tensor,
    corners: Tensor,
    interpolation: str,
    partner: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`x` (B, C, H, W) with `other` (B, C, h, w) resized into the half-open boxes `corners` (B, 4), which may be empty.

    `partner` (B,): the row of `other` for each row of `x`, by default the same row. `out` as in `masks.blend`. One box
    shared by all rows is written as a slice, a box per row is sampled; the result is the same.
    """
    wide = other.to(torch.promote_types(other.dtype, torch.float32))
    partner = None if partner is None else partner.to(x.device, non_blocking=True)
    if not is_shared(corners):
        wide = wide if partner is None else wide.index_select(0, partner)
        resized = resize_into_boxes(wide, corners.to(x.device, non_blocking=True), x.shape[-2:], interpolation)
        return blend_with(x, resized, box_mask(corners, x.shape[-2:], x.device), out)
    top, bottom, left, right = corners[0].tolist()
    resized = None
    if bottom > top and right > left:
        resized = _resize(wide, (bottom - top, right - left), interpolation)
        resized = resized if partner is None else resized.index_select(0, partner)
    mixed = writable_copy(x, out)
    if resized is not None:
        mixed[..., top:bottom, left:right] = resized if x.is_floating_point() else resized.round()
    return mixed


def _resize(x: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """`x` (B, C, h, w) resized to `size`, as by F.interpolate."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return F.interpolate(x, size=size, mode=interpolation)
    if interpolation == "nearest" and max(x.shape[-2:]) <= SMALL_SIDE:
        # two matrix products are three times faster
        down, across = (_nearest_matrix(*sides).to(x.dtype) for sides in zip(size, x.shape[-2:], strict=True))
        with torch.autocast("cpu", enabled=False):
            return down @ x @ across.T
    # one channel per image: for few channels, torch's kernels convert to channels-last and back
    resized = F.interpolate(x.flatten(0, 1)[:, None], size=size, mode=interpolation)
    return resized.view(*x.shape[:2], *size)


@lru_cache(maxsize=256)
def _nearest_matrix(side: int, pixels: int) -> Tensor:
    """(side, pixels) one-hot matrix of nearest-neighbour resizing from `pixels` to `side`; cached, do not modify."""
    return (torch.arange(side)[:, None] * pixels // side == torch.arange(pixels)).float()


def resize_into_boxes(other: Tensor, corners: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """(B, C, *size) images: `other` (B, C, h, w) resized into the boxes `corners`; undefined outside the boxes."""
    row, column = (
        (torch.arange(side, device=other.device) - low[:, None], (high - low).clamp(min=1)[:, None])
        for side, low, high in zip(size, corners[:, ::2].T, corners[:, 1::2].T, strict=True)
    )
    if interpolation == "nearest":
        return _gather_nearest(_gather_nearest(other, 2, *row), 3, *column)
    # pixel centres as coordinates in `other` from -1 to 1, as grid_sample expects
    row, column = (((place.to(other.dtype) + 0.5) / length) * 2 - 1 for place, length in (row, column))
    grid = torch.stack(torch.broadcast_tensors(column[:, None, :], row[:, :, None]), -1)
    grid = grid.expand(len(other), -1, -1, -1)
    return F.grid_sample(other, grid, mode=interpolation, padding_mode="border", align_corners=False)


def _gather_nearest(other: Tensor, dim: int, place: Tensor, length: Tensor) -> Tensor:
    """Gather along `dim` as F.interpolate's "nearest", which rounds coordinates down; grid_sample rounds to nearest."""
    side = other.shape[dim]
    source = (place * side // length).clamp(0, side - 1)
    source = source[:, None, :, None] if dim == 2 else source[:, None, None, :]
    shape = [*other.shape[:dim], source.shape[dim], *other.shape[dim + 1 :]]
    return other.gather(dim, source.expand(shape))


def upsample_cells(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size) nearest-neighbour upsampling of `cells` (B, C, h, w); any `size`, not only multiples of (h, w)."""
    for dim, side in ((3, size[1]), (2, size[0])):  # columns first, so that whole rows are copied
        cell = torch.arange(side, device=cells.device) * cells.shape[dim] // side
        cells = cells.index_select(dim, cell)
    return cells


def box_mean(maps: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C) mean of `maps` (B, C, h, w) over the boxes `corners` (B or 1, 4) of an image of `size`.

    A cell is weighted by its overlap with the box; an empty box gives zero.
    """
    shares = []
    for cells, side, low, high in zip(maps.shape[-2:], size, corners[:, ::2].T, corners[:, 1::2].T, strict=True):
        cell = torch.arange(cells, device=maps.device)
        low, high = (edge[:, None].to(maps.dtype) * cells / side for edge in (low, high))
        shares.append((torch.minimum(high, cell + 1) - torch.maximum(low, cell)).clamp(min=0))
    down, across = (share / share.sum(1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny) for share in shares)
    return ((maps * down[:, None, :, None]).sum(2) * across[:, None]).sum(-1)
