"""MergeMix: the patches that a ViT looks at most while its tokens merge (Jin et al., 2025, section 3).

As the authors' code, but for this: a patch is scored by how much the class token looks at it (the text says so; the
code reads how much it looks at the class token), at the place it had in that block (the code reads its place after the
last one); the look is in eval mode; tokens merge for the look alone, and never while the network learns.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.flags import evaluating
from ..ops.token_merging import schedule
from ._base import Method
from .attentivemix import attentivemix
from .mixup import mixup

DEEP = 0.75  # the default block's place, as a share of the network: the ninth of twelve
TINY = 1e-5  # keeps a range of zero from dividing


def looked_at(attention: Tensor, place: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h, w) how much the class token looks at each patch of a `grid`, summed over heads; alike where they merged.

    `attention` (B, heads, t, t), rows summing to one; `place` (B, T) in it of each of the image's tokens, patches last.
    """
    seen = attention.float().sum(1)[:, 0].gather(1, place)
    return seen[:, -grid[0] * grid[1] :].unflatten(1, grid)


def respread(lam: Tensor, noise: Tensor, merged: float) -> Tensor:
    """(B,) the authors' other shares for targets: normal draws of mean `merged` and width `lam`, spread over 0 to 1.

    `lam` (B,), `noise` (B,) from the standard normal distribution. One row gets 0 and one nearly 1.
    """
    drawn = merged + lam * noise
    low = drawn.min()
    return (drawn - low) / (drawn.max() - low + TINY)


@dataclass(eq=False)
class MergeMix(Method):
    """`alpha`: of the Beta distribution of the share of patches kept. `merged`: share of the patches that merge in the
    whole network. `layer`: the block whose attention counts, by number or name; by default the ninth of twelve.
    `lam_scale`: targets do not follow the mask but `respread`, as in the authors' runs on CIFAR-100. `mixup_alpha`,
    `mixup_weight`: of the loss of a batch mixed by Mixup beside. An image that stays as it is counts once.
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

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.merged < 1:
            raise ValueError(f"MergeMix's merged is {self.merged!r}: give a share of the patches, 0 to less than 1.")
        for key in ("mixup_alpha", "mixup_weight"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"MergeMix's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")

    @property
    def needs_forward(self):
        return self.mixup_weight > 0

    def build(self, net):
        with net.watching_blocks(for_method="mergemix"):
            layers = net.layers("mergemix")
        names = [layer.name for layer in layers]
        self.depth, self.patch = len(layers), layers[-1].reduction
        self.block = int(DEEP * self.depth) - 1 if self.layer is None else names.index(net.layer(self.layer).name)

    def mix_batch(self, net, x, y, rng):
        lam, partner = self.draw(x, self.alpha, rng)
        score = self.score(net, x)
        mixed, mix = attentivemix(x, score, (score[0].numel() * lam).long(), partner)
        if self.lam_scale:
            noise = torch.randn(len(x), generator=rng).to(x.device, non_blocking=True)
            mix = Mix.pair(mix.partner, respread(mix.lam, noise, self.merged), mix.mask)
        return mixed, mix

    @torch.no_grad()
    def score(self, net, x: Tensor) -> Tensor:
        """(B, h, w) how much the class token looks at each patch in the block, summed over heads."""
        rows, columns = (side // self.patch for side in x.shape[-2:])
        counts = schedule(self.depth, int(self.merged * rows * columns))
        with evaluating(net.model), net.merging(counts, for_method="mergemix") as look:
            net(x)
            attention, place = look(self.block)
        return looked_at(attention, place, (rows, columns))

    def forward(self, net, x, y, rng):
        mixed, mix = self.mix(net, x, y, rng)
        if mix.mask is None or not self.mixup_weight:
            return {"mix": net.loss(net(mixed), mix(y))}
        changed = mix.lam < 1
        lam, partner = self.draw(x, self.mixup_alpha, rng)
        blended, blend = mixup(x, torch.where(changed, lam.to(x.device, non_blocking=True), 1.0), partner)
        beside = self.mixup_weight * net.loss(net(blended), blend(y))
        return {"mixup": beside, "mix": (net.loss(net(mixed), mix(y), "none") * changed).mean()}
