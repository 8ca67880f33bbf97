"""SAMix: AutoMix with a mask generator that sees both images (Li et al., 2021, section 4).

As the authors' code, except that the network's classifier is trained on mixed images, as in `automix`. The weight of
negative classes is omitted: it has no effect with softmax cross-entropy. In Swin the features are read before patch
merging, as in `automix`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._mixblock import SceneBlock
from .automix import AutoMix


@dataclass(eq=False)
class SAMix(AutoMix):
    """The fields of `automix`, and those of another generator.

    `variance_weight`: weight of the masks' variance in the mask loss, which favours pixels near 0 and 1. `upsample`:
    interpolation of masks to the size of the images, "bilinear" or, in the paper for ViTs, "nearest". `lam_k`: constant
    k of the function of lam that scales the generator's input; a smaller k moves lam towards 1/2, a negative one does
    not change it; 1 on CUB, -1 on ImageNet and for ViTs. `dropout`: share of positions that are dropped in the
    generator's values, 0 to below 1; 0.1 on ImageNet and for ViTs. `lam_channel`: not supported, must be False.
    """

    paper = "2111.15454"
    title = "SAMix"
    variance_weight: float = 2.0
    upsample: str = "bilinear"
    lam_k: float = 0.25
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam_channel:
            raise ValueError("SAMix does not support lam_channel, it scales features by lam: set lam_k instead.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"SAMix's dropout is {self.dropout!r}: give a number from 0 to below 1.")
        if not math.isfinite(self.lam_k):
            raise ValueError(f"SAMix's lam_k is {self.lam_k!r}: give a finite number.")

    def new_generator(self, channels: int) -> nn.Module:
        return SceneBlock(channels, self.lam_k, self.dropout, self.upsample)

    def make_mask(self, z: Tensor, lam: Tensor, partner: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        return self.generator(z, lam, partner, size, rng)
