"""Attentive CutMix: paste the cells with the highest teacher activation onto the partner (Walawalkar et al., 2020,
section 3).

Differences from the authors' code: lam is the share of pixels, not of cells, which may differ in size; the teacher is
in eval mode. OpenMixup's AttentiveMix+, which draws the number of cells, is `top_k=None`.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend, unexpand
from ..ops.resize import upsample_cells
from ._base import Method, Net


def attentivemix(
    x: Tensor, activation: Tensor, count: Tensor, partner: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Mix]:
    """The cells of highest activation of each image, pasted onto its partner; lam is their share of pixels.

    `x` (B, C, H, W), `activation` (B, h, w), `count` (B or 1,) number of cells to paste, `partner` (B,).
    """
    order = activation.flatten(1).argsort(dim=1, descending=True, stable=True)
    is_top = torch.arange(order.shape[1], device=x.device) < unexpand(count).to(x.device, non_blocking=True)[:, None]
    kept = torch.zeros_like(order, dtype=torch.float32).scatter(1, order, is_top.float().expand_as(order))
    mask = upsample_cells(kept.reshape(len(x), 1, *activation.shape[1:]), x.shape[-2:])
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class AttentiveMix(Method):
    """`top_k`: number of cells pasted per image, 6 of 49 in the paper; None draws their share from Beta(alpha, alpha).
    `alpha`: both parameters of the Beta distribution of the share of cells pasted; only used if `top_k` is None.
    `teacher`: a timm name, a folder or a Hub id of the network that finds the cells; None for a frozen copy of the
    network from the start of training. `teacher_pretrained`: load the pretrained weights of a timm teacher; False for
    random weights. `teacher_size`: height and width in pixels to which images are resized for the teacher; not used
    without `teacher`.

    Cells are those of the teacher's last map, 7 per side for a ResNet at 224 pixels.
    """

    paper = "2003.13048"
    title = "AttentiveMix"
    group = "saliency"
    needs = "a teacher"
    needs_net = True
    alpha: float = 2.0
    top_k: int | None = 6
    teacher: str | None = "resnet50"
    teacher_pretrained: bool = True
    teacher_size: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eye = None  # Net of the teacher, created in `build`
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"AttentiveMix's top_k is {self.top_k!r}: give 1 or more, or None for a random number.")
        if self.teacher_size < 1:
            raise ValueError(f"AttentiveMix's teacher_size is {self.teacher_size!r}: give 1 pixel or more.")

    def build(self, net: Net) -> None:
        self.eye = net.copy() if self.teacher is None else net.teacher(self.teacher, self.teacher_pretrained)
        self.eye.layer(-1)  # raises if the teacher has no feature maps
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.eye is not None:
            self.eye.eval()
        return self

    def mix_batch(
        self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        lam, partner = self.draw(x, self.alpha, rng)
        activation = self.activation(net, x)
        cells = activation[0].numel()
        count = (cells * lam).long().clamp(min=1) if self.top_k is None else torch.full_like(lam, self.top_k)
        return attentivemix(x, activation, count, partner, out)

    @torch.no_grad()
    def activation(self, net: Net, x: Tensor) -> Tensor:
        """(B, h, w) last map of the teacher, averaged over channels."""
        self.eye.precision = net.precision
        if self.teacher is not None:
            x = F.interpolate(x.float(), size=(self.teacher_size, self.teacher_size), mode="bilinear")
        return self.eye.features(x).mean(1)
