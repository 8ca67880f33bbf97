"""Blending with masks: (B or 1, 1, H, W) in [0, 1], one where a row's own image is visible."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

CACHE_NUMEL = 2**18  # elements that fit into a processor's cache
LARGE_NUMEL = 3 * 96**2  # elements of an image above which copying slices per row is faster than a mask


def blend(x: Tensor, partner: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
    """`mask * x + (1 - mask) * x[partner]`, in the dtype of `x`; exact where the mask is 0 or 1.

    `x` (B, C, H, W) or any (B, ...) to which `mask` broadcasts. Computed in float32 or wider; integer images are
    rounded. `out`: the tensor to write to, like `x`, or `x` itself.
    """
    shift = uniform_shift(partner)
    if shift is None or not is_fast_path(x, mask):
        other = x.index_select(0, partner.to(x.device, non_blocking=True))
        return blend_with(x, other, mask, out)
    mask = unexpand(mask.to(x.dtype))
    if out is not x:
        return _blend_rolled(x, shift, mask, torch.empty_like(x) if out is None else out)
    if 2 * shift != len(x):
        return x.copy_(_blend_rolled(x, shift, mask, torch.empty_like(x)))
    shares = halves(mask.expand(len(x), *mask.shape[1:]), x[0].numel())
    for (own, other), (share, other_share) in zip(halves(x), shares, strict=True):
        before = own.clone()
        torch.lerp(other, own, share, out=own)
        torch.lerp(before, other, other_share, out=other)
    return x


def _blend_rolled(x: Tensor, shift: int, mask: Tensor, out: Tensor) -> Tensor:
    """As `blend` with partner `(i + shift) % B`: two slices in place of a gather."""
    split = len(x) - shift
    first, last = (mask, mask) if len(mask) == 1 else (mask[:split], mask[split:])
    torch.lerp(x[shift:], x[:split], first, out=out[:split])
    torch.lerp(x[:shift], x[split:], last, out=out[split:])
    return out


def uniform_shift(partner: Tensor) -> int | None:
    """The s for which `partner[i] == (i + s) % B` in all rows, or None if there is no such s.

    Always None when compiling or on a GPU, where reading `partner` would synchronise with the device.
    """
    if torch.compiler.is_compiling() or partner.device.type != "cpu" or len(partner) == 0:
        return None
    rows = partner.tolist()
    shift = rows[0]
    return shift if rows == [*range(shift, len(rows)), *range(shift)] else None


def is_fast_path(x: Tensor, *others: Tensor) -> bool:
    """Whether `x` is float32 or float64 on the CPU and no gradient is required: `lerp` can write into `out`."""
    tracked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *others))
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not tracked


def halves(x: Tensor, row: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of the first and of the second half of `x`, each small enough for a processor's cache.

    `row`: elements per row, by default those of `x`.
    """
    half, step = len(x) // 2, max(CACHE_NUMEL // max(row or x[0].numel(), 1), 1)
    for start in range(0, half, step):
        end = min(start + step, half)
        yield x[start:end], x[half + start : half + end]


