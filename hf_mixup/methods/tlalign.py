"""TL-Align: labels follow the tokens through every block's attention (Xiao et al., 2023, section 3.3).

As the authors' code, but that one number a token stands for its label: the same, since labels are mixed linearly.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import boxes
from ..ops.sampling import points
from ._base import Method
from .cutmix import cut


def aligned_share(mask: Tensor, attentions: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """(B,) share of a row's own label in its class token after the last block.

    `mask` (B or 1, 1, H, W) one where the own image shows, on a `grid` of patches (rows, columns); `attentions` (B,
    heads, T, T) of each block, rows summing to one, patches last.
    """
    count, tokens = len(attentions[0]), attentions[0].shape[-1]
    shown = F.interpolate(mask, size=grid, mode="nearest").flatten(1).expand(count, -1)
    area = mask.mean((1, 2, 3))[:, None].expand(count, tokens - shown.shape[1])
    own = torch.cat([area, shown], 1)
    labels = torch.stack([own, 1 - own], 2)
    for attention in attentions:
        labels = (attention.float().mean(1) @ labels + labels) / 2
    return labels[:, 0, 0] / labels[:, 0].sum(1)


@dataclass(eq=False)
class TLAlign(Method):
    """`alpha`: both parameters of the Beta distribution of lam before boxes are rounded to patches and clipped.

    The authors' setting is a `choice` of this and Mixup (alpha 0.8), with label smoothing of 0.1.
    """

    paper = "2210.06455"
    title = "TL-Align"
    group = "attention"
    needs = "a ViT's attention"
    needs_net = True
    needs_forward = True
    alpha: float = 1.0

    def build(self, net):
        with net.watching_blocks(for_method="tlalign"):
            self.patch = net.layers("tlalign")[-1].reduction

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of images `x`."""
        return x.shape[-2] // self.patch, x.shape[-1] // self.patch

    def mix_batch(self, net, x, y, rng):
        lam, partner = self.draw(x, self.alpha, rng)
        centre = points(self.grid(x), self.draws(x), rng)
        return cut(x, partner, self.patch * boxes(self.grid(x), lam, centre))

    def forward(self, net, x, y, rng):
        x, mix = self.mix(net, x, y, rng)
        mask = mix.mask
        if mask is None:
            return {"mix": net.loss(net(x), mix(y))}
        with net.watching_blocks(for_method="tlalign") as look:
            logits = net(x)
            lam = aligned_share(mask, look(), self.grid(x))
        return {"mix": net.loss(logits, Mix.pair(mix.partner, lam)(y))}
