"""TL-Align: align labels with tokens through the attention of every block (Xiao et al., 2023, section 3.3).

As the authors' code, except that one number per token represents its label, which is equivalent: mixing is linear.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import boxes
from ..ops.sampling import points
from ._base import Method, Net
from .cutmix import cutmix_boxes


def aligned_share(mask: Tensor, attentions: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """(B,) share of the row's own label in its class token after the last block.

    `mask` (B or 1, 1, H, W) one where the own image is visible; `grid`: rows and columns of patches; `attentions` (B,
    heads, T, T) of each block, rows sum to one, patches last.
    """
    count, tokens = len(attentions[0]), attentions[0].shape[-1]
    visible = F.interpolate(mask, size=grid, mode="nearest").flatten(1).expand(count, -1)
    area = mask.mean((1, 2, 3))[:, None].expand(count, tokens - visible.shape[1])
    own = torch.cat([area, visible], 1)
    labels = torch.stack([own, 1 - own], 2)
    for attention in attentions:
        labels = (attention.float().mean(1) @ labels + labels) / 2
    return labels[:, 0, 0] / labels[:, 0].sum(1)


@dataclass(eq=False)
class TLAlign(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share before boxes are rounded to
    patches and clipped; 0 for no mixing.

    The authors use a `choice` of this method and Mixup (alpha 0.8), with label smoothing of 0.1.
    """

    paper = "2210.06455"
    title = "TL-Align"
    group = "attention"
    needs = "a ViT's attention"
    needs_net = True
    needs_forward = True
    alpha: float = 1.0

    def build(self, net: Net) -> None:
        with net.capturing_block_attention(for_method="tlalign"):
            self.patch = net.layers("tlalign")[-1].reduction

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of images `x`."""
        return x.shape[-2] // self.patch, x.shape[-1] // self.patch

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        lam, partner = self.draw(x, self.alpha, rng)
        centre = points(self.grid(x), self.draws(x), rng)
        return cutmix_boxes(x, partner, self.patch * boxes(self.grid(x), lam, centre))

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        x, mix = self.mix(net, x, y, rng)
        mask = mix.mask
        if mask is None:
            return {"mix": net.loss(net(x), mix(y))}
        with net.capturing_block_attention(for_method="tlalign") as read_attention:
            logits = net(x)
            lam = aligned_share(mask, read_attention(), self.grid(x))
        return {"mix": net.loss(logits, Mix.pair(mix.partner, lam)(y))}
