"""FMix: masks are thresholded low-frequency random fields (Harris et al., 2020, section 4).

The share of the mask is exact to half a pixel, and lam is the mean of the mask. The authors' published code reads only
two rows of its noise, so that its fields have one cycle from left to right; here both directions have the same
spectrum, as in the paper. Wavelengths below 1/32 of the image are omitted, about a millionth of the field's power.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.fields import fourier, soft_top_mask, spectrum_size, top_mask
from ..ops.masks import blend, unexpand
from ..ops.precision import widened
from ..ops.sampling import on_device
from ._base import Method, Net


def fmix(
    x: Tensor,
    lam: Tensor,
    partner: Tensor,
    noise: Tensor,
    decay: float = 3.0,
    max_soft: float = 0.0,
    out: Tensor | None = None,
) -> tuple[Tensor, Mix]:
    """Each image on the share `lam` (B,) of pixels with the highest field values, and its partner elsewhere.

    `noise` (B or 1, 2, h, w) standard normal, with (2, h, w) from `spectrum_size(x.shape[-2:], decay)`. `max_soft`:
    share of pixels on each side of the border over which the mask changes linearly, at most lam and 1 - lam.
    """
    lam = widened(unexpand(lam))
    size = x.shape[-2:]
    field, pixels = fourier(noise, size, decay), math.prod(size)
    count = (lam * pixels).round().long()
    if max_soft == 0:
        mask = top_mask(field, count)
    else:
        mask = soft_top_mask(field, count, (torch.minimum(lam, 1 - lam).clamp(max=max_soft) * pixels).long())
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class FMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `decay`:
    exponent by which amplitudes decrease with the frequency, 0 (white noise) or above; higher values give smoother
    masks. `max_soft`: largest share of pixels, on each side of the border, over which the mask changes linearly, 0
    (sharp borders) to 0.5.
    """

    paper = "2002.12047"
    title = "FMix"
    alpha: float = 1.0
    decay: float = 3.0
    max_soft: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise ValueError(f"FMix's decay is {self.decay!r}: give a finite number, 0 (white noise) or above.")
        if not 0 <= self.max_soft <= 0.5:
            raise ValueError(f"FMix's max_soft is {self.max_soft!r}: give a number from 0 (sharp borders) to 0.5.")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        lam, partner = self.draw(x, self.alpha, rng)
        shape = self.draws(x), *spectrum_size(x.shape[-2:], self.decay)
        noise = torch.randn(shape, generator=on_device(rng, x.device), device=x.device)
        return fmix(x, lam, partner, noise, self.decay, self.max_soft, out)
