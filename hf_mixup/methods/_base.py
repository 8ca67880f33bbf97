"""Method: what every mixup method is to the trainer, the collators and the tests."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..mix import Mix
from ..ops.masks import written
from ..ops.sampling import PAIRINGS, beta, partners


@dataclass(eq=False)
class Method(nn.Module):
    """Fields are hyperparameters. Override `mix_batch` if the method mixes pixels, `forward` if it does more."""

    paper: ClassVar[str] = ""  # arXiv id, or an address where there is none
    title: ClassVar[str] = ""  # its name in print
    group: ClassVar[str] = "static"  # static | policy | hidden | saliency | attention | learned | loss
    pairings: ClassVar[tuple[str, ...]] = PAIRINGS  # those the method can use
    free_weights: ClassVar[bool] = False  # rows of `weight` need not sum to one
    private: ClassVar[tuple[str, ...]] = ()  # buffers of training images: kept a process, never published
    needs: ClassVar[str] = ""  # what it must be given, where that is more than "the network" says
    needs_net = False  # `mix` asks the network: a collator cannot run it
    needs_forward = False  # more than `mix`: a collator would run a part of it

    per_image: bool = False  # one draw for each row instead of one for the batch
    pairing: str = "shift"
    prob: float = 1.0  # share of batches (rows, with per_image) that are mixed

    def __new__(cls, *args, **kwargs):
        # nn.Module must be set up before the dataclass assigns its fields
        self = super().__new__(cls)
        nn.Module.__init__(self)
        self.step, self.total_steps = 0, 1  # optimizer steps done and planned; the trainer sets them
        self.outer_prob = 1.0  # share of rows that a container lets this method mix
        self.loaded = False  # its state was read from a file, and is kept when it is built for a network
        self.common_rng = None  # draws that must be alike on all processes; the trainer sets it at each step
        return self

    def __post_init__(self):
        name = type(self).__name__
        if self.pairing not in self.pairings:
            raise ValueError(f"{name} cannot use pairing {self.pairing!r}. Choose one of: {', '.join(self.pairings)}.")
        if not 0 <= self.prob <= 1:
            raise ValueError(f"{name}'s prob is {self.prob!r}: give the share of batches to mix, from 0 to 1.")
        alpha = getattr(self, "alpha", 1.0)
        if alpha is not None and not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"{name}'s alpha is {alpha!r}: give a finite number, 0 (no mixing) or above.")

    def hyperparameters(self) -> dict:
        """Every field and its value, methods inside as `{"name": ..., ...}`: what `load` takes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: _plain(value) for key, value in values.items()}

    @property
    def link(self) -> str:
        """The address of the paper, empty where there is none."""
        return self.paper if not self.paper or "/" in self.paper else f"https://arxiv.org/abs/{self.paper}"

    @property
    def name(self) -> str:
        """The method's file name, which `load` takes."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def rate(self) -> float:
        """Share of rows that are mixed, with per_image."""
        return self.prob * self.outer_prob

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return min(self.step / max(self.total_steps, 1), 1.0)

    def build(self, net) -> None:
        """Make the method's own networks, once, for `net`."""

    def build_once(self, net) -> None:
        """`build`, after which a method that was loaded has its state again; ValueError if it is another network's."""
        state = self.state_dict() if self.loaded else None
        self.build(net)
        if state is None:
            return
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"Method {self.name!r} was loaded with networks for another network or other classes than {net.name}'s "
                f"{net.num_classes}: give its name and arguments, and it makes new ones."
            ) from error

    def mix(self, net, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None) -> tuple[Tensor, Mix]:
        """Mixed images, like `x` (B, C, H, W), and how they were mixed; `mix(y)` gives their targets.

        A batch of one, a batch that `prob` spares and any batch in eval mode come back unchanged. `x` is not written
        to. `net` may be None for methods that need no network. `y` (B, ...) float targets, one row an image.
        `out`, for such methods only: where the mixed images go, a tensor like `x` or `x` itself.
        """
        self.check(x, y)
        if self.skips(x, rng):
            return written(x, out), Mix.none(x)
        if not (self.per_image and self.rate < 1):
            return self.mix_batch(net, x, y, rng, **({} if out is None else {"out": out}))
        mixed, mix = self.mix_batch(net, x, y, rng)
        mixed, mix = _spare(x, mixed, mix, torch.rand(len(x), generator=rng) >= self.rate)
        return written(mixed, out), mix

    def mix_batch(self, net, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        """As `mix`, for a batch of two and more that is to be mixed."""
        raise TypeError(f"{type(self).__name__} mixes no pixels: it works inside a training step, through `forward`.")

    def forward(self, net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one training step; their sum is what is minimised."""
        x, mix = self.mix(net, x, y, rng)
        return {"mix": net.loss(net(x), mix(y))}

    def after_step(self, net) -> None:
        """Called once after each optimizer step: momentum encoders move here."""

    def draw(self, x: Tensor, alpha: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`lam` (B,) from Beta(alpha, alpha) and `partner` (B,), on the CPU."""
        lam = beta(alpha, self.draws(x), rng).expand(len(x))
        return lam, partners(len(x), self.pairing, rng)

    def draws(self, x: Tensor) -> int:
        """How many draws the batch takes: one, or one a row."""
        return len(x) if self.per_image else 1

    def skips(self, x: Tensor, rng: torch.Generator) -> bool:
        """Whether the whole batch stays unmixed: one row, eval mode, or spared by `prob`."""
        if len(x) == 1 or not self.training:
            return True
        return self.prob < 1 and not self.per_image and float(torch.rand((), generator=rng)) >= self.prob

    def spare_rows(self, lam: Tensor, rng: torch.Generator) -> Tensor:
        """`lam` (B,) with ones for the rows that `prob` spares."""
        if self.rate == 1 or not self.per_image:
            return lam
        return torch.where(torch.rand(len(lam), generator=rng) < self.rate, lam, 1.0)

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raise if `x` and `y` are not a batch of images and their targets."""
        if x.dim() != 4:
            raise ValueError(f"Images of shape {tuple(x.shape)}: give a batch (B, C, H, W).")
        if len(y) != len(x):
            raise ValueError(f"{len(x)} images but {len(y)} targets: give one row of targets for each image.")


def _spare(x: Tensor, mixed: Tensor, mix: Mix, spared: Tensor) -> tuple[Tensor, Mix]:
    """`mixed` and `mix` with the rows `spared` (B,) as they were in `x`."""
    spared = spared.to(x.device, non_blocking=True)
    own = torch.zeros_like(mix.weight)
    own[:, 0] = 1
    index = mix.index.clone()
    index[:, 0] = torch.where(spared, torch.arange(len(x), device=x.device), index[:, 0])
    mask = mix.mask
    if mask is not None:
        shown = torch.zeros_like(mask[:1])
        shown[:, 0] = 1
        mask = torch.where(spared[:, None, None, None], shown, mask)
    mixed = torch.where(spared[:, None, None, None], x, mixed)
    return mixed, Mix(index, torch.where(spared[:, None], own, mix.weight), mask)


def _plain(value):
    """`value` as JSON has it."""
    if isinstance(value, Method):
        return {"name": value.name, **value.hyperparameters()}
    if isinstance(value, (list, tuple, nn.ModuleList)):
        return [_plain(item) for item in value]
    return value
