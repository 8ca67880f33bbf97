"""GMix: the image with the smaller share is visible through a Gaussian (Park et al., 2022).

lam is the mean of the mask. The border crops the Gaussian, so lam is farther from 1/2 than the lam drawn. In images
that are not square the Gaussian is circular, with the same area; the authors' code uses the height for both sides.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.fields import gaussian_factors
from ..ops.masks import blend, unexpand, unsqueeze_like
from ..ops.sampling import points
from ._base import Method, Net


def gmix(x: Tensor, lam: Tensor, partner: Tensor, centre: Tensor, out: Tensor | None = None) -> tuple[Tensor, Mix]:
    """Each image mixed with its partner by a Gaussian mask, whose volume before cropping is the smaller share.

    `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,), `centre` (B or 1, 2) row and column.
    """
    lam, size = unexpand(lam), x.shape[-2:]
    smaller = torch.minimum(lam, 1 - lam)
    down, across = gaussian_factors(size, centre, math.pi / (smaller.clamp(min=1e-12) * math.prod(size)), x.device)
    gaussian = down[:, None, :, None] * across[:, None, None, :]
    lam, is_zero = (unsqueeze_like(row.to(x.device, non_blocking=True), gaussian) for row in (lam, smaller == 0))
    gaussian = gaussian.masked_fill(is_zero, 0.0)
    mask = torch.where(lam < 0.5, gaussian, 1 - gaussian)
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class GMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share before the Gaussian is cropped; 0
    for no mixing.
    """

    paper = "2208.09913"
    title = "GMix"
    alpha: float = 1.0

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        return gmix(x, *self.draw(x, self.alpha, rng), points(x.shape[-2:], self.draws(x), rng), out)
