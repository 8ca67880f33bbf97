"""SnapMix: paste a box of the partner, and label by the visible share of class activation (Huang et al., 2021,
section 3).

Differences from the authors' code: class activation maps are computed in eval mode; a pair of one class has the sum of
both weights, as in the paper (twice the sum in the code); the map of soft targets is the weighted mean over classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend_with, box_mask, boxes, is_shared
from ..ops.sampling import beta, partners, points
from ._base import Method, Net


def snapmix(x: Tensor, semantic_map: Tensor, partner: Tensor, target: Tensor, source: Tensor) -> tuple[Tensor, Mix]:
    """Each image with the box `source` of its partner resized into its box `target`.

    `x` (B, C, H, W), `semantic_map` (B, H, W) sums to one, `partner` (B,), boxes (B, 4) half-open top, bottom, left,
    right. The row's own weight is the sum of its map outside `target`, the partner's that of the partner's map inside
    `source`; they need not sum to one. A row with an empty box is not mixed.
    """
    target, source = drop_empty_boxes(target, source)
    size, partner = x.shape[-2:], partner.to(x.device, non_blocking=True)
    mask = box_mask(target, size, x.device)
    covered = ((1 - mask[:, 0]) * semantic_map).sum((1, 2))
    pasted = ((1 - box_mask(source, size, x.device)[:, 0]) * semantic_map.index_select(0, partner)).sum((1, 2))
    own = torch.arange(len(x), device=x.device)
    weight = torch.stack([1 - covered, pasted], 1).clamp(0, 1)
    mixed = paste_resized_boxes(x, x.index_select(0, partner), target, source, mask)
    return mixed, Mix(torch.stack([own, partner], 1), weight, mask)


def drop_empty_boxes(target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes (B, 4), both set to empty in rows where one is empty."""
    nonempty = [(box[:, 1] > box[:, 0]) & (box[:, 3] > box[:, 2]) for box in (target, source)]
    both = (nonempty[0] & nonempty[1])[:, None]
    return target * both, source * both


def paste_resized_boxes(x: Tensor, other: Tensor, target: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """`x` with the boxes `source` of `other` (B, C, H, W) resized, with aligned corners, into its boxes `target`.

    `mask` is `box_mask(target, ...)`. A pair of boxes shared by all rows is written as a slice, a pair per row is
    resampled; the result is the same.
    """
    if not (is_shared(target) and is_shared(source)):
        target, source = (box.to(x.device, non_blocking=True) for box in (target, source))
        down, across = (
            resampling_matrix(side, target[:, i : i + 2], source[:, i : i + 2]) for side, i in zip(x.shape[-2:], (0, 2))
        )
        return blend_with(x, down[:, None] @ other.float() @ across[:, None].mT, mask)
    mixed = x.clone()
    top, bottom, left, right = target[0].tolist()
    if bottom > top:
        first_row, end_row, first_column, end_column = source[0].tolist()
        crop = other[..., first_row:end_row, first_column:end_column].float()
        size = (bottom - top, right - left)
        mixed[..., top:bottom, left:right] = F.interpolate(crop, size, mode="bilinear", align_corners=True)
    return mixed


def resampling_matrix(side: int, target: Tensor, source: Tensor) -> Tensor:
    """(B, side, side) linear interpolation weights of the partner's lines for each line of the image; rows sum to one.

    `target`, `source` (B, 2): first line, and last line + 1.
    """
    line = torch.arange(side, device=target.device)
    step = (source[:, 1] - source[:, 0] - 1).clamp(min=0) / (target[:, 1] - target[:, 0] - 1).clamp(min=1)
    source = source[:, :1] + (line - target[:, :1]) * step[:, None]
    return (1 - (source.clamp(0, side - 1)[..., None] - line).abs()).clamp(min=0)


def semantic_maps(evidence: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, *size) `evidence` (B, h, w) upsampled, minus its minimum, normalised to sum to one; uniform if flat."""
    # subtract also before upsampling, whose rounding would make a flat map uneven
    evidence = evidence - evidence.amin((1, 2), keepdim=True)
    maps = F.interpolate(evidence[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    total = maps.sum((1, 2), keepdim=True)
    return torch.where((total > 0) & total.isfinite(), maps / total, 1 / (size[0] * size[1]))


@dataclass(eq=False)
class SnapMix(Method):
    """`alpha`: both parameters of the Beta distributions from which the sizes of the two boxes are drawn; 0 for no
    mixing.

    The authors train from scratch with a `prob` of 0.5.
    """

    paper = "2012.04846"
    title = "SnapMix"
    group = "saliency"
    requires = frozenset(("classes", "classifier"))
    free_weights = True
    needs_net = True
    alpha: float = 5.0

    def build(self, net: Net) -> None:
        if net.layers("snapmix")[-1].channels != net.num_features or net.architecture.prefix_tokens:
            raise ValueError(
                f"snapmix requires a classifier on the mean of the last map; {net.name} does not have one: "
                "use a CNN such as ResNet or ConvNeXt."
            )

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        lams = [beta(self.alpha, self.draws(x), rng) for _ in range(2)]
        partner = partners(len(x), self.pairing, rng)
        both = [boxes(x.shape[-2:], lam, points(x.shape[-2:], self.draws(x), rng)) for lam in lams]
        return snapmix(x, semantic_maps(net.class_map(x, y), x.shape[-2:]), partner, *both)
