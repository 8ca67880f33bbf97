"""ERM: no mixing, the baseline every method is compared with (Vapnik, 1998)."""

from dataclasses import dataclass

from ..mix import Mix
from ..ops.masks import written
from ._base import Method


@dataclass(eq=False)
class ERM(Method):
    """Empirical risk minimisation: images and targets as they are."""

    title = "No mixing (ERM)"
    group = "baseline"

    def mix_batch(self, net, x, y, rng, out=None):
        return written(x, out), Mix.none(x)
