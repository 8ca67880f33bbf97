"""Masks, (B or 1, 1, H, W) in [0, 1] and one where a row's own image shows; and what to do with them."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

IN_CACHE = 2**18  # numbers a processor works on without waiting for its memory
LARGE = 3 * 96**2  # numbers in an image from which on a slice of its own costs less than a mask


def blend(x: Tensor, partner: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
    """`mask * x + (1 - mask) * x[partner]`, of the type of `x`; exact where the mask is 0 or 1.

    `x` (B, C, H, W) or any (B, ...) that `mask` spreads over. Computed in float32 or wider; whole-number images are
    rounded. `out`: a tensor like `x` to write to, or `x` itself.
    """
    shift = rolled(partner)
    if shift is None or not is_plain(x, mask):
        other = x.index_select(0, partner.to(x.device, non_blocking=True))
        return mingle(x, other, mask, out)
    mask = once(mask.to(x.dtype))
    if out is not x:
        return _blend_rolled(x, shift, mask, torch.empty_like(x) if out is None else out)
    if 2 * shift != len(x):
        return x.copy_(_blend_rolled(x, shift, mask, torch.empty_like(x)))
    shares = halves(mask.expand(len(x), *mask.shape[1:]), x[0].numel())
    for (own, other), (share, others_share) in zip(halves(x), shares, strict=True):
        before = own.clone()
        torch.lerp(other, own, share, out=own)
        torch.lerp(before, other, others_share, out=other)
    return x


def _blend_rolled(x: Tensor, shift: int, mask: Tensor, out: Tensor) -> Tensor:
    """As `blend`, each row with the one `shift` further on: slices need no gather."""
    turn = len(x) - shift
    first, last = (mask, mask) if len(mask) == 1 else (mask[:turn], mask[turn:])
    torch.lerp(x[shift:], x[:turn], first, out=out[:turn])
    torch.lerp(x[:shift], x[turn:], last, out=out[turn:])
    return out


def rolled(partner: Tensor) -> int | None:
    """By how many rows all partners (B,) are further on, round the batch; None where that is not one number.

    None too where asking would cost a wait for the device.
    """
    if torch.compiler.is_compiling() or partner.device.type != "cpu" or len(partner) == 0:
        return None
    rows = partner.tolist()
    shift = rows[0]
    return shift if rows == [*range(shift, len(rows)), *range(shift)] else None


def is_plain(x: Tensor, *others: Tensor) -> bool:
    """Whether `x` is on the CPU, as wide as it is computed in, and no gradient is asked for."""
    tracked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *others))
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not tracked


def halves(x: Tensor, row: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of the first half of `x` and those half a batch away, as many at a time as stay in a processor's cache.

    `row`: numbers that a row counts for, its own by default.
    """
    half, step = len(x) // 2, max(IN_CACHE // max(row or x[0].numel(), 1), 1)
    for start in range(0, half, step):
        end = min(start + step, half)
        yield x[start:end], x[half + start : half + end]


def mingle(x: Tensor, other: Tensor, mask: Tensor, out: Tensor | None = None) -> Tensor:
    """`mask * x + (1 - mask) * other`, of the type of `x`; exact where the mask is 0 or 1. `out` as in `blend`."""
    if out is not None and is_plain(x, other, mask):
        return torch.lerp(other.to(x.dtype), x, mask.to(x.dtype), out=out)
    wide = torch.promote_types(x.dtype, torch.float32)
    mask = mask.to(x.device, wide, non_blocking=True)
    mixed = torch.lerp(other.to(wide), x.to(wide), mask)
    mixed = mixed.to(x.dtype) if x.is_floating_point() else mixed.round().to(x.dtype)
    return written(mixed, out)


def written(x: Tensor, out: Tensor | None) -> Tensor:
    """`x`, or `out` with the values of `x` where one is given."""
    return x if out is None else out.copy_(x)


def copied(x: Tensor, out: Tensor | None) -> Tensor:
    """What may be written over: a copy of `x`, in `out` where one is given, or `x` where that is `out`."""
    return x.clone() if out is None else out if out is x else out.copy_(x)


def spread(lam: Tensor, x: Tensor) -> Tensor:
    """`lam` (B,) shaped (B, 1, ...), so that it spreads over the rows of `x`."""
    return lam.reshape(-1, *[1] * (x.dim() - 1))