def blend_with(x: Tensor, other: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
    """`mask * x + (1 - mask) * other`, in the dtype of `x`; exact where the mask is 0 or 1. `out` as in `blend`."""
    if out is not None and is_fast_path(x, other, mask):
        return torch.lerp(other.to(x.dtype), x, mask.to(x.dtype), out=out)
    wide = torch.promote_types(x.dtype, torch.float32)
    mask = mask.to(x.device, wide, non_blocking=True)
    mixed = torch.lerp(other.to(wide), x.to(wide), mask)
    mixed = mixed.to(x.dtype) if x.is_floating_point() else mixed.round().to(x.dtype)
    return write_out(mixed, out)


def write_out(x: Tensor, out: Tensor | None) -> Tensor:
    """`x`, copied to `out` if that is given."""
    return x if out is None else out.copy_(x)


def writable_copy(x: Tensor, out: Tensor | None) -> Tensor:
    """A copy of `x`, in `out` if that is given; `x` itself if `out` is `x`."""
    return x.clone() if out is None else out if out is x else out.copy_(x)


def unsqueeze_like(lam: Tensor, x: Tensor) -> Tensor:
    """`lam` (B,) reshaped to (B, 1, ...) with as many dimensions as `x`."""
    return lam.reshape(-1, *[1] * (x.dim() - 1))


def boxes(size: tuple[int, int], lam: Tensor, centre: Tensor) -> Tensor:
    """(B, 4) half-open boxes (top, bottom, left, right) with an area of 1 - lam, then clipped to the image.

    `lam` (B or 1,), `centre` (B or 1, 2) row and column, on the CPU or a device; (1, 4) if both are shared by all rows.
    CutMix, section 3.1 (arXiv 1905.04899).
    """
    if is_shared(lam) and is_shared(centre):
        return torch.tensor([_box(size, float(lam[0]), centre[0].tolist())])
    side = torch.tensor(size)
    half = (side * (1 - unexpand(lam)[:, None].double()).sqrt()).long() // 2
    half, side = (number.to(centre.device, non_blocking=True) for number in (half, side))
    ends = torch.stack([centre - half, centre + half], 2).clamp(min=0)
    return torch.minimum(ends, side[:, None]).flatten(1)


def _box(size: tuple[int, int], lam: float, centre: list[int]) -> list[int]:
    """As `boxes`, for one box, in Python: faster than tensors of one element."""
    halves = [int(side * math.sqrt(1 - lam)) // 2 for side in size]
    ends = zip(centre, halves, size, strict=True)
    return [end for middle, half, side in ends for end in (max(middle - half, 0), min(middle + half, side))]


def is_shared(draws: Tensor) -> bool:
    """Whether all rows share one draw on the CPU, (1, ...) or expanded from that, so that slices can be used."""
    return not torch.compiler.is_compiling() and draws.device.type == "cpu" and len(unexpand(draws)) == 1


def box_mask(corners: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """(B, 1, H, W) mask: zero in the boxes `corners` (B, 4), one elsewhere; (1, 1, H, W) if all rows share one box."""
    if is_shared(corners):
        top, bottom, left, right = corners[0].tolist()
        mask = torch.ones(1, 1, *size, device=device)
        mask[..., top:bottom, left:right] = 0
        return mask
    corners = unexpand(corners).to(device, non_blocking=True)
    top, bottom, left, right = corners[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=device) for side in size)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return separable_mask(rows.float(), columns.float())


def separable_mask(rows: Tensor, columns: Tensor) -> Tensor:
    """(B, 1, H, W) mask `1 - rows * columns`; `rows` (B, H), `columns` (B, W)."""
    return torch.addcmul(rows.new_ones(()), rows[:, None, :, None], columns[:, None, None, :], value=-1)


def share_outside(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """(B or 1,) float32 share of pixels outside each box: the mean of `box_mask`."""
    top, bottom, left, right = unexpand(corners).unbind(1)
    pixels = size[0] * size[1]
    return (pixels - (bottom - top) * (right - left)).float() / pixels


def paste(x: Tensor, partner: Tensor, corners: Tensor, out: Tensor | None = None) -> Tensor:
    """`x` with the boxes `corners` (B, 4) taken from the partners; `out` as in `blend`.

    Swaps boxes in place, or copies slices, where that is faster than a mask; the result is the same.
    """
    shared, fast = is_shared(corners), is_fast_path(x, corners)
    if out is x and fast and (shared or x[0].numel() >= LARGE_NUMEL) and 2 * (uniform_shift(partner) or 0) == len(x):
        return _swap_box(x, corners[0].tolist()) if shared else _swap_boxes(x, corners.tolist())
    if fast or not shared:
        return blend(x, partner, box_mask(corners, x.shape[-2:], x.device), out)
    top, bottom, left, right = corners[0].tolist()
    box = x[..., top:bottom, left:right].index_select(0, partner.to(x.device, non_blocking=True))
    mixed = writable_copy(x, out)
    mixed[..., top:bottom, left:right] = box
    return mixed


def _swap_box(x: Tensor, corners: list[int]) -> Tensor:
    """Swap one box between rows i and i + B/2 of `x`, in place."""
    top, bottom, left, right = corners
    for own, other in halves(x[..., top:bottom, left:right]):
        before = own.clone()
        own.copy_(other)
        other.copy_(before)
    return x


def _swap_boxes(x: Tensor, corners: list[list[int]]) -> Tensor:
    """As `_swap_box`, with a box per row."""
    half = len(x) // 2
    for own, other, own_box, other_box in zip(x[:half], x[half:], corners[:half], corners[half:], strict=True):
        pairs = [(own, other, own_box), (other, own, other_box)]
        boxes = [(target[:, t:b, l:r], source[:, t:b, l:r].clone()) for target, source, (t, b, l, r) in pairs]
        for box, content in boxes:
            box.copy_(content)
    return x


def unexpand(draws: Tensor) -> Tensor:
    """`draws` (B, ...), or their first row (1, ...) if they were expanded from one row."""
    return draws[:1] if len(draws) and draws.stride(0) == 0 else draws
