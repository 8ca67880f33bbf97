"""Choice: one of several methods, drawn for each batch.

As in DeiT (Touvron et al., 2021), RSB (Wightman et al., 2021) and RandoMix (Liu et al., 2022). Use `{"name": "erm"}`
for not mixing.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..mix import Mix
from ..ops.masks import write_out
from . import load_nested
from ._base import Method, Net


@dataclass(eq=False)
class Choice(Method):
    """`methods`: the methods to choose from, as mappings with `name` and arguments. `weights`: relative probabilities
    of the methods, 0 or above; None for equal ones. `per_image`: draw random numbers such as lam for each image instead
    of once per batch; passed on to `methods` without a value of their own. `pairing`: how partners are chosen: "shift",
    "permutation", "derangement", "flip" or "halves"; passed on to `methods` without a value of their own.

    The defaults are those of DeiT: CutMix with alpha 1 or Mixup with alpha 0.8, with equal probability.
    """

    paper = "2012.12877"
    title = "Choice (DeiT: Mixup or CutMix)"
    group = "policy"
    methods: list = field(default_factory=lambda: [{"name": "cutmix", "alpha": 1.0}, {"name": "mixup", "alpha": 0.8}])
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.weights = [1.0] * len(self.methods) if self.weights is None else self.weights
        if not self.methods or len(self.weights) != len(self.methods):
            raise ValueError(f"{len(self.methods)} methods and {len(self.weights)} weights: give one per method.")
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or sum(self.weights) == 0:
            raise ValueError(f"Weights {self.weights!r}: give finite numbers, 0 or above, with a positive sum.")
        self.methods = nn.ModuleList(load_nested(self, method) for method in self.methods)

    @property
    def needs_net(self) -> bool:
        return any(method.needs_net for method in self.methods)

    @property
    def needs_forward(self) -> bool:
        return any(method.needs_forward for method in self.methods)

    def choose(self, rng: torch.Generator) -> Method:
        """Draw the method of this batch; equal on all ranks, because it decides which networks run."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        method = self.methods[int(torch.multinomial(weights, 1, generator=self.common_rng or rng))]
        method.outer_prob = self.rate if self.per_image else 1.0  # the chosen method applies `prob` to the rows, once
        return method

    def build(self, net: Net) -> None:
        for method in self.methods:
            method.build(net)

    def mix(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        self.check(x, y)
        if self.skips(x, rng):
            return write_out(x, out), Mix.none(x)
        return self.choose(rng).mix(net, x, y, rng, out)

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        return self.choose(rng)(net, x, y, rng)

    def after_step(self, net: Net) -> None:
        for method in self.methods:
            method.after_step(net)
