"""Manifold Mixup: mix the hidden states of a layer drawn at random (Verma et al., 2019, section 2)."""

from dataclasses import dataclass

import torch

from ..mix import Mix
from ._base import Method
from ._hidden import check_layers, check_stages
from .mixup import mixup


@dataclass(eq=False)
class ManifoldMix(Method):
    """`alpha`: of Beta(alpha, alpha). `layers`: drawn from these; 0 is the input, k follows stage (block) k.

    Soft cross-entropy, as the benchmark; the authors use BCE on softmax outputs.
    """

    paper = "1806.05236"
    title = "Manifold Mixup"
    group = "hidden"
    needs_net = True
    needs_forward = True
    alpha: float = 2.0
    layers: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        super().__post_init__()
        check_layers(self)

    def build(self, net):
        check_stages(self, net)

    def mix_batch(self, net, x, y, rng):
        """Mixup of the input: what layer 0 does."""
        return mixup(x, *self.draw(x, self.alpha, rng))

    def forward(self, net, x, y, rng):
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        layer = self.layers[int(torch.randint(len(self.layers), (), generator=rng))]
        lam, partner = self.draw(x, self.alpha, rng)
        lam = self.spare_rows(lam, rng)

        def edit(hidden):
            return mixup(hidden, lam, partner)[0]

        if layer == 0:
            logits = net(edit(x))
        else:
            with net.editing(layer - 1, edit):
                logits = net(x)
        return {"mix": net.loss(logits, Mix.pair(partner, lam, device=x.device)(y))}
