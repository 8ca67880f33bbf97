"""ResizeMix: paste the whole partner, made smaller (Qin et al., 2020, section 3.2).

As the authors' text: the patch lies inside the image, and every such place is as likely; their code moves patches
inward that would stick out, so that borders are likelier. Their nearest-neighbour resize is `interpolation="nearest"`;
the default is bilinear.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import is_shared, mingle, outside
from ..ops.sampling import beta, partners, uniform
from ._base import Method

INTERPOLATIONS = ("bilinear", "nearest")


def resizemix(
    x: Tensor, scale: Tensor, partner: Tensor, place: Tensor, interpolation: str = "bilinear"
) -> tuple[Tensor, Mix]:
    """Each image with its partner, resized by `scale`, pasted over it; lam is the share of pixels kept.

    `x` (B, C, H, W); `scale` (B or 1,) in (0, 1]; `partner` (B,); `place` (B or 1, 2) in [0, 1): where between the
    highest and lowest, leftmost and rightmost place the patch lies.
    """
    corners = patches(x.shape[-2:], scale, place)
    mask = outside(corners, x.shape[-2:], x.device)
    other = x.index_select(0, partner.to(x.device, non_blocking=True))
    if is_shared(corners):
        mixed = _paste_shared(x, other, corners[0].tolist(), interpolation)
    else:
        mixed = mingle(x, _shrink(other, corners.to(x.device, non_blocking=True), interpolation), mask)
    return mixed, Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def patches(size: tuple[int, int], scale: Tensor, place: Tensor) -> Tensor:
    """(B, 4) corners top, bottom, left, right of patches of `scale` times the image, at least one pixel a side."""
    side = torch.tensor(size)
    small = (side * scale.double()[:, None]).long().clamp(min=1)
    low = (place.double() * (side - small + 1)).long()
    high = low + small
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


def _paste_shared(x: Tensor, other: Tensor, corners: list[int], interpolation: str) -> Tensor:
    top, bottom, left, right = corners
    work = other.to(torch.promote_types(other.dtype, torch.float32))
    small = F.interpolate(work, size=(bottom - top, right - left), mode=interpolation)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = small if other.is_floating_point() else small.round()
    return mixed


def _shrink(other: Tensor, corners: Tensor, interpolation: str) -> Tensor:
    """`other` resized into boxes of their own, in float32 or wider; what lies outside the boxes is undefined."""
    wide = other.to(torch.promote_types(other.dtype, torch.float32))
    top, bottom, left, right = corners.to(wide.dtype)[:, :, None].unbind(1)
    if interpolation == "nearest":
        return _pick(wide, corners)
    (height, width), make = other.shape[-2:], dict(device=other.device, dtype=wide.dtype)
    # centres of the pixels, as places in the partner from -1 to 1, which is what grid_sample takes
    row = (torch.arange(height, **make) + 0.5 - top) / (bottom - top) * 2 - 1
    column = (torch.arange(width, **make) + 0.5 - left) / (right - left) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(column[:, None, :], row[:, :, None]), -1)
    grid = grid.expand(len(other), -1, -1, -1)
    return F.grid_sample(wide, grid, mode=interpolation, padding_mode="border", align_corners=False)


def _pick(other: Tensor, corners: Tensor) -> Tensor:
    """As F.interpolate's "nearest", which takes the pixel below and not the nearest, as grid_sample does."""
    for dim, (low, high) in ((2, corners[:, :2].unbind(1)), (3, corners[:, 2:].unbind(1))):
        side = other.shape[dim]
        place = torch.arange(side, device=other.device) - low[:, None]
        source = (place * side // (high - low)[:, None]).clamp(0, side - 1)
        source = source[:, None, :, None] if dim == 2 else source[:, None, None, :]
        other = other.gather(dim, source.expand_as(other))
    return other


@dataclass(eq=False)
class ResizeMix(Method):
    """`scope`: range of the partner's scale. `alpha`: draw the scale from Beta(alpha, alpha) instead of uniformly.

    With `alpha`, a scale outside the scope is drawn again, uniformly (the benchmark's variant).
    """

    paper = "2012.11101"
    title = "ResizeMix"
    alpha: float | None = None
    scope: tuple[float, float] = (0.1, 0.8)
    interpolation: str = "bilinear"

    def __post_init__(self):
        super().__post_init__()
        if self.alpha == 0:
            raise ValueError("ResizeMix's alpha is 0: give a number above 0, or None for uniform scales.")
        low, high = self.scope
        if not 0 < low <= high <= 1:
            raise ValueError(f"ResizeMix's scope is {self.scope!r}: give a lowest and highest scale in (0, 1].")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"Unknown interpolation {self.interpolation!r}. Choose one of: {known}.")

    def mix_batch(self, net, x, y, rng):
        count = self.draws(x)
        scale, partner = self.scales(count, rng), partners(len(x), self.pairing, rng)
        return resizemix(x, scale, partner, torch.rand(count, 2, generator=rng), self.interpolation)

    def scales(self, count: int, rng: torch.Generator) -> Tensor:
        """(count,) scales within the scope."""
        low, high = self.scope
        scale = uniform(low, high, count, rng)
        if self.alpha is None:
            return scale
        drawn = beta(self.alpha, count, rng)
        return torch.where((drawn >= low) & (drawn <= high), drawn, scale)
