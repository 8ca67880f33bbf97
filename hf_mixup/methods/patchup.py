"""PatchUp: mix or swap blocks of hidden features, drawn per channel (Faramarzi et al., 2022, section 3).

The targets of the authors' loss terms sum to the mixed targets, so for losses that are linear in the targets, as here,
the terms equal `1 + loss_beta` times the loss of the mixed targets. The authors use binary cross-entropy of softmax
outputs. The block probability is computed from each layer's map size, and the stem belongs to stage 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend
from ..ops.sampling import on_device, points
from ._base import Method, Net
from ._hidden import check_layers, check_stages, editing_map
from .cutmix import cutmix

MODES = ("soft", "hard")


def block_size(largest: int, size: tuple[int, int]) -> int:
    """Side of a block in a map of `size`: the largest odd number up to `largest` and half of the map's sides."""
    side = max(min(largest, *(side // 2 for side in size)), 1)
    return side - 1 + side % 2


def block_prob(gamma: float, block: int, size: tuple[int, int]) -> float:
    """Probability that a position is a block centre, for a share `gamma` in blocks (DropBlock, arXiv 1810.12890)."""
    positions, centres = size[0] * size[1], (size[0] - block + 1) * (size[1] - block + 1)
    return gamma * positions / (block**2 * centres)


def blocks(centres: Tensor, block: int) -> Tensor:
    """(B or 1, C, H, W) of 0 and 1: one inside squares of side `block` around `centres`, clipped to the map."""
    return F.max_pool2d(centres.float(), block, 1, block // 2)


def patchup(h: Tensor, inside: Tensor, lam: Tensor, partner: Tensor) -> tuple[Tensor, Mix]:
    """`h` (B, C, H, W) mixed with its partner where `inside` (B or 1, C, H, W) is one; lam 0 is hard PatchUp.

    `lam` and `partner` (B,). The label's lam is the share of features of the row's own image.
    """
    lam = lam.to(h.device, torch.float32, non_blocking=True)
    taken = inside * (1 - lam)[:, None, None, None]
    return blend(h, partner, 1 - taken), Mix.pair(partner, 1 - taken.mean((1, 2, 3)))


@dataclass(eq=False)
class PatchUp(Method):
    """`mode`: "soft" mixes the features in blocks with lam, "hard" takes those of the partner; the paper's hard PatchUp
    uses `gamma=0.5, prob=0.7`. `alpha`: both parameters of the Beta distribution of lam in blocks; not used by "hard".
    `gamma`: approximate share of features in blocks, 0 to 1. `block`: side of a block in positions of the feature map;
    at most half of the map's side, and rounded down to an odd number. `layers`: numbers of the layers to mix, one is
    drawn per batch: 0 for CutMix of the input, k for the output of stage (block) k. `cutmix_alpha`: both parameters of
    the Beta distribution of lam in CutMix of the input, that is for layer 0. `loss_beta`: weight of the paper's last
    loss term, which here equals the loss of the mixed targets; 0 for none.

    Class tokens are not changed.
    """

    paper = "2006.07794"
    title = "PatchUp"
    group = "hidden"
    needs_net = True
    needs_forward = True
    mode: str = "soft"
    alpha: float = 2.0
    gamma: float = 0.75
    block: int = 7
    layers: tuple[int, ...] = (0, 1, 2)
    cutmix_alpha: float = 1.0
    loss_beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(f"PatchUp's mode is {self.mode!r}. Choose one of: {', '.join(MODES)}.")
        if not 0 <= self.gamma <= 1 or self.block < 1:
            raise ValueError(
                f"PatchUp got gamma {self.gamma!r}, block {self.block!r}: give a gamma from 0 to 1 and a block of 1 "
                "or more."
            )
        check_layers(self)

    def build(self, net: Net) -> None:
        check_stages(self, net)

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        """CutMix of the input, as for layer 0."""
        return self.cutmix(x, *self.draw(x, self.cutmix_alpha, rng), rng)

    def cutmix(self, x: Tensor, lam: Tensor, partner: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        """CutMix of images with random boxes."""
        return cutmix(x, lam, partner, points(x.shape[-2:], self.draws(x), rng))

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        layer = self.layers[int(torch.randint(len(self.layers), (), generator=rng))]
        lam, partner = self.draw(x, self.alpha if layer else self.cutmix_alpha, rng)
        if layer and self.mode == "hard":
            lam = torch.zeros_like(lam)
        lam = self.skip_rows(lam, rng)
        if layer == 0:
            x, mix = self.cutmix(x, lam, partner, rng)
            logits = net(x)
        else:
            logits, mix = self.mix_hidden(net, x, layer - 1, lam, partner, rng)
        loss = net.loss(logits, mix(y))
        return {"mix": loss, "reweighted": self.loss_beta * loss}

    def mix_hidden(
        self, net: Net, x: Tensor, layer: int, lam: Tensor, partner: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Mix]:
        """Logits of images whose features are mixed after layer `layer`, and the `Mix`."""
        rng, mixes = on_device(rng, x.device), []

        def edit(h: Tensor) -> Tensor:
            size = tuple(h.shape[-2:])
            block = block_size(self.block, size)
            draws = torch.rand(self.draws(x), *h.shape[1:], generator=rng, device=h.device)
            h, mix = patchup(h, blocks(draws < block_prob(self.gamma, block, size), block), lam, partner)
            mixes.append(mix)
            return h

        with editing_map(net, layer, x.shape[-2:], edit, lambda tokens: tokens):
            return net(x), mixes[-1]
