"""MixPro: random cells of two images, labels weighted by attention if the prediction is accurate (Zhao et al., 2023,
section 3).

Differences from the authors' code: the number of cells per side is fixed (`grid`) for all image sizes; lam is the share
of pixels, since cells may differ in size; no gradient flows through lam, where theirs flows through the prediction;
label smoothing also applies to the loss, where theirs only applies to the targets compared with the prediction.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.losses import smooth
from ..ops.masks import blend
from ..ops.resize import upsample_cells
from ._base import Method, Net
from .transmix import attended_share


def maskmix(x: Tensor, lam: Tensor, partner: Tensor, scores: Tensor) -> tuple[Tensor, Mix]:
    """Each image keeps the ceil(lam * cells) cells with the lowest score, the others are its partner's.

    lam becomes the share of pixels kept. `x` (B, C, H, W), `lam` (B,) in [0, 1], `partner` (B,), `scores` (B, n, n)
    distinct per row.
    """
    kept = (lam * scores[0].numel()).ceil()
    rank = scores.flatten(1).argsort(1).argsort(1)
    cells = (rank < kept[:, None]).float().reshape(len(x), 1, *scores.shape[1:])
    mask = upsample_cells(cells.to(x.device, non_blocking=True), x.shape[-2:])
    return blend(x, partner, mask), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def progressive_lam(area: Tensor, attended: Tensor, y: Tensor, logits: Tensor) -> Tensor:
    """(B,) lam interpolated from `area` to `attended` (B,) by the accuracy of the prediction.

    The accuracy is the cosine similarity of targets `y` (B, K) and probabilities of `logits` (B, K).
    """
    accuracy = F.cosine_similarity(y, logits.softmax(1), dim=1)
    return torch.lerp(area, attended, accuracy.to(area.dtype))


@dataclass(eq=False)
class MixPro(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `grid`: cells
    per side of the mask; 4 are cells of 56 pixels in images of 224.

    The authors alternate with Mixup (alpha 0.8) and CutMix: use `choice`, with weight 0.5 for MixPro.
    """

    paper = "2304.12043"
    title = "MixPro"
    group = "attention"
    requires = frozenset(("softmax",))
    needs = "a ViT's attention"
    needs_net = True
    needs_forward = True
    alpha: float = 1.0
    grid: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid < 1:
            raise ValueError(f"MixPro's grid is {self.grid!r}: give the number of cells per side, 1 or more.")

    def build(self, net: Net) -> None:
        with net.capturing_attention(for_method="mixpro"):
            pass

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        lam, partner = self.draw(x, self.alpha, rng)
        return maskmix(x, lam, partner, torch.rand(len(x), self.grid, self.grid, generator=rng))

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        mixed, mix = self.mix(net, x, y, rng)
        if mix.mask is None:
            return {"mix": net.loss(net(mixed), mix(y))}
        with net.capturing_attention(for_method="mixpro") as read_attention:
            logits = net(mixed)
            attended = attended_share(mix.mask, read_attention())
        target = smooth(mix(y), net.label_smoothing)
        lam = progressive_lam(mix.lam, attended, target, logits.detach())
        return {"mix": net.loss(logits, Mix.pair(mix.partner, lam, mix.mask)(y))}
