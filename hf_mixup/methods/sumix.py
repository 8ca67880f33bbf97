"""SUMix: labels by how much the mixed image looks like each, with a loss for uncertainty (Qin et al., 2024, section 3).

As the authors' code, but for this: the loss of each row is weighed by its own lam (theirs takes the means of both over
the batch first: `batch_mean`); the scale of distances, there the size of the batch, is `temperature`.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mix import Mix
from ._container import Container


def distances(clean: Tensor, mixed: Tensor, y: Tensor, mix: Mix, temperature: float) -> Tensor:
    """(B, 2, C) how far each row's mixed image is from each of its two, in each class, 0 to `temperature`.

    Logits `clean` and `mixed` (B, C), one-hot `y` (B, C). Each image's probabilities lack the other one's class.
    """
    of_images = clean.softmax(-1)[mix.index] * (1 - y[mix.index].flip(1))
    return temperature * F.normalize((mixed.softmax(-1)[:, None] - of_images).softmax(-1), dim=-1)


def sumix(distance: Tensor, y: Tensor, mix: Mix) -> Mix:
    """`mix` with lam by likeness: each share is multiplied by exp(-distance in its image's own class).

    `distance` (B, 2, C) as `distances` gives it. A lam of 0 or 1 stays.
    """
    own = (distance * y[mix.index]).sum(-1)
    # in logarithms: distances grow with the temperature until their exponentials vanish
    weight = (mix.weight.log() - own).softmax(1)
    return Mix(mix.index, weight, mix.mask)


@dataclass(eq=False)
class SUMix(Container):
    """`base`: the method that mixes pairs; CutMix with alpha 0.2 on CIFAR. `gamma`: weight of the uncertainty's loss, 1
    on Tiny-ImageNet. `temperature`: of distances; the authors' is the size of their batches. `normalise`: a linear
    layer of the method's own tells the uncertainty; without it the logits do, as the authors' on ImageNet.
    `batch_mean`: one lam for the batch, the mean, as it comes out in the authors' code.
    """

    paper = "2407.07805"
    title = "SUMix"
    group = "loss"
    base: dict = field(default_factory=lambda: {"name": "cutmix", "alpha": 0.2})
    gamma: float = 0.5
    temperature: float = 100.0
    normalise: bool = True
    batch_mean: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.uncertainty = None  # until `build`
        for key in ("gamma", "temperature"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"SUMix's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")

    def build(self, net):
        super().build(net)
        if self.normalise:
            weight = net.classifier.weight
            self.uncertainty = nn.Linear(net.num_features, net.num_classes).to(weight.device)
            nn.init.normal_(self.uncertainty.weight, std=0.01)
            nn.init.zeros_(self.uncertainty.bias)

    def forward(self, net, x, y, rng):
        mixed, mix = self.mix(net, x, y, rng)
        if mix.index.shape[1] != 2:
            return {"mix": net.loss(net(mixed), mix(y))}
        of_clean, of_mixed = net.outputs(x), net.outputs(mixed)
        distance = distances(of_clean.logits.detach(), of_mixed.logits.detach(), y, mix, self.temperature)
        weighed = sumix(distance, y, mix)
        if self.batch_mean:
            weighed = Mix(mix.index, weighed.weight.mean(0).expand(len(x), 2), mix.mask)
        losses = {"mix": net.loss(of_mixed.logits, weighed(y))}
        if self.gamma == 0:
            return losses
        told = self.tell(of_clean)[mix.index] + self.tell(of_mixed)[:, None]
        rows = [net.loss((-(told + distance)[:, k]).exp(), y[mix.index[:, k]], "none") for k in range(2)]
        return losses | {"uncertainty": self.gamma * (mix.weight * torch.stack(rows, 1)).sum(1).mean()}

    def tell(self, outputs) -> Tensor:
        """(B, C) uncertainty in each class."""
        if not self.normalise:
            return outputs.logits
        return F.normalize(self.uncertainty(outputs.pooled).softmax(-1), dim=-1)
