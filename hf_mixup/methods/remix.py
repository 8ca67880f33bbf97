"""Remix: a mixed image of a frequent and a rare class is of the rare one alone (Chou et al., 2020).

It changes the labels of any method that mixes pairs. There is no public code of the authors'.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ._container import Container


def remix(mix: Mix, size: Tensor, kappa: float, tau: float) -> Mix:
    """`mix` with lam 0 or 1 where one class is at least `kappa` times as frequent as the other.

    `mix` of pairs; `size` (B,) how many images the class of each row has, 0 for a row without one, which keeps its
    lam. The rare class gets all if the share of the frequent one is below `tau`.
    """
    own, other = (size.index_select(0, index) for index in mix.index.unbind(1))
    labelled = (own > 0) & (other > 0)
    lam = mix.lam
    to_other = labelled & (own >= kappa * other) & (lam < tau)
    to_own = labelled & (other >= kappa * own) & (1 - lam < tau)
    lam = torch.where(to_other, 0.0, torch.where(to_own, 1.0, lam))
    return Mix(mix.index, torch.stack([lam, 1 - lam], 1), mix.mask)


@dataclass(eq=False)
class Remix(Container):
    """`base`: the method that mixes. `counts`: images of each class in the training set; None counts those that this
    process has seen so far. `kappa`: how many times as frequent a class is that gives way; `tau`: below which share.
    """

    paper = "2007.03943"
    title = "Remix"
    group = "loss"
    needs_forward = False
    counts: list[float] | None = None
    kappa: float = 3.0
    tau: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.base.free_weights:
            raise ValueError(f"remix moves all of a label to one image, but labels of {self.base.name} are no shares.")
        if not (math.isfinite(self.kappa) and self.kappa >= 1):
            raise ValueError(f"Remix's kappa is {self.kappa!r}: give a finite ratio of class sizes, 1 or above.")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"Remix's tau is {self.tau!r}: give a share from 0 to 1.")
        if self.counts is not None and not (self.counts and all(math.isfinite(n) and n >= 0 for n in self.counts)):
            raise ValueError(f"Remix's counts are {self.counts!r}: give the number of images of each class.")
        counts = None if self.counts is None else torch.tensor(self.counts, dtype=torch.float32)
        self.register_buffer("seen", counts)

    def build(self, net):
        super().build(net)
        if self.seen is None:
            weight = net.classifier.weight
            self.seen = torch.zeros(net.num_classes, device=weight.device)

    def mix_batch(self, net, x, y, rng, out=None):
        mixed, mix = super().mix_batch(net, x, y, rng, out)
        if mix.index.shape[1] != 2 or y.dim() != 2:  # nothing is mixed, or numbers without classes
            return mixed, mix
        return mixed, remix(mix, self.sizes(y.float()), self.kappa, self.tau)

    @torch.no_grad()
    def sizes(self, y: Tensor) -> Tensor:
        """(B,) images that the class of each row of `y` (B, C) has, this batch among them where they are counted."""
        if self.seen is not None and y.shape[1] != len(self.seen):
            raise ValueError(f"Remix knows the counts of {len(self.seen)} classes, but targets have {y.shape[1]}.")
        if self.counts is None:
            self.seen = y.sum(0) if self.seen is None else self.seen + y.sum(0)
        return y @ self.seen.to(y.device, non_blocking=True)
