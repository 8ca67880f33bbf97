"""Choice: one of several methods, drawn for each batch.

The switch of DeiT (Touvron et al., 2021), of RSB (Wightman et al., 2021) and of RandoMix (Liu et al., 2022); not
mixing is `{"name": "erm"}`, and the weights are its probability.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from ..mix import Mix
from ..ops.masks import written
from . import within
from ._base import Method


@dataclass(eq=False)
class Choice(Method):
    """`methods`: mappings with `name` and arguments. `weights`: their probabilities, up to a factor; None is alike.

    The defaults are those of DeiT: CutMix with alpha 1 or Mixup with alpha 0.8, one as often as the other.
    """

    paper = "2012.12877"
    title = "Choice (DeiT: Mixup or CutMix)"
    group = "policy"
    methods: list = field(default_factory=lambda: [{"name": "cutmix", "alpha": 1.0}, {"name": "mixup", "alpha": 0.8}])
    weights: list[float] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.weights = [1.0] * len(self.methods) if self.weights is None else self.weights
        if not self.methods or len(self.weights) != len(self.methods):
            raise ValueError(f"{len(self.methods)} methods and {len(self.weights)} weights: give one weight a method.")
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or sum(self.weights) == 0:
            raise ValueError(f"Weights {self.weights!r}: give finite numbers, none below 0 and one above.")
        self.methods = nn.ModuleList(within(self, method) for method in self.methods)

    @property
    def needs_net(self):
        return any(method.needs_net for method in self.methods)

    @property
    def needs_forward(self):
        return any(method.needs_forward for method in self.methods)

    def choose(self, rng: torch.Generator) -> Method:
        """The method of this batch; alike on all processes, since it decides which networks run."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        method = self.methods[int(torch.multinomial(weights, 1, generator=self.common_rng or rng))]
        method.outer_prob = self.rate if self.per_image else 1.0  # it spares the rows, once for both
        return method

    def build(self, net):
        for method in self.methods:
            method.build(net)

    def mix(self, net, x, y, rng, out=None):
        self.check(x, y)
        if self.skips(x, rng):
            return written(x, out), Mix.none(x)
        return self.choose(rng).mix(net, x, y, rng, out)

    def forward(self, net, x, y, rng):
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        return self.choose(rng)(net, x, y, rng)

    def after_step(self, net):
        for method in self.methods:
            method.after_step(net)
