"""SAMix: AutoMix with a block that sees both images and makes bolder masks (Li et al., 2021, section 4).

As the authors' code, but that the network's classifier is the one for mixed images, as in `automix`; the weight of
negative classes is left out, since it changes nothing in softmax cross-entropy.
"""

import math
from dataclasses import dataclass

from ._mixblock import SceneBlock
from .automix import AutoMix


@dataclass(eq=False)
class SAMix(AutoMix):
    """As `automix`, but for this. `lam_k`: how lam is told to the block, see `lam_curve`; 1 on CUB, -1 on ImageNet and
    for ViTs. `dropout`: of the block's values, 0.1 on ImageNet and for ViTs. ViTs take `upsample="nearest"`.
    """

    paper = "2111.15454"
    title = "SAMix"
    variance_weight: float = 2.0
    upsample: str = "bilinear"
    lam_k: float = 0.25
    dropout: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.lam_channel:
            raise ValueError("SAMix tells its block lam by the strength of features: set lam_k, not lam_channel.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"SAMix's dropout is {self.dropout!r}: give a share from 0 to below 1.")
        if not math.isfinite(self.lam_k):
            raise ValueError(f"SAMix's lam_k is {self.lam_k!r}: give a finite number.")

    def new_generator(self, channels):
        return SceneBlock(channels, self.lam_k, self.dropout, self.upsample)

    def make_mask(self, z, lam, partner, size, rng):
        return self.generator(z, lam, partner, size, rng)
