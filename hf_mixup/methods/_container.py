"""A method around another, which mixes the pixels: what those have in common that only change labels or losses."""

from dataclasses import dataclass, field

from . import within
from ._base import Method


@dataclass(eq=False)
class Container(Method):
    """`base`: the method that mixes, by its name and arguments; it may do no more than that."""

    needs_forward = True
    base: dict = field(default_factory=lambda: {"name": "mixup", "alpha": 1.0})

    def __post_init__(self):
        super().__post_init__()
        self.base = within(self, self.base)
        if self.base.needs_forward:
            raise ValueError(
                f"{self.name} works with what its base mixed, but {self.base.name} does more than mix pixels: "
                "choose another base."
            )

    @property
    def needs_net(self):
        return self.base.needs_net

    def build(self, net):
        self.base.build(net)

    def mix_batch(self, net, x, y, rng, out=None):
        return self.base.mix(net, x, y, rng, **({} if out is None else {"out": out}))

    def after_step(self, net):
        self.base.after_step(net)
