"""SUMix: labels by the similarity of the mixed image to its sources, and an uncertainty loss (Qin et al., 2024,
section 3).

Differences from the authors' code: each row's loss is weighted by its own lam (theirs uses means over the batch, see
`batch_mean`); the scale of distances is `temperature` (theirs is the batch size).
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..mix import Mix
from ._base import Net
from ._container import Container


def distances(clean: Tensor, mixed: Tensor, y: Tensor, mix: Mix, temperature: float) -> Tensor:
    """(B, 2, C) distance of each mixed image from its two source images, per class, 0 to `temperature`.

    Logits `clean` and `mixed` (B, C), one-hot `y` (B, C). In the probabilities of each source image, the class of the
    other one is set to zero.
    """
    source_probs = clean.softmax(-1)[mix.index] * (1 - y[mix.index].flip(1))
    return temperature * F.normalize((mixed.softmax(-1)[:, None] - source_probs).softmax(-1), dim=-1)


def sumix(distance: Tensor, y: Tensor, mix: Mix) -> Mix:
    """`mix` with weights multiplied by exp(-distance in the source image's class) and normalised.

    `distance` (B, 2, C) from `distances`. A lam of 0 or 1 does not change.
    """
    class_distance = (distance * y[mix.index]).sum(-1)
    # in the log domain: exp(-distance) underflows for a high temperature
    weight = (mix.weight.log() - class_distance).softmax(1)
    return Mix(mix.index, weight, mix.mask)


@dataclass(eq=False)
class SUMix(Container):
    """`base`: the method that mixes pairs; CutMix with alpha 0.2 on CIFAR. `gamma`: weight of the uncertainty loss, 1
    on Tiny-ImageNet; 0 for none. `temperature`: scale of the distances between predictions, the batch size in the
    authors' code. `normalise`: predict the uncertainty by a separate linear layer; False uses the logits, as the
    authors do on ImageNet. `batch_mean`: use the mean of the new lam for all images of the batch, as in the authors'
    code.
    """

    paper = "2407.07805"
    title = "SUMix"
    group = "loss"
    requires = frozenset(("softmax", "classifier"))
    base: dict = field(default_factory=lambda: {"name": "cutmix", "alpha": 0.2})
    gamma: float = 0.5
    temperature: float = 100.0
    normalise: bool = True
    batch_mean: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.uncertainty = None  # created in `build`
        for key in ("gamma", "temperature"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ValueError(f"SUMix's {key} is {getattr(self, key)!r}: give a finite number, 0 or above.")

    def build(self, net: Net) -> None:
        super().build(net)
        if self.normalise:
            weight = net.classifier.weight
            self.uncertainty = nn.Linear(net.num_features, net.num_classes).to(weight.device)
            nn.init.normal_(self.uncertainty.weight, std=0.01)
            nn.init.zeros_(self.uncertainty.bias)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        mixed, mix = self.mix(net, x, y, rng)
        if mix.index.shape[1] != 2:
            return {"mix": net.loss(net(mixed), mix(y))}
        clean_outputs, mixed_outputs = net.outputs(x), net.outputs(mixed)
        distance = distances(clean_outputs.logits.detach(), mixed_outputs.logits.detach(), y, mix, self.temperature)
        reweighted = sumix(distance, y, mix)
        if self.batch_mean:
            reweighted = Mix(mix.index, reweighted.weight.mean(0).expand(len(x), 2), mix.mask)
        losses = {"mix": net.loss(mixed_outputs.logits, reweighted(y))}
        if self.gamma == 0:
            return losses
        pair = clean_outputs, mixed_outputs
        clean, mixed = (self.class_uncertainty(outputs.logits, outputs.pooled) for outputs in pair)
        total = clean[mix.index] + mixed[:, None]
        rows = [net.loss((-(total + distance)[:, k]).exp(), y[mix.index[:, k]], "none") for k in range(2)]
        return losses | {"uncertainty": self.gamma * (mix.weight * torch.stack(rows, 1)).sum(1).mean()}

    def class_uncertainty(self, logits: Tensor, pooled: Tensor) -> Tensor:
        """(B, C) uncertainty per class, from `logits` (B, C) or from a linear layer on `pooled` (B, D)."""
        if not self.normalise:
            return logits
        return F.normalize(self.uncertainty(pooled).softmax(-1), dim=-1)
