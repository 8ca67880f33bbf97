"""AlignMix: mix the places of two feature maps that resemble each other (Venkataramanan et al., 2022, section 3).

As the authors' code, without the paper's autoencoder. For a network with a class token, to which nothing of the last
map's patches would come through, the map is that before the last block, and class tokens are mixed in place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import mingle, spread
from ..ops.sinkhorn import sinkhorn
from ._base import Method
from ._hidden import editing_map, last_that_counts
from .mixup import mixup


def alignmix(
    features: Tensor, lam: Tensor, partner: Tensor, in_place: Tensor, *, eps: float, rounds: int, threshold: float
) -> tuple[Tensor, Mix]:
    """Maps with `lam` of their own and the rest of the partner's features, brought to the places they resemble.

    `features` (B, C, h, w); `lam` (B,); `partner` (B,); `in_place` (B,) whose places stay: the own ones, with the
    partner's brought to them, or the partner's. Gradient reaches both images, not the plan. `lam` 1 changes nothing.
    """
    lam, partner, in_place = (draw.to(features.device, non_blocking=True) for draw in (lam, partner, in_place))
    own = features.flatten(2).transpose(1, 2)
    other = own.index_select(0, partner)
    with torch.no_grad():
        # squared after the root, since differences of squares lose digits that eps needs
        cost = torch.cdist(own, other, compute_mode="donot_use_mm_for_euclid_dist").square()
        plan = sinkhorn(cost, eps, rounds, threshold) * own.shape[1]
    stays = spread(in_place | (lam == 1), own)
    brought = torch.where(stays, plan @ other, other)
    mixed = mingle(torch.where(stays, own, plan.mT @ own), brought, spread(lam, own))
    return mixed.mT.reshape(features.shape), Mix.pair(partner, lam)


@dataclass(eq=False)
class AlignMix(Method):
    """`alpha`: of Beta(alpha, alpha). `aligned_prob`: share of batches whose last maps are aligned and mixed; the
    others get Mixup. `layer`: whose map, by number or name; by default the last that counts. `eps`, `rounds`,
    `threshold`: of the transport plan, see `ops.sinkhorn`.
    """

    paper = "2103.15375"
    title = "AlignMixup"
    group = "hidden"
    needs_net = True
    needs_forward = True
    alpha: float = 2.0
    aligned_prob: float = 0.5
    layer: int | str | None = None
    eps: float = 0.1
    rounds: int = 100
    threshold: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.aligned_prob <= 1:
            raise ValueError(f"AlignMix's aligned_prob is {self.aligned_prob!r}: give a share from 0 to 1.")
        if not self.eps > 0 or self.rounds < 1:
            raise ValueError(
                f"AlignMix got eps {self.eps!r}, rounds {self.rounds!r}: give an eps above 0 and 1 round or more."
            )

    def build(self, net):
        net.layers(for_method="alignmix")
        self.chosen = net.layer(last_that_counts(net) if self.layer is None else self.layer).name

    def mix_batch(self, net, x, y, rng):
        """Mixup of the input: what batches get that are not aligned."""
        return mixup(x, *self.draw(x, self.alpha, rng))

    def forward(self, net, x, y, rng):
        self.check(x, y)
        if self.skips(x, rng):
            return {"mix": net.loss(net(x), y)}
        aligned = float(torch.rand((), generator=rng)) < self.aligned_prob
        lam, partner = self.draw(x, self.alpha, rng)
        lam = self.spare_rows(lam, rng)
        if not aligned:
            x, mix = mixup(x, lam, partner)
            return {"mix": net.loss(net(x), mix(y))}
        in_place = (torch.rand(self.draws(x), generator=rng) < 0.5).expand(len(x))

        def edit(features):
            options = {"eps": self.eps, "rounds": self.rounds, "threshold": self.threshold}
            return alignmix(features, lam, partner, in_place, **options)[0]

        with editing_map(net, self.chosen, x.shape[-2:], edit, lambda tokens: mixup(tokens, lam, partner)[0]):
            logits = net(x)
        return {"mix": net.loss(logits, Mix.pair(partner, lam, device=x.device)(y))}