def boxes(size: tuple[int, int], lam: Tensor, centre: Tensor) -> Tensor:
    """(B, 4) corners (top, bottom, left, right) of boxes whose area is 1 - lam before they are clipped to the image.

    `lam` (B or 1,), `centre` (B or 1, 2) row and column, on the CPU or a device; (1, 4) where both are one for all.
    Half-open; CutMix, section 3.1 (arXiv 1905.04899).
    """
    if is_shared(lam) and is_shared(centre):
        return torch.tensor([_box(size, float(lam[0]), centre[0].tolist())])
    side = torch.tensor(size)
    half = (side * (1 - once(lam)[:, None].double()).sqrt()).long() // 2
    half, side = (number.to(centre.device, non_blocking=True) for number in (half, side))
    ends = torch.stack([centre - half, centre + half], 2).clamp(min=0)
    return torch.minimum(ends, side[:, None]).flatten(1)


def _box(size: tuple[int, int], lam: float, centre: list[int]) -> list[int]:
    """As `boxes`, of one box: numbers cost less than tensors of one number."""
    halves = [int(side * math.sqrt(1 - lam)) // 2 for side in size]
    ends = zip(centre, halves, size, strict=True)
    return [end for middle, half, side in ends for end in (max(middle - half, 0), min(middle + half, side))]


def is_shared(draws: Tensor) -> bool:
    """Whether a draw on the CPU is one for all rows, (1, ...) or expanded from that, so that slices can serve."""
    return not torch.compiler.is_compiling() and draws.device.type == "cpu" and len(once(draws)) == 1


def outside(corners: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """(B, 1, H, W) mask: zero in the boxes `corners` (B, 4), one elsewhere; (1, 1, H, W) where there is one box."""
    if is_shared(corners):
        top, bottom, left, right = corners[0].tolist()
        mask = torch.ones(1, 1, *size, device=device)
        mask[..., top:bottom, left:right] = 0
        return mask
    corners = once(corners).to(device, non_blocking=True)
    top, bottom, left, right = corners[:, :, None].unbind(1)
    row, column = (torch.arange(side, device=device) for side in size)
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return beyond(rows.float(), columns.float())


def beyond(rows: Tensor, columns: Tensor) -> Tensor:
    """(B, 1, H, W) mask `1 - rows * columns` of the factors (B, H) and (B, W)."""
    return torch.addcmul(rows.new_ones(()), rows[:, None, :, None], columns[:, None, None, :], value=-1)


def kept(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """(B or 1,) float32 share of the pixels outside each box: the mean of `outside`."""
    top, bottom, left, right = once(corners).unbind(1)
    pixels = size[0] * size[1]
    return (pixels - (bottom - top) * (right - left)).float() / pixels


def paste(x: Tensor, partner: Tensor, corners: Tensor, out: Tensor | None = None) -> Tensor:
    """`x` with the boxes `corners` (B, 4) of its partners; `out` as in `blend`.

    Boxes are exchanged in place, or copied as slices, where that is faster than the mask: the same result.
    """
    shared, plain = is_shared(corners), is_plain(x, corners)
    if out is x and plain and (shared or x[0].numel() >= LARGE) and 2 * (rolled(partner) or 0) == len(x):
        return _exchange(x, corners[0].tolist()) if shared else _exchange_each(x, corners.tolist())
    if plain or not shared:
        return blend(x, partner, outside(corners, x.shape[-2:], x.device), out)
    top, bottom, left, right = corners[0].tolist()
    box = x[..., top:bottom, left:right].index_select(0, partner.to(x.device))
    mixed = copied(x, out)
    mixed[..., top:bottom, left:right] = box
    return mixed


def _exchange(x: Tensor, corners: list[int]) -> Tensor:
    """`x`, in place, with one box exchanged between each row and the one half a batch away."""
    top, bottom, left, right = corners
    for own, other in halves(x[..., top:bottom, left:right]):
        before = own.clone()
        own.copy_(other)
        other.copy_(before)
    return x


def _exchange_each(x: Tensor, corners: list[list[int]]) -> Tensor:
    """As `_exchange`, each row with a box of its own."""
    half = len(x) // 2
    for own, other, mine, others in zip(x[:half], x[half:], corners[:half], corners[half:], strict=True):
        pairs = [(own, other, mine), (other, own, others)]
        boxes = [(to[:, t:b, l:r], source[:, t:b, l:r].clone()) for to, source, (t, b, l, r) in pairs]
        for box, taken in boxes:
            box.copy_(taken)
    return x


def once(draws: Tensor) -> Tensor:
    """`draws` (B, ...), or their first row (1, ...) where they were expanded from one."""
    return draws[:1] if len(draws) and draws.stride(0) == 0 else draws
