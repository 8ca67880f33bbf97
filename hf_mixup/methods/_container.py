"""Container: base class of methods that change the labels or losses of another method, which mixes the pixels."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..mix import Mix
from . import load_nested
from ._base import Method, Net


@dataclass(eq=False)
class Container(Method):
    """`base`: the method that mixes pixels, as a dict with name and arguments; it must not need `forward`. `per_image`:
    draw random numbers such as lam for each image instead of once per batch; passed on to `base` unless it has its own
    value. `pairing`: how partners are chosen: "shift", "permutation", "derangement", "flip" or "halves"; passed on to
    `base` unless it has its own value.
    """

    needs_forward = True
    base: dict = field(default_factory=lambda: {"name": "mixup", "alpha": 1.0})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.base = load_nested(self, self.base)
        if self.base.needs_forward:
            raise ValueError(
                f"{self.name} requires a base that only mixes pixels; {self.base.name} does more: choose another base."
            )

    @property
    def needs_net(self) -> bool:
        return self.base.needs_net

    def build(self, net: Net) -> None:
        self.base.build(net)

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        return self.base.mix(net, x, y, rng, **({} if out is None else {"out": out}))

    def after_step(self, net: Net) -> None:
        self.base.after_step(net)
