"""Decoupled Mixup: a loss term per mixed class that excludes the other mixed classes (Liu et al., 2023, section 4.1).

Computed per row, so that it supports a lam per row, and lam = 1/2, for which the authors' code omits the term. Their
two-hot targets of a pair of one class may exceed one; here they are clipped to one. The terms of the row itself and of
its partner have the weights of lam and 1 - lam; the authors' code assigns them by the order of the class numbers in
the first row of the batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ._base import Net
from ._container import Container

MODES = ("both", "less", "more")
SCALES = ("none", "pow", "exp")


def decoupled_terms(logits: Tensor, y: Tensor, mix: Mix) -> Tensor:
    """(B, K) negative log-probability, in nats, of each mixed image's class, excluding the other images' classes.

    `logits` and `y` (B, C), `y` one-hot. Zero for images without a class, and if all mixed images have the same class.
    """
    columns = [y.index_select(0, index) > 0 for index in mix.index.unbind(1)]
    classes = torch.stack(columns, 1) & (mix.weight[..., None] > 0)
    others = classes.any(1, keepdim=True) & ~classes
    remaining = logits[:, None].masked_fill(others, -torch.inf)
    own = (classes * logits[:, None]).sum(-1) / classes.sum(-1).clamp(min=1)
    included = classes.any(-1) & others.any(-1)
    return torch.where(included, remaining.logsumexp(-1) - own, 0.0)


def rescaled(lam: Tensor, scale: str, power: float, threshold: float) -> Tensor:
    """`lam` in [0, 1] rescaled: 1 from `threshold` on; below it `(lam / threshold) ** power`, or exponential."""
    if scale == "none":
        return torch.ones_like(lam)
    if scale == "pow":
        below = (lam / threshold) ** abs(power)
    else:
        base = abs(power) ** (-2 * threshold)
        below = (abs(power) ** (2 * lam - 2 * threshold) - base) / (1 - base)
    return torch.where(lam >= threshold, 1.0, below)


@dataclass(eq=False)
class DecoupledMix(Container):
    """`base`: the method that mixes pixels. `eta`: weight of the decoupled term. `mode`: images with a term, "both", or
    only the image of a pair with a weight below ("less") or not below ("more") `threshold`. `threshold`: weight of an
    image, 0 to 1, that separates "less" from "more"; not used by "both". `scale`: weight of an image's term as a
    function of its lam: "none" (1), "pow" (a power) or "exp" (an exponential). `scale_power`: the exponent of "pow";
    for "exp", the square root of the base. `scale_threshold`: lam from which the function of `scale` is 1. `two_hot`:
    omit the decoupled term, and use the rescaled lam of both classes (1 with the scale "none") as targets for a binary
    loss, as in section 4.2.
    """

    paper = "2203.10761"
    title = "DecoupledMix"
    group = "loss"
    eta: float = 0.1
    mode: str = "both"
    threshold: float = 0.5
    scale: str = "none"
    scale_power: float = 1.0
    scale_threshold: float = 1.0
    two_hot: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("eta", "threshold", "scale_power", "scale_threshold"):
            if not math.isfinite(getattr(self, key)):
                raise ValueError(f"DecoupledMix's {key} is {getattr(self, key)!r}: give a finite number.")
        if self.scale_threshold <= 0:
            raise ValueError(f"DecoupledMix's scale_threshold is {self.scale_threshold!r}: give a number above 0.")
        for value, known in ((self.mode, MODES), (self.scale, SCALES)):
            if value not in known:
                raise ValueError(f"Unknown mode or scale {value!r} of DecoupledMix. Choose one of: {', '.join(known)}.")
        if self.scale == "exp" and abs(self.scale_power) in (0, 1):
            raise ValueError("DecoupledMix's scale 'exp' requires a scale_power other than 0 and 1.")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(("classes",) if self.two_hot else ("softmax",))

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        x, mix = self.mix(net, x, y, rng)
        logits = net(x)
        if self.two_hot:
            two_hot = Mix(mix.index, self.rescale(mix.weight) * (mix.weight > 0), mix.mask)
            return {"mix": net.loss(logits, two_hot(y).clamp(max=1))}
        decoupled = (self.weights(mix) * decoupled_terms(logits, y, mix)).sum(1).mean()
        return {"mix": net.loss(logits, mix(y)), "decoupled": self.eta * decoupled}

    def rescale(self, weight: Tensor) -> Tensor:
        """`weight` (B, K) rescaled with the method's settings."""
        return rescaled(weight, self.scale, self.scale_power, self.scale_threshold)

    def weights(self, mix: Mix) -> Tensor:
        """(B, K) weight of each image's decoupled term, before `eta`."""
        weight = self.rescale(mix.weight)
        if self.mode == "both":
            return weight
        less = mix.weight < self.threshold
        if mix.weight.shape[1] == 2:  # exactly one image of a pair; if lam is the threshold, the partner
            less = torch.stack([less[:, 0], ~less[:, 0]], 1)
        return weight * (less if self.mode == "less" else ~less)
