"""RegMixup: the mixed batch beside the clean one (Pinto et al., 2022, section 3).

The two losses are added, as in the paper; the authors' code takes their mean, which is half of that at eta = 1.
An image into which nothing was mixed counts once.
"""

import math
from dataclasses import dataclass, field

import torch

from ._container import Container


@dataclass(eq=False)
class RegMixup(Container):
    """`base`: the method that mixes; the paper's alpha is 10 on ImageNet. `eta`: weight of the mixed batch's loss.

    One pass of both batches together: statistics of the batch are those of both.
    """

    paper = "2206.14502"
    title = "RegMixup"
    group = "loss"
    base: dict = field(default_factory=lambda: {"name": "mixup", "alpha": 20.0})
    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"RegMixup's eta is {self.eta!r}: give a finite number, 0 (clean images alone) or above.")

    def forward(self, net, x, y, rng):
        mixed, mix = self.mix(net, x, y, rng)
        if mix.index.shape[1] == 1:  # nothing is mixed
            return {"mix": net.loss(net(x), y)}
        clean, both = net(torch.cat([x, mixed])).chunk(2)
        plain = net.loss(clean, y)
        rows = net.loss(both, mix(y), "none") * (mix.weight[:, 0] < 1)
        return {"clean": plain, "mix": self.eta * rows.mean()}
