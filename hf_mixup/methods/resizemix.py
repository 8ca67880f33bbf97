"""ResizeMix: paste the whole partner, resized (Qin et al., 2020, section 3.2).

As in the paper, the patch lies inside the image with a uniform position; the authors' code moves patches inward from
outside, so that borders are more likely. Their nearest-neighbour resizing is `interpolation="nearest"`; the default is
bilinear. Published tables use OpenMixup's geometry: there, a box around a uniform centre, one for the whole batch, is
clipped at the border, so that .160 of the image is pasted on average at 32 px (.174 at 224 px); here, a whole patch
inside the image, .230 (.242), whose position is drawn for the batch, or with `per_image=True` for each image, as in the
authors' code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import box_mask
from ..ops.resize import INTERPOLATIONS, paste_resized
from ..ops.sampling import beta, partners, uniform
from ._base import Method, Net


def resizemix(
    x: Tensor,
    scale: Tensor,
    partner: Tensor,
    place: Tensor,
    interpolation: str = "bilinear",
    out: Tensor | None = None,
) -> tuple[Tensor, Mix]:
    """Each image with its partner, resized by `scale`, pasted over it; lam is the share of pixels kept.

    `x` (B, C, H, W); `scale` (B or 1,) in (0, 1]; `partner` (B,); `place` (B or 1, 2) in [0, 1): position of the patch
    from top to bottom and from left to right.
    """
    corners = patches(x.shape[-2:], scale, place)
    mask = box_mask(corners, x.shape[-2:], x.device)
    mixed = paste_resized(x, x, corners, interpolation, partner, out)
    return mixed, Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def patches(size: tuple[int, int], scale: Tensor, place: Tensor) -> Tensor:
    """(B, 4) corners top, bottom, left, right of patches of `scale` times the image, at least one pixel per side."""
    side = torch.tensor(size)
    small = (side * scale.double()[:, None]).long().clamp(min=1)
    low = (place.double() * (side - small + 1)).long()
    high = low + small
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


@dataclass(eq=False)
class ResizeMix(Method):
    """`scope`: smallest and largest scale of the partner, as a share of the image's sides, above 0 to 1. `alpha`: both
    parameters of the Beta distribution of the scale; None draws the scale uniformly from `scope`. `interpolation`: how
    the partner is resized, "bilinear" or, as in the authors' code, "nearest".

    With `alpha`, a scale outside the scope is replaced by a uniform draw (as in OpenMixup's benchmark).
    """

    paper = "2012.11101"
    title = "ResizeMix"
    alpha: float | None = None
    scope: tuple[float, float] = (0.1, 0.8)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha == 0:
            raise ValueError("ResizeMix's alpha is 0: give a number above 0, or None for uniform scales.")
        low, high = self.scope
        if not 0 < low <= high <= 1:
            raise ValueError(f"ResizeMix's scope is {self.scope!r}: give a lowest and highest scale in (0, 1].")
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise ValueError(f"Unknown interpolation {self.interpolation!r}. Choose one of: {known}.")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        count = self.draws(x)
        scale, partner = self.scales(count, rng), partners(len(x), self.pairing, rng)
        return resizemix(x, scale, partner, torch.rand(count, 2, generator=rng), self.interpolation, out)

    def scales(self, count: int, rng: torch.Generator) -> Tensor:
        """(count,) scales within the scope."""
        low, high = self.scope
        scale = uniform(low, high, count, rng)
        if self.alpha is None:
            return scale
        drawn = beta(self.alpha, count, rng)
        return torch.where((drawn >= low) & (drawn <= high), drawn, scale)
