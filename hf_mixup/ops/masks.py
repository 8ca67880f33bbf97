"""Masks, (B or 1, 1, H, W) in [0, 1] and one where a row's own image shows; and what to do with them."""

import torch
from torch import Tensor


def blend(x: Tensor, partner: Tensor, mask: Tensor) -> Tensor:
    """`mask * x + (1 - mask) * x[partner]`, of the type of `x`; exact where the mask is 0 or 1.

    `x` (B, C, H, W) or any (B, ...) that `mask` spreads over. Computed in float32 or wider; whole-number images are
    rounded.
    """
    other = x.index_select(0, partner.to(x.device, non_blocking=True))
    return mingle(x, other, mask)


def mingle(x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """`mask * x + (1 - mask) * other`, of the type of `x`; exact where the mask is 0 or 1."""
    wide = torch.promote_types(x.dtype, torch.float32)
    mask = mask.to(x.device, wide, non_blocking=True)
    mixed = torch.lerp(other.to(wide), x.to(wide), mask)
    return mixed.to(x.dtype) if x.is_floating_point() else mixed.round().to(x.dtype)


def spread(lam: Tensor, x: Tensor) -> Tensor:
    """`lam` (B,) shaped (B, 1, ...), so that it spreads over the rows of `x`."""
    return lam.reshape(-1, *[1] * (x.dim() - 1))


def boxes(size: tuple[int, int], lam: Tensor, centre: Tensor) -> Tensor:
    """(B, 4) corners (top, bottom, left, right) of boxes whose area is 1 - lam before they are clipped to the image.

    `lam` (B,), `centre` (B or 1, 2) row and column. Half-open; CutMix, section 3.1 (arXiv 1905.04899).
    """
    side = torch.tensor(size)
    half = (side * (1 - lam.double()).sqrt()[:, None]).long() // 2
    low = (centre - half).clamp(min=0)
    high = torch.minimum(centre + half, side)
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


def is_shared(draws: Tensor) -> bool:
    """Whether all rows of a draw are alike, so that slices can serve; False where asking would cost a wait."""
    if torch.compiler.is_compiling() or draws.device.type != "cpu":
        return False
    return bool((draws == draws[:1]).all())


def outside(corners: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """(B, 1, H, W) mask: zero in the boxes `corners` (B, 4), one elsewhere; (1, 1, H, W) where they are all alike."""
    corners = (corners[:1] if is_shared(corners) else corners).to(device, non_blocking=True)
    top, bottom, left, right = corners[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=device) for side in size)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return 1 - (rows[:, None, :, None] & columns[:, None, None, :]).float()


def paste(x: Tensor, partner: Tensor, corners: Tensor, mask: Tensor) -> Tensor:
    """`x` with the boxes `corners` (B, 4) of its partners; `mask` is `outside(corners, ...)`.

    One box for all rows is a slice, boxes of their own go through the mask: the same result.
    """
    if not is_shared(corners):
        return blend(x, partner, mask)
    top, bottom, left, right = corners[0].tolist()
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x[..., top:bottom, left:right].index_select(0, partner.to(x.device))
    return mixed


def enlarge(grid: Tensor, height: int, width: int | None = None) -> Tensor:
    """`grid` (B, n, n) at (B, height, width), each cell repeated."""
    count, rows, columns = grid.shape
    tall, wide = height // rows, (width or height) // columns
    return grid[:, :, None, :, None].expand(-1, -1, tall, -1, wide).reshape(count, rows * tall, columns * wide)


def once(draws: Tensor) -> Tensor:
    """`draws` (B, ...), or their first row (1, ...) where they are all alike and that can be known."""
    return draws[:1] if is_shared(draws) else draws
