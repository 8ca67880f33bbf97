"""ERM: no mixing, the baseline (Vapnik, 1998)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import write_out
from ._base import Method, Net


@dataclass(eq=False)
class ERM(Method):
    """Empirical risk minimisation: images and targets are not changed.

    `per_image`, `pairing`, `prob`: accepted as by all methods, without effect.
    """

    title = "No mixing (ERM)"
    group = "baseline"

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        return write_out(x, out), Mix.none(x)
