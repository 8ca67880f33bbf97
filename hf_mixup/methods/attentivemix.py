"""Attentive CutMix: the cells a teacher finds most active, on the partner (Walawalkar et al., 2020, section 3).

As the authors', but for this: lam is the share of pixels, which counts where cells are uneven; the teacher is in eval
mode. AttentiveMix+ of OpenMixup, with a number of cells drawn by lam, is `top_k=None`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend
from ._base import Method


def attentivemix(
    x: Tensor, activity: Tensor, count: Tensor, partner: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Mix]:
    """Each partner with the most active cells of the row's own image; lam is their share of the pixels.

    `x` (B, C, H, W), `activity` (B, h, w) of its cells, `count` (B or 1,) of cells to keep, `partner` (B,).
    """
    rank = activity.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1)
    kept = rank < count.to(x.device, non_blocking=True)[:, None]
    mask = F.interpolate(kept.float().reshape(len(x), 1, *activity.shape[1:]), size=x.shape[-2:], mode="nearest")
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


@dataclass(eq=False)
class AttentiveMix(Method):
    """`top_k`: cells kept of each image, 6 of 49 in the paper; None draws their share from Beta(alpha, alpha).

    `teacher`: a timm name, a folder or a Hub id, seen at `teacher_size` pixels a side; None is the trained network
    itself as it is when training starts, frozen, seen at the images' own size. `teacher_pretrained`: False gives a
    timm name random weights. Cells are those of the teacher's last map, 7 a side for a ResNet at 224.
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

    def __post_init__(self):
        super().__post_init__()
        self.eye = None  # the teacher's Net, from `build` on
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"AttentiveMix's top_k is {self.top_k!r}: give 1 cell or more, or None to draw them.")
        if self.teacher_size < 1:
            raise ValueError(f"AttentiveMix's teacher_size is {self.teacher_size!r}: give pixels, 1 or more.")

    def build(self, net):
        self.eye = net.copy() if self.teacher is None else net.teacher(self.teacher, self.teacher_pretrained)
        self.eye.layer(-1)  # raises where its map cannot be read
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.eye is not None:
            self.eye.eval()
        return self

    def mix_batch(self, net, x, y, rng, out=None):
        lam, partner = self.draw(x, self.alpha, rng)
        activity = self.activity(net, x)
        cells = activity[0].numel()
        count = (cells * lam).long().clamp(min=1) if self.top_k is None else torch.full_like(lam, self.top_k)
        return attentivemix(x, activity, count, partner, out)

    @torch.no_grad()
    def activity(self, net, x: Tensor) -> Tensor:
        """(B, h, w) mean over channels of the teacher's last map."""
        self.eye.precision = net.precision
        if self.teacher is not None:
            x = F.interpolate(x.float(), size=(self.teacher_size, self.teacher_size), mode="bilinear")
        return self.eye.features(x).mean(1)
