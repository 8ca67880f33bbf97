"""Saliency Grafting: some of an image's salient cells on its partner, labels by the saliency that shows (Park et al.,
2022).

There is no public code, and this file follows accounts of the paper: salient cells by a threshold on a map that a
temperature has softened, a Bernoulli draw for each, and labels by the saliency of what shows. Not checked against the
paper are the map (mean over channels of the size of the network's features, in eval mode), the threshold (the mean),
the temperature's value, the draw of the chance from Beta, and that saliency is measured by the length of a map.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.flags import evaluating
from ..ops.masks import blend
from ._base import Method


def grafting(
    x: Tensor, saliency: Tensor, chance: Tensor, partner: Tensor, dice: Tensor, temperature: float
) -> tuple[Tensor, Mix]:
    """Each partner with those salient cells of the row's own image whose dice are below the chance.

    `x` (B, C, H, W), `saliency` (B, h, w) not negative, `chance` (B,) or (1,), `partner` (B,), `dice` (B, h, w) in
    [0, 1). lam is the share of the own saliency that shows, over the sum of both images' shares.
    """
    chance, partner, dice = (draw.to(x.device, non_blocking=True) for draw in (chance, partner, dice))
    kept = salient(saliency, temperature) & (dice < chance[:, None, None])
    own, other = shown(saliency, kept), shown(saliency.index_select(0, partner), ~kept)
    total = own + other
    mask = F.interpolate(kept.float()[:, None], size=x.shape[-2:], mode="nearest")
    lam = torch.where(total > 0, own / total, mask.mean((1, 2, 3)))
    return blend(x, partner, mask), Mix.pair(partner, lam, mask)


def salient(saliency: Tensor, temperature: float) -> Tensor:
    """(B, h, w) which cells have more than the mean of `softmax(saliency / temperature)` over their map."""
    softened = (saliency.flatten(1) / temperature).softmax(1)
    return (softened > 1 / softened.shape[1]).view_as(saliency)


def shown(saliency: Tensor, kept: Tensor) -> Tensor:
    """(B,) length of the part of each map (B, h, w) that is `kept`, over that of the whole; 0 for an empty map."""
    part, whole = (maps.flatten(1).norm(dim=1) for maps in (saliency * kept, saliency))
    return torch.where(whole > 0, part / whole, 0.0)


@dataclass(eq=False)
class Grafting(Method):
    """`alpha`: both parameters of the Beta distribution of the chance that a salient cell is grafted. `temperature`:
    of the softmax; a low one leaves the most salient cells alone. `layer`: whose map is looked at, by number or name;
    its cells are the mask's, so it needs several.
    """

    paper = "2112.08796"
    title = "Saliency Grafting"
    group = "saliency"
    needs_net = True
    alpha: float = 1.0
    temperature: float = 0.2
    layer: int | str = -1

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"Grafting's temperature is {self.temperature!r}: give a finite number above 0.")

    def build(self, net):
        net.layer(self.layer)  # raises where its map cannot be read

    def mix_batch(self, net, x, y, rng):
        chance, partner = self.draw(x, self.alpha, rng)
        saliency = self.saliency(net, x)
        if saliency[0].numel() == 1:
            raise ValueError(
                f"Grafting's layer {self.layer!r} has a map of one cell, of which none is salient, for images of "
                f"{x.shape[-2]}x{x.shape[-1]} pixels: give an earlier layer."
            )
        return grafting(x, saliency, chance, partner, torch.rand(saliency.shape, generator=rng), self.temperature)

    @torch.no_grad()
    def saliency(self, net, x: Tensor) -> Tensor:
        """(B, h, w) mean over channels of the size of the layer's features."""
        with evaluating(net.model):
            return net.features(x, self.layer).abs().mean(1)
