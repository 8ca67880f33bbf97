"""SmoothMix: a bell of the partner, without an edge (Lee et al., CVPR Workshops 2020, section 3).

lam is the share of the image itself, as in the paper; OpenMixup's code labels with the partner's. The width of the bell
is drawn in units of the shorter side.
"""

from dataclasses import dataclass

from torch import Tensor

from ..mix import Mix
from ..ops.fields import bell
from ..ops.masks import blend
from ..ops.sampling import partners, points, uniform
from ._base import Method


def smoothmix(
    x: Tensor, partner: Tensor, centre: Tensor, sigma: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Mix]:
    """Each image faded into its partner by a Gaussian of height one; lam is the image's mean share.

    `partner` (B,); `centre` (B or 1, 2) row and column; `sigma` (B or 1,) in pixels.
    """
    mask = 1 - bell(x.shape[-2:], centre, 0.5 / sigma.square(), x.device)
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class SmoothMix(Method):
    """`sigma`: lowest and highest standard deviation of the bell, in units of the image's shorter side."""

    paper = "https://openaccess.thecvf.com/CVPR2020_workshops/CVPR2020_w45"  # it has no arXiv number
    title = "SmoothMix"
    sigma: tuple[float, float] = (0.25, 0.5)

    def __post_init__(self):
        super().__post_init__()
        low, high = self.sigma
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"SmoothMix's sigma is {self.sigma!r}: give a lowest and highest width above 0.")

    def mix_batch(self, net, x, y, rng, out=None):
        size, count = x.shape[-2:], self.draws(x)
        sigma = min(size) * uniform(*self.sigma, count, rng)
        # half a pixel back: a bell may stand between pixels, and as often before the first as on the last
        centre = points(size, count, rng) - 0.5
        return smoothmix(x, partners(len(x), self.pairing, rng), centre, sigma, out)
