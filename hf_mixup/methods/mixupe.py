"""MixupE: Mixup with an additional directional derivative term (Zou et al., 2023).

The form used in the authors' example (version 3 of their code), except that images that were not mixed, or have no
label, do not contribute to the term.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._base import Net
from .mixup import Mixup


def agreement(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) `(y - softmax(logits)) . logits`, of the clean images and their targets `y` (B, C)."""
    return ((y - logits.softmax(1)) * logits).sum(1)


def directional(agreement: Tensor, included: Tensor, threshold: float, alpha: float) -> Tensor:
    """Minus the batch mean of agreements below `threshold`, in rows that are `included`, times the mean of 1 - lam.

    `agreement`, `included` (B,). The mean of 1 - lam is that for lam from Beta(alpha + 1, alpha).
    """
    terms = torch.where(included & (agreement < threshold), agreement, 0.0)
    return -alpha / (2 * alpha + 1) * terms.mean()


@dataclass(eq=False)
class MixupE(Mixup):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `eta`: weight
    of the derivative term, 0 (plain Mixup) or above. `threshold`: the term includes clean images with an `agreement` of
    target and prediction, (y - softmax(logits)) . logits, below this number; inf for all images.

    The sum of both losses is scaled to the value of the first, so that the term only changes the direction of the
    gradient. Requires an additional pass of the clean images.
    """

    paper = "2212.13381"
    title = "MixupE"
    group = "loss"
    requires = frozenset(("softmax",))
    needs_forward = True
    alpha: float = 2.0
    eta: float = 0.001
    threshold: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"MixupE's eta is {self.eta!r}: give a finite number, 0 (plain Mixup) or above.")
        if math.isnan(self.threshold):
            raise ValueError("MixupE's threshold is not a number: give a number, or infinity for all images.")

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        mixed, mix = self.mix(net, x, y, rng)
        loss = net.loss(net(mixed), mix(y))
        if mix.index.shape[1] == 1:  # nothing is mixed
            return {"mix": loss}
        included = (mix.lam < 1) & (y.sum(1) > 0)
        term = self.eta * directional(agreement(net(x), y), included, self.threshold, self.alpha)
        total = (loss + term).detach()
        scale = torch.where(total == 0, 1.0, loss.detach() / total).abs()
        return {"mix": scale * loss, "directional": scale * term}
