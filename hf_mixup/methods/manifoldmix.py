"""Manifold Mixup: mix the hidden states of a random layer (Verma et al., 2019, section 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ._base import Method, Net
from ._hidden import check_layers, check_stages
from .mixup import mixup


@dataclass(eq=False)
class ManifoldMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `layers`:
    numbers of the layers to mix, one is drawn per batch: 0 for the input, k for the output of stage k.

    The loss is soft cross-entropy, as in OpenMixup's benchmark; the authors use BCE on softmax outputs.
    """

    paper = "1806.05236"
    title = "Manifold Mixup"
    group = "hidden"
    needs_net = True
    needs_forward = True
    alpha: float = 2.0
    layers: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layers(self)

    def build(self, net: Net) -> None:
        check_stages(self, net)

    def mix_batch(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        """Mixup of the input, as for layer 0."""
        return mixup(x, *self.draw(x, self.alpha, rng))

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        layer = self.layers[int(torch.randint(len(self.layers), (), generator=rng))]
        lam, partner = self.draw(x, self.alpha, rng)
        lam = self.skip_rows(lam, rng)

        def edit(hidden: Tensor) -> Tensor:
            return mixup(hidden, lam, partner)[0]

        if layer == 0:
            logits = net(edit(x))
        else:
            with net.editing(layer - 1, edit):
                logits = net(x)
        return {"mix": net.loss(logits, Mix.pair(partner, lam, device=x.device)(y))}
