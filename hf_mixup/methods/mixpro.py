"""MixPro: cells of two images, with labels that follow the attention as far as the network is right (Zhao et al., 2023,
section 3).

As the authors', but for this: cells are counted, `grid` a side, so that images of any size have as many; where they are
uneven, lam is the share of pixels. No gradient flows through lam, where theirs flows through the prediction in it.
Labels are smoothed in the loss too, where theirs are only in the targets that the prediction is held against.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.losses import smooth
from ..ops.masks import blend
from ._base import Method
from .transmix import attended_share


def maskmix(x: Tensor, lam: Tensor, partner: Tensor, scores: Tensor) -> tuple[Tensor, Mix]:
    """Each image with cells of its partner: it keeps the ceil(lam * cells) of lowest score; lam is the share kept.

    `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,), `scores` (B, n, n) all different in a row.
    """
    kept = (lam * scores[0].numel()).ceil()
    rank = scores.flatten(1).argsort(1).argsort(1)
    cells = (rank < kept[:, None]).float().reshape(len(x), 1, *scores.shape[1:])
    mask = F.interpolate(cells.to(x.device, non_blocking=True), size=x.shape[-2:], mode="nearest")
    return blend(x, partner, mask), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def progressive(area: Tensor, attended: Tensor, y: Tensor, logits: Tensor) -> Tensor:
    """(B,) lam between the shares of `area` and of attention (B,): the second as far as the network is right.

    That is the cosine between targets `y` (B, K) and the probabilities of `logits` (B, K).
    """
    right = F.cosine_similarity(y, logits.softmax(1), dim=1)
    return torch.lerp(area, attended, right.to(area.dtype))


@dataclass(eq=False)
class MixPro(Method):
    """`alpha`: both parameters of the Beta distribution of lam. `grid`: cells a side, 4 for 56 of 224 pixels.

    The authors take turns with Mixup (alpha 0.8) and CutMix: a `choice`, MixPro with weight 0.5.
    """

    paper = "2304.12043"
    title = "MixPro"
    group = "attention"
    needs = "a ViT's attention"
    needs_net = True
    needs_forward = True
    alpha: float = 1.0
    grid: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.grid < 1:
            raise ValueError(f"MixPro's grid is {self.grid!r}: give the number of cells a side, 1 or more.")

    def build(self, net):
        with net.watching(for_method="mixpro"):
            pass

    def mix_batch(self, net, x, y, rng):
        lam, partner = self.draw(x, self.alpha, rng)
        return maskmix(x, lam, partner, torch.rand(len(x), self.grid, self.grid, generator=rng))

    def forward(self, net, x, y, rng):
        mixed, mix = self.mix(net, x, y, rng)
        if mix.mask is None:
            return {"mix": net.loss(net(mixed), mix(y))}
        with net.watching(for_method="mixpro") as look:
            logits = net(mixed)
            attended = attended_share(mix.mask, look())
        target = smooth(mix(y), net.label_smoothing)
        lam = progressive(mix.lam, attended, target, logits.detach())
        return {"mix": net.loss(logits, Mix.pair(mix.partner, lam, mix.mask)(y))}
