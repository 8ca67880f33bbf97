"""MergeMix: keep the patches with the highest attention in a ViT with token merging (Jin et al., 2025, section 3).

Differences from the authors' code: the score of a patch is the class token's attention to it, as in the paper (the code
uses the patch's attention to the class token), at the patch's index in that block (the code uses the index after the
last block); scores are computed in eval mode; tokens are merged for scoring only, never in training passes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.flags import evaluating
from ..ops.token_merging import schedule
from ._base import Method, Net
from .attentivemix import attentivemix
from .mixup import mixup

DEFAULT_DEPTH = 0.75  # default block as a share of the depth: the ninth of twelve
TINY = 1e-5  # avoids division by zero


def class_token_attention(attention: Tensor, place: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h, w) attention of the class token to each patch of a `grid`, summed over heads; equal for merged patches.

    `attention` (B, heads, t, t), rows sum to one; `place` (B, T) index in it of each original token, patches last.
    """
    scores = attention.float().sum(1)[:, 0].gather(1, place)
    return scores[:, -grid[0] * grid[1] :].unflatten(1, grid)


def noisy_lam(lam: Tensor, noise: Tensor, merged: float) -> Tensor:
    """(B,) random lam of the authors' code: normal draws with mean `merged` and std `lam`, rescaled to 0 to 1.

    `lam` (B,), `noise` (B,) standard normal. The smallest draw becomes 0, the largest nearly 1.
    """
    drawn = merged + lam * noise
    low = drawn.min()
    return (drawn - low) / (drawn.max() - low + TINY)


@dataclass(eq=False)
class MergeMix(Method):
    """`alpha`: both parameters of the Beta distribution of the share of patches kept; 0 for no mixing. `merged`: share
    of patches that are merged in the whole network, 0 to below 1. `layer`: number or name of the block whose attention
    is used; None for the block at three quarters of the depth, the ninth of twelve. `lam_scale`: use the random lam of
    `noisy_lam` for the targets instead of the share of pixels, as in the authors' runs on CIFAR-100. `mixup_alpha`:
    both parameters of the Beta distribution of lam in the additional Mixup loss; 0 uses clean images for it.
    `mixup_weight`: weight of the additional Mixup loss; 0 for no such loss.

    Images that MergeMix does not change contribute to the Mixup loss only.
    """

    paper = "2510.23479"
    title = "MergeMix"
    group = "attention"
    needs_net = True
    alpha: float = 1.0
    merged: float = 0.5
    layer: int | str | None = None
    lam_scale: bool = False
    mixup_alpha: float = 0.8
    mixup_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.merged < 1:
            raise ValueError(f"MergeMix's merged is {self.merged!r}: give a number from 0 to below 1.")
        for key in ("mixup_alpha", "mixup_weight"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"MergeMix's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")

    @property
    def needs_forward(self) -> bool:
        return self.mixup_weight > 0

    def build(self, net: Net) -> None:
        with net.capturing_block_attention(for_method="mergemix"):
            layers = net.layers("mergemix")
        names = [layer.name for layer in layers]
        self.depth, self.patch = len(layers), layers[-1].reduction
        default = int(DEFAULT_DEPTH * self.depth) - 1
        self.block = default if self.layer is None else names.index(net.layer(self.layer).name)

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        lam, partner = self.draw(x, self.alpha, rng)
        score = self.score(net, x)
        mixed, mix = attentivemix(x, score, (score[0].numel() * lam).long(), partner)
        if self.lam_scale:
            noise = torch.randn(len(x), generator=rng).to(x.device, non_blocking=True)
            mix = Mix.pair(mix.partner, noisy_lam(mix.lam, noise, self.merged), mix.mask)
        return mixed, mix

    @torch.no_grad()
    def score(self, net: Net, x: Tensor) -> Tensor:
        """(B, h, w) attention of the class token to each patch in the chosen block, summed over heads."""
        rows, columns = (side // self.patch for side in x.shape[-2:])
        counts = schedule(self.depth, int(self.merged * rows * columns))
        with evaluating(net.model), net.merging_tokens(counts, for_method="mergemix") as read_attention:
            net(x)
            attention, place = read_attention(self.block)
        return class_token_attention(attention, place, (rows, columns))

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        mixed, mix = self.mix(net, x, y, rng)
        if mix.mask is None or not self.mixup_weight:
            return {"mix": net.loss(net(mixed), mix(y))}
        changed = mix.lam < 1
        lam, partner = self.draw(x, self.mixup_alpha, rng)
        mixup_x, mixup_mix = mixup(x, torch.where(changed, lam.to(x.device, non_blocking=True), 1.0), partner)
        mixup_loss = self.mixup_weight * net.loss(net(mixup_x), mixup_mix(y))
        return {"mixup": mixup_loss, "mix": (net.loss(net(mixed), mix(y), "none") * changed).mean()}
