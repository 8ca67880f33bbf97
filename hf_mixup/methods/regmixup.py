"""RegMixup: train on the clean and on the mixed batch (Pinto et al., 2022, section 3).

The two losses are added, as in the paper; the authors' code takes their mean, which is half of that at eta = 1.
Images that were not mixed contribute to the clean loss only.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._base import Net
from ._container import Container


@dataclass(eq=False)
class RegMixup(Container):
    """`base`: the method that mixes pixels; the paper uses Mixup with alpha 20 on CIFAR and 10 on ImageNet. `eta`:
    weight of the mixed loss, 0 (only clean images) or above.

    Both batches are in one pass, so that BatchNorm statistics are those of both.
    """

    paper = "2206.14502"
    title = "RegMixup"
    group = "loss"
    base: dict = field(default_factory=lambda: {"name": "mixup", "alpha": 20.0})
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"RegMixup's eta is {self.eta!r}: give a finite number, 0 (only clean images) or above.")

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        mixed, mix = self.mix(net, x, y, rng)
        if mix.index.shape[1] == 1:  # nothing is mixed
            return {"mix": net.loss(net(x), y)}
        clean, mixed_logits = net(torch.cat([x, mixed])).chunk(2)
        clean_loss = net.loss(clean, y)
        rows = net.loss(mixed_logits, mix(y), "none") * (mix.weight[:, 0] < 1)
        return {"clean": clean_loss, "mix": self.eta * rows.mean()}
