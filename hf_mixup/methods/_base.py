"""Method: base class of all mixup methods."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..components import Registry, argument_names
from ..errors import TaskError
from ..mix import Mix
from ..ops.masks import write_out
from ..ops.sampling import PAIRINGS, beta, partners

if TYPE_CHECKING:
    from ..net import Net
    from ..tasks import Task
else:
    Net = nn.Module  # methods do not import `net` at run time


METHODS = Registry(__package__, [str(Path(__file__).parent)], "hf_mixup.methods", "method")
# what a method may require of a task (`Task.provides`), in words
REQUIREMENTS = {
    "classes": "targets that are weights of classes",
    "softmax": "one class per image, predicted by softmax",
    "classifier": "targets for the outputs of the network's last layer",
}


@dataclass(eq=False)
class Method(nn.Module):
    """Fields are hyperparameters. Override `mix_batch` if the method mixes pixels, `forward` if it does more.

    `per_image`: draw random numbers such as lam for each image instead of once per batch. `pairing`: how each image's
    partner is chosen from the batch: "shift" (one random offset for all images), "permutation" (at random, possibly the
    image itself), "derangement" (at random, always another image), "flip" (the first image with the last one, and so
    on) or "halves" (the first half with the second). `prob`: share of batches that are mixed, 0 to 1; with `per_image`,
    share of images.
    """

    paper: ClassVar[str] = ""  # arXiv id, or a URL if there is none
    title: ClassVar[str] = ""  # name in tables and cards
    group: ClassVar[str] = "static"  # baseline | static | policy | hidden | saliency | attention | learned | loss
    pairings: ClassVar[tuple[str, ...]] = PAIRINGS  # values of `pairing` that the method supports
    free_weights: ClassVar[bool] = False  # rows of `Mix.weight` need not sum to one
    private: ClassVar[tuple[str, ...]] = ()  # buffers with training data: per-rank state, not uploaded
    needs: ClassVar[str] = ""  # requirement in the table of methods, if not "the network"
    requires: ClassVar[frozenset[str]] = frozenset()  # of the task: keys of REQUIREMENTS; may be a property
    needs_net = False  # `mix` reads the network, so collators cannot run the method
    needs_forward = False  # `forward` does more than `mix`, so collators cannot run the method

    per_image: bool = False
    pairing: str = "shift"
    prob: float = 1.0

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # nn.Module must be initialised before the dataclass assigns its fields
        self = super().__new__(cls)
        nn.Module.__init__(self)
        self.step, self.total_steps = 0, 1  # optimizer steps done and planned, set by the trainer
        self.outer_prob = 1.0  # share of rows that a surrounding `choice` mixes
        self.full_name = ""  # the name by which a class of the user's own was given
        self.loaded = False  # the state was loaded from a file; `build_once` keeps it
        # for draws that must be equal on all ranks; set by the trainer before each step
        self.common_rng: torch.Generator | None = None
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls) and "needs_forward" not in vars(cls):
            cls.needs_forward = True  # else collators would leave out what a user's own `forward` adds

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.pairing not in self.pairings:
            known = ", ".join(self.pairings)
            raise ValueError(f"{name} does not support pairing {self.pairing!r}. Choose one of: {known}.")
        if not 0 <= self.prob <= 1:
            raise ValueError(f"{name}'s prob is {self.prob!r}: give the share of batches to mix, 0 to 1.")
        alpha = getattr(self, "alpha", 1.0)
        if isinstance(alpha, int | float) and not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"{name}'s alpha is {alpha!r}: give a finite number, 0 (no mixing) or above.")

    def hyperparameters(self) -> dict[str, Any]:
        """All arguments and values, as `load` takes them; nested methods as `{"name": ..., ...}`.

        Without networks and parameters, which are saved with the method's weights.
        """
        values = {name: getattr(self, name) for name in argument_names(type(self)) if hasattr(self, name)}
        return {key: _to_plain(value) for key, value in values.items() if not _is_state(value)}

    @property
    def link(self) -> str:
        """URL of the paper, empty if there is none."""
        return self.paper if not self.paper or "/" in self.paper else f"https://arxiv.org/abs/{self.paper}"

    @property
    def name(self) -> str:
        """The name that `load` takes: the file name in the package, that of an entry point, or `module:Class`."""
        return self.full_name or METHODS.name_of(type(self))

    @property
    def rate(self) -> float:
        """Share of rows that are mixed with `per_image`."""
        return self.prob * self.outer_prob

    @property
    def progress(self) -> float:
        """Fraction of training that is done, 0 to 1."""
        return min(self.step / max(self.total_steps, 1), 1.0)

    def check_task(self, task: "Task") -> None:
        """ValueError if the method, or a method that it contains, requires what the task does not provide."""
        for part in self.modules():
            missing = sorted(part.requires - task.provides) if isinstance(part, Method) else []
            if missing:
                raise ValueError(
                    f"Method {part.name!r} requires {' and '.join(REQUIREMENTS[key] for key in missing)}; task "
                    f"{task.name!r} does not provide it. Choose a method that mixes the images of any task, such as "
                    "mixup or cutmix, or another task."
                )

    def build(self, net: Net) -> None:
        """Create the method's own networks for `net`; called once, before training."""

    def build_once(self, net: Net) -> None:
        """Call `build`, then restore the state of a loaded method; ValueError if it does not fit `net`."""
        state = self.state_dict() if self.loaded else None
        self.build(net)
        if state is None:
            return
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"Method {self.name!r} was loaded with a state that does not fit {net.name} with {net.num_classes} "
                "classes: give the method's name and arguments instead, to create new networks."
            ) from error

    def mix(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        """Mixed images, like `x` (B, C, H, W), and their `Mix`; `mix(y)` are the mixed targets.

        The batch is returned unchanged if it has one row, if `prob` skips it, and in eval mode. `x` is not modified.
        `y` (B, ...) float targets, one row per image. Methods with `needs_net` False accept `net` None, and `out`: the
        tensor to write the mixed images to, like `x` or `x` itself.
        """
        self.check(x, y)
        if self.skips(x, rng):
            return write_out(x, out), Mix.none(x)
        if not (self.per_image and self.rate < 1):
            return self._checked(self.mix_batch(net, x, y, rng, **({} if out is None else {"out": out})))
        mixed, mix = self._checked(self.mix_batch(net, x, y, rng))
        mixed, mix = _restore_rows(x, mixed, mix, torch.rand(len(x), generator=rng) >= self.rate)
        return write_out(mixed, out), mix

    def _checked(self, result: Any) -> tuple[Tensor, Mix]:
        """What `mix_batch` returns; TaskError unless it is images and their `Mix`."""
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mix):
            return result
        kinds = [type(item).__name__ for item in (result if isinstance(result, tuple) else [result])]
        raise TaskError(
            f"`mix_batch` of method {self.name!r} returns {' and '.join(kinds)}: return the mixed images and a Mix, "
            "for example Mix.pair(partner, lam)."
        )

    def mix_batch(self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Mix]:
        """As `mix`, for a batch of two or more rows that is mixed."""
        raise TypeError(f"{type(self).__name__} does not mix pixels: use it in a training step, through `forward`.")

    def forward(self, net: Net, x: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one training step; training minimises their sum."""
        x, mix = self.mix(net, x, y, rng)
        return {"mix": net.loss(net(x), mix(y))}

    def after_step(self, net: Net) -> None:
        """Called once after each optimizer step, for example to update a momentum encoder."""

    def draw(self, x: Tensor, alpha: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`lam` (B,) from Beta(alpha, alpha) and `partner` (B,), on the CPU."""
        lam = beta(alpha, self.draws(x), rng).expand(len(x))
        return lam, partners(len(x), self.pairing, rng)

    def draws(self, x: Tensor) -> int:
        """Number of draws for the batch: one, or one per row with `per_image`."""
        return len(x) if self.per_image else 1

    def skips(self, x: Tensor, rng: torch.Generator) -> bool:
        """Whether the whole batch stays unmixed: one row, eval mode, or drawn with probability 1 - `prob`."""
        if len(x) == 1 or not self.training:
            return True
        return self.prob < 1 and not self.per_image and float(torch.rand((), generator=rng)) >= self.prob

    def skip_rows(self, lam: Tensor, rng: torch.Generator) -> Tensor:
        """`lam` (B,), with `per_image` set to one in the rows that `prob` skips."""
        if self.rate == 1 or not self.per_image:
            return lam
        return torch.where(torch.rand(len(lam), generator=rng) < self.rate, lam, 1.0)

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raise ValueError unless `x` is a batch of images and `y` has a row per image."""
        if x.dim() != 4:
            raise ValueError(f"Images of shape {tuple(x.shape)}: give a batch (B, C, H, W).")
        if len(y) != len(x):
            raise ValueError(f"{len(x)} images but {len(y)} targets: give one row of targets per image.")


def _restore_rows(x: Tensor, mixed: Tensor, mix: Mix, skipped: Tensor) -> tuple[Tensor, Mix]:
    """`mixed` and `mix` with the rows `skipped` (B,) restored from `x`."""
    skipped = skipped.to(x.device, non_blocking=True)
    unmixed_weight = torch.zeros_like(mix.weight)
    unmixed_weight[:, 0] = 1
    index = mix.index.clone()
    index[:, 0] = torch.where(skipped, torch.arange(len(x), device=x.device), index[:, 0])
    mask = mix.mask
    if mask is not None:
        unmixed_mask = torch.zeros_like(mask[:1])
        unmixed_mask[:, 0] = 1
        mask = torch.where(skipped[:, None, None, None], unmixed_mask, mask)
    mixed = torch.where(skipped[:, None, None, None], x, mixed)
    return mixed, Mix(index, torch.where(skipped[:, None], unmixed_weight, mix.weight), mask)


def _is_state(value: Any) -> bool:
    """Whether `value` is a network or parameter; methods, and lists of methods, are not."""
    if isinstance(value, nn.ModuleList):
        return not all(isinstance(item, Method) for item in value)
    return isinstance(value, nn.Module | nn.Parameter) and not isinstance(value, Method)


def _to_plain(value: Any) -> Any:
    """`value` with methods as dicts and sequences as lists, for JSON."""
    if isinstance(value, Method):
        return {"name": value.name, **value.hyperparameters()}
    if isinstance(value, (list, tuple, nn.ModuleList)):
        return [_to_plain(item) for item in value]
    return value
