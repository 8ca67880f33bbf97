"""Remix: label a mixture of a frequent and a rare class as the rare class (Chou et al., 2020).

Changes the labels of any method that mixes pairs. The authors have not published code.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ._base import Net
from ._container import Container


def remix(mix: Mix, class_size: Tensor, kappa: float, tau: float) -> Mix:
    """`mix` with lam set to 0 or 1 where one class is at least `kappa` times as frequent as the other.

    `mix` of pairs; `class_size` (B,) number of images in each row's class; 0 for a row without a class, whose lam
    does not change. The rare class gets the whole label if the share of the frequent class is below `tau`.
    """
    own, other = (class_size.index_select(0, index) for index in mix.index.unbind(1))
    labelled = (own > 0) & (other > 0)
    lam = mix.lam
    to_other = labelled & (own >= kappa * other) & (lam < tau)
    to_own = labelled & (other >= kappa * own) & (1 - lam < tau)
    lam = torch.where(to_other, 0.0, torch.where(to_own, 1.0, lam))
    return Mix(mix.index, torch.stack([lam, 1 - lam], 1), mix.mask)


@dataclass(eq=False)
class Remix(Container):
    """`base`: the method that mixes pixels. `counts`: images per class in the training set; None counts the images that
    this process has seen. `kappa`: ratio of class sizes from which labels change, 1 or above. `tau`: share from which
    the image of the frequent class keeps its label, 0 to 1.
    """

    paper = "2007.03943"
    title = "Remix"
    group = "loss"
    requires = frozenset(("softmax", "classifier"))
    needs_forward = False
    counts: list[float] | None = None
    kappa: float = 3.0
    tau: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base.free_weights:
            raise ValueError(
                f"remix requires weights that sum to one; {self.base.name} has free weights: choose another base."
            )
        if not (math.isfinite(self.kappa) and self.kappa >= 1):
            raise ValueError(f"Remix's kappa is {self.kappa!r}: give a finite ratio of class sizes, 1 or above.")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"Remix's tau is {self.tau!r}: give a number from 0 to 1.")
        if self.counts is not None and not (self.counts and all(math.isfinite(n) and n >= 0 for n in self.counts)):
            raise ValueError(f"Remix's counts are {self.counts!r}: give the number of images per class.")
        counts = None if self.counts is None else torch.tensor(self.counts, dtype=torch.float32)
        self.register_buffer("seen", counts)

    def build(self, net: Net) -> None:
        super().build(net)
        if self.seen is None:
            weight = net.classifier.weight
            self.seen = torch.zeros(net.num_classes, device=weight.device)

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        mixed, mix = super().mix_batch(net, x, y, rng, out)
        if mix.index.shape[1] != 2 or y.dim() != 2:  # nothing is mixed, or the task is a regression
            return mixed, mix
        return mixed, remix(mix, self.class_sizes(y.float()), self.kappa, self.tau)

    @torch.no_grad()
    def class_sizes(self, y: Tensor) -> Tensor:
        """(B,) number of images in the class of each row of `y` (B, C); without `counts`, updates the counts first."""
        if self.seen is not None and y.shape[1] != len(self.seen):
            raise ValueError(
                f"Remix has counts of {len(self.seen)} classes, but targets have {y.shape[1]}: give one per class."
            )
        if self.counts is None:
            self.seen = y.sum(0) if self.seen is None else self.seen + y.sum(0)
        return y @ self.seen.to(y.device, non_blocking=True)
