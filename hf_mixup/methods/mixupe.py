"""MixupE: Mixup, and a term for the slope of the loss that Mixup sees but in part (Zou et al., 2023).

The form that the authors' example trains with (version 3 of their code), but for this: an image into which nothing was
mixed, or that has no label, has no such term.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .mixup import Mixup


def agreement(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) `(y - softmax(logits)) . logits`, of the clean images and their targets `y` (B, C)."""
    return ((y - logits.softmax(1)) * logits).sum(1)


def directional(agreement: Tensor, counts: Tensor, threshold: float, alpha: float) -> Tensor:
    """Minus the batch's mean of the agreements that count and are below `threshold`, times the mean of 1 - lam.

    `agreement`, `counts` (B,); lam's distribution is Beta(alpha + 1, alpha) here.
    """
    kept = torch.where(counts & (agreement < threshold), agreement, 0.0)
    return -alpha / (2 * alpha + 1) * kept.mean()


@dataclass(eq=False)
class MixupE(Mixup):
    """`alpha`: both parameters of the Beta distribution of lam. `eta`: weight of the term, which counts images whose
    clean logits agree with their label by less than `threshold`. The sum of both losses is scaled to the first, so
    that the term turns the gradient and does not change the loss. It costs one more pass, of the clean images.
    """

    paper = "2212.13381"
    title = "MixupE"
    group = "loss"
    needs_forward = True
    alpha: float = 2.0
    eta: float = 0.001
    threshold: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"MixupE's eta is {self.eta!r}: give a finite number, 0 (plain Mixup) or above.")
        if math.isnan(self.threshold):
            raise ValueError("MixupE's threshold is no number: give one, or infinity for all images.")

    def forward(self, net, x, y, rng):
        mixed, mix = self.mix(net, x, y, rng)
        loss = net.loss(net(mixed), mix(y))
        if mix.index.shape[1] == 1:  # nothing is mixed
            return {"mix": loss}
        counts = (mix.lam < 1) & (y.sum(1) > 0)
        term = self.eta * directional(agreement(net(x), y), counts, self.threshold, self.alpha)
        total = (loss + term).detach()
        scale = torch.where(total == 0, 1.0, loss.detach() / total).abs()
        return {"mix": scale * loss, "directional": scale * term}
