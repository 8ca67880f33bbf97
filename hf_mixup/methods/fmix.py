"""FMix: the mask is where a random field of low frequency is highest (Harris et al., 2020, section 4).

The share that shows is exact to half a pixel, and lam is the mask's. The authors' published code reads only two rows of
its noise, so that its fields have one wave from left to right; here they vary alike in both directions, as in the text.
Waves shorter than a 32nd of the image are left out, with about a millionth of the field's power.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.fields import fourier, highest, ramp, spectrum_size
from ..ops.masks import blend, once
from ..ops.sampling import on_device
from ._base import Method


def fmix(
    x: Tensor,
    lam: Tensor,
    partner: Tensor,
    noise: Tensor,
    decay: float = 3.0,
    max_soft: float = 0.0,
    out: Tensor | None = None,
) -> tuple[Tensor, Mix]:
    """Each image where a field is highest, on a share `lam` (B,) of the pixels, and its partner elsewhere.

    `noise` (B or 1, 2, h, w) standard normal, of the shape `spectrum_size(x.shape[-2:], decay)`. `max_soft`: share of
    the pixels on each side of the border over which one image fades into the other, at most lam and 1 - lam.
    """
    lam = once(lam).double()
    size = x.shape[-2:]
    field, pixels = fourier(noise, size, decay), math.prod(size)
    count = (lam * pixels).round().long()
    if max_soft == 0:
        mask = highest(field, count)
    else:
        mask = ramp(field, count, (torch.minimum(lam, 1 - lam).clamp(max=max_soft) * pixels).long())
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class FMix(Method):
    """`alpha`: of the Beta distribution of lam. `decay`: the higher, the smoother the mask. `max_soft`: see `fmix`."""

    paper = "2002.12047"
    title = "FMix"
    alpha: float = 1.0
    decay: float = 3.0
    max_soft: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise ValueError(f"FMix's decay is {self.decay!r}: give a finite number, 0 (white noise) or above.")
        if not 0 <= self.max_soft <= 0.5:
            raise ValueError(f"FMix's max_soft is {self.max_soft!r}: give a share from 0 (sharp borders) to 0.5.")

    def mix_batch(self, net, x, y, rng, out=None):
        lam, partner = self.draw(x, self.alpha, rng)
        shape = self.draws(x), *spectrum_size(x.shape[-2:], self.decay)
        noise = torch.randn(shape, generator=on_device(rng, x.device), device=x.device)
        return fmix(x, lam, partner, noise, self.decay, self.max_soft, out)
