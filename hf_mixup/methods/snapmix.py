"""SnapMix: paste a box of the partner, and weigh each image by the meaning it shows (Huang et al., 2021, section 3).

As the authors' code, but for this: the network is looked at in eval mode; a pair of one class counts the two weights
once, as the paper has it (the code twice); the map of a row of soft targets is that of its classes, by their shares.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import boxes, is_shared, mingle, outside
from ..ops.sampling import beta, partners, points
from ._base import Method


def snapmix(x: Tensor, meaning: Tensor, partner: Tensor, into: Tensor, out_of: Tensor) -> tuple[Tensor, Mix]:
    """Each image with the box `out_of` of its partner resized into its box `into`.

    `x` (B, C, H, W), `meaning` (B, H, W) maps that sum to one, `partner` (B,), boxes (B, 4) half-open top, bottom,
    left, right. Weights need not sum to one: the row's own is what its box leaves of its map, the partner's what the
    partner's box holds of the partner's map. A row of which a box is empty is not mixed.
    """
    into, out_of = filled(into, out_of)
    size, partner = x.shape[-2:], partner.to(x.device, non_blocking=True)
    mask = outside(into, size, x.device)
    lost = ((1 - mask[:, 0]) * meaning).sum((1, 2))
    given = ((1 - outside(out_of, size, x.device)[:, 0]) * meaning.index_select(0, partner)).sum((1, 2))
    own = torch.arange(len(x), device=x.device)
    weight = torch.stack([1 - lost, given], 1).clamp(0, 1)
    mixed = transplant(x, x.index_select(0, partner), into, out_of, mask)
    return mixed, Mix(torch.stack([own, partner], 1), weight, mask)


def filled(into: Tensor, out_of: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes (B, 4) twice, both empty in rows where one is."""
    full = [(box[:, 1] > box[:, 0]) & (box[:, 3] > box[:, 2]) for box in (into, out_of)]
    both = (full[0] & full[1])[:, None]
    return into * both, out_of * both


def transplant(x: Tensor, other: Tensor, into: Tensor, out_of: Tensor, mask: Tensor) -> Tensor:
    """`x` with the boxes `out_of` of `other` (B, C, H, W), resized so that corner pixels meet, in its boxes `into`.

    `mask` is `outside(into, ...)`. One pair of boxes for all rows is a slice, pairs of their own are sampled: the same.
    """
    if not (is_shared(into) and is_shared(out_of)):
        into, out_of = (box.to(x.device, non_blocking=True) for box in (into, out_of))
        down, across = (lines(side, into[:, i : i + 2], out_of[:, i : i + 2]) for side, i in zip(x.shape[-2:], (0, 2)))
        return mingle(x, down[:, None] @ other.float() @ across[:, None].mT, mask)
    mixed = x.clone()
    (top, bottom, left, right), (up, low, west, east) = into[0].tolist(), out_of[0].tolist()
    if bottom > top:
        size = (bottom - top, right - left)
        crop = other[..., up:low, west:east].float()
        mixed[..., top:bottom, left:right] = F.interpolate(crop, size, mode="bilinear", align_corners=True)
    return mixed


def lines(side: int, into: Tensor, out_of: Tensor) -> Tensor:
    """(B, side, side) how much of each line of the partner makes each line of the image; rows sum to one.

    `into`, `out_of` (B, 2): first line, and the one after the last.
    """
    line = torch.arange(side, device=into.device)
    step = (out_of[:, 1] - out_of[:, 0] - 1).clamp(min=0) / (into[:, 1] - into[:, 0] - 1).clamp(min=1)
    source = out_of[:, :1] + (line - into[:, :1]) * step[:, None]
    return (1 - (source.clamp(0, side - 1)[..., None] - line).abs()).clamp(min=0)


def meaning_of(evidence: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, *size) maps that sum to one: `evidence` (B, h, w) enlarged, less its least; even where it is flat."""
    evidence = evidence - evidence.amin((1, 2), keepdim=True)  # a flat map stays so: enlarging would round it unevenly
    maps = F.interpolate(evidence[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    total = maps.sum((1, 2), keepdim=True)
    return torch.where((total > 0) & total.isfinite(), maps / total, 1 / (size[0] * size[1]))


@dataclass(eq=False)
class SnapMix(Method):
    """`alpha`: both parameters of the Beta distributions of the two boxes' lam. The authors train from scratch with a
    `prob` of 0.5.
    """

    paper = "2012.04846"
    title = "SnapMix"
    group = "saliency"
    free_weights = True
    needs_net = True
    alpha: float = 5.0

    def build(self, net):
        if net.layers("snapmix")[-1].channels != net.num_features or net.parts.prefix_tokens:
            raise ValueError(
                f"snapmix needs a classifier of the last map's mean, which {net.name} has not: "
                "use a CNN such as ResNet or ConvNeXt."
            )

    def mix_batch(self, net, x, y, rng):
        lams = [beta(self.alpha, self.draws(x), rng) for _ in range(2)]
        partner = partners(len(x), self.pairing, rng)
        both = [boxes(x.shape[-2:], lam, points(x.shape[-2:], self.draws(x), rng)) for lam in lams]
        return snapmix(x, meaning_of(net.class_map(x, y), x.shape[-2:]), partner, *both)
