"""GMix: the image with the smaller share shows through a bell (Park et al., 2022).

lam is the mask's, which the border makes more uneven than the one drawn. For images that are not square the bell stays
round, of the same area; the authors' code takes the height for both sides.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.fields import bell
from ..ops.masks import blend, once, spread
from ..ops.sampling import points
from ._base import Method


def gmix(x: Tensor, lam: Tensor, partner: Tensor, centre: Tensor, out: Tensor | None = None) -> tuple[Tensor, Mix]:
    """Each image mixed with its partner by a Gaussian whose volume, without the border, is the smaller share.

    `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,), `centre` (B or 1, 2) row and column.
    """
    lam, size = once(lam), x.shape[-2:]
    smaller = torch.minimum(lam, 1 - lam)
    seen = bell(size, centre, math.pi / (smaller.clamp(min=1e-12) * math.prod(size)), x.device)
    lam, nothing = (spread(row.to(x.device, non_blocking=True), seen) for row in (lam, smaller == 0))
    seen = seen.masked_fill(nothing, 0.0)
    mask = torch.where(lam < 0.5, seen, 1 - seen)
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class GMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam before the border cuts the bell off."""

    paper = "2208.09913"
    title = "GMix"
    alpha: float = 1.0

    def mix_batch(self, net, x, y, rng, out=None):
        return gmix(x, *self.draw(x, self.alpha, rng), points(x.shape[-2:], self.draws(x), rng), out)
