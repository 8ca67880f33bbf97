"""TransMix: weight labels by the attention of the class token (Chen et al., 2022, section 3.2).

As the authors' code, except for networks without a class token: here the mean attention of the patches is used, the
paper adds a class token.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ._base import Net
from ._container import Container


def attended_share(mask: Tensor, attention: Tensor) -> Tensor:
    """(B,) share of the attention on the row's own image.

    `mask` (B or 1, 1, H, W) one where it is visible, `attention` (B, h, w) not negative.
    """
    visible = F.interpolate(mask, size=attention.shape[-2:], mode="nearest")[:, 0]
    return (visible * attention).sum((1, 2)) / attention.sum((1, 2))


@dataclass(eq=False)
class TransMix(Container):
    """`base`: the method that mixes pixels. `ratio`: weight of the attention in lam, 0 to 1; the share of pixels has
    the rest.

    If `base` returns no mask, targets are not changed; the authors use a `choice` of CutMix (weight 0.8) and Mixup as
    the base.
    """

    paper = "2111.09833"
    title = "TransMix"
    group = "attention"
    needs = "a ViT's attention"
    needs_net = True
    base: dict = field(default_factory=lambda: {"name": "cutmix", "alpha": 1.0})
    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"TransMix's ratio is {self.ratio!r}: give a number from 0 (pixels) to 1 (attention).")

    def build(self, net: Net) -> None:
        super().build(net)
        with net.capturing_attention(for_method="transmix"):
            pass

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        x, mix = self.mix(net, x, y, rng)
        mask = mix.mask
        if mask is None or mask.shape[1] != 1:
            return {"mix": net.loss(net(x), mix(y))}
        with net.capturing_attention(for_method="transmix") as read_attention:
            logits = net(x)
            attention = read_attention()
        lam = (1 - self.ratio) * mix.lam + self.ratio * attended_share(mask, attention)
        return {"mix": net.loss(logits, Mix(mix.index, torch.stack([lam, 1 - lam], 1))(y))}
