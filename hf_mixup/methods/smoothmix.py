"""SmoothMix: the partner fades in through a Gaussian (Lee et al., CVPR Workshops 2020, section 3).

lam is the share of the row's own image, as in the paper; OpenMixup's code uses the partner's. The standard deviation of
the Gaussian is drawn in units of the shorter side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.fields import gaussian_factors
from ..ops.masks import blend, separable_mask
from ..ops.sampling import partners, points, uniform
from ._base import Method, Net


def smoothmix(
    x: Tensor, partner: Tensor, centre: Tensor, sigma: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Mix]:
    """Each image mixed with its partner by a Gaussian of height one; lam is the mean of the mask.

    `partner` (B,); `centre` (B or 1, 2) row and column; `sigma` (B or 1,) in pixels.
    """
    mask = separable_mask(*gaussian_factors(x.shape[-2:], centre, 0.5 / sigma.square(), x.device))
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class SmoothMix(Method):
    """`sigma`: smallest and largest standard deviation of the Gaussian, in units of the image's shorter side, drawn
    uniformly.
    """

    paper = "https://openaccess.thecvf.com/CVPR2020_workshops/CVPR2020_w45"  # not on arXiv
    title = "SmoothMix"
    sigma: tuple[float, float] = (0.25, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.sigma
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"SmoothMix's sigma is {self.sigma!r}: give a smallest and a largest value above 0.")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        size, count = x.shape[-2:], self.draws(x)
        sigma = min(size) * uniform(*self.sigma, count, rng)
        # centre half a pixel off, so that the distribution is symmetric about the image centre
        centre = points(size, count, rng) - 0.5
        return smoothmix(x, partners(len(x), self.pairing, rng), centre, sigma, out)
