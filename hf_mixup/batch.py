"""The same methods in other people's loops: a call, a collator, a loss for soft labels."""

import os

import torch
import torch.nn.functional as F
from accelerate.data_loader import DataLoaderAdapter
from torch import Tensor, nn

from .methods import Method, load
from .ops.losses import smooth, soft_cross_entropy
from .ops.masks import written
from .ops.sampling import generator
from .tasks.classification import targets


class BatchMixup(nn.Module):
    """`images, targets = BatchMixup("cutmix", num_classes=10)(images, labels)`, as timm's and torchvision's.

    `images` (B, C, H, W), `labels` int (B,) or float (B, K); targets are float32 (B, K). In eval mode images come
    back as they are. Draws are a pure function of `seed` (None: torch's initial seed) and process; in a loader's worker
    also of the worker's seed, which is another in each epoch and comes from torch's.
    A call's `out`, a tensor like `images`, takes the mixed ones and spares a new one; `inplace` writes to `images`
    themselves and needs `pairing="halves"`.
    """

    def __init__(
        self,
        method: str | dict | Method,
        num_classes: int,
        *,
        seed: int | None = None,
        label_smoothing: float = 0.0,
        inplace: bool = False,
        **hyperparameters,
    ):
        super().__init__()
        self.method = load(method, **hyperparameters)
        self.num_classes, self.seed, self.label_smoothing, self.inplace = num_classes, seed, label_smoothing, inplace
        self._rng, self._rng_of = None, None
        if self.method.needs_net or self.method.needs_forward:
            raise ValueError(
                f"Method {self.method.name!r} works inside a training step and cannot run on batches alone: "
                "use hf_mixup.MixupTrainer, or a method that mixes pixels only."
            )
        if inplace and self.method.pairing != "halves":
            raise ValueError(f'inplace needs pairing="halves", not {self.method.pairing!r}.')
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing!r}: give a share of each label, from 0 to 1.")

    def forward(self, images: Tensor, labels: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = targets(labels, self.num_classes)
        if y.dim() != 2 or y.shape[1] != self.num_classes:
            raise ValueError(
                f"Labels of shape {tuple(labels.shape)} and type {labels.dtype}: give class numbers (B,) as integers, "
                f"or rows of {self.num_classes} floats."
            )
        if out is not None and self.inplace:
            raise ValueError("out was given, but inplace mixes the images themselves: leave out one of the two.")
        if out is not None:
            _check_out(out, images)
        out = images if self.inplace else out
        if not self.training:
            return written(images, out), y
        mixed, mix = self.method.mix(None, images, y, self.rng, out)
        return mixed, smooth(mix(y), self.label_smoothing)

    @property
    def rng(self) -> torch.Generator:
        """This process's own generator, made at first use: after a fork there is another."""
        if self._rng_of != os.getpid():
            worker = torch.utils.data.get_worker_info()
            seed = torch.initial_seed() if self.seed is None else self.seed
            # not the worker's number: workers are made anew in each epoch, which would repeat the draws
            of_worker = worker.seed % 2**63 if worker else 0
            self._rng, self._rng_of = generator(seed % 2**63, _rank(), of_worker), os.getpid()
        return self._rng

    def __getstate__(self):
        return {**self.__dict__, "_rng": None, "_rng_of": None}


def _check_out(out: Tensor, images: Tensor) -> None:
    if (out.shape, out.dtype, out.device) != (images.shape, images.dtype, images.device):
        raise ValueError(f"out is {_kind(out)}, images are {_kind(images)}: give a tensor like them.")
    if out.untyped_storage().data_ptr() == images.untyped_storage().data_ptr():
        raise ValueError("out and images share their memory: give a tensor of its own, or BatchMixup(inplace=True).")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", 0))


class MixupCollator:
    """Collates examples and mixes them: `pixel_values` (B, C, H, W) and float `labels` (B, K), for training only.

    `MixupCollator("cutmix", num_classes=10).into(loader)` puts it into a loader, around the collator that is there;
    in a plain Trainer, into the one that `get_train_dataloader` gives, so that evaluation keeps its integer labels.
    Arguments are those of `BatchMixup`; `collate` makes the batch (None: torch's default).
    """

    def __init__(self, method: str | dict | Method, num_classes: int, *, collate=None, **arguments):
        self.batch_mixup = BatchMixup(method, num_classes, **arguments)
        self.collate = collate or torch.utils.data.default_collate

    def __call__(self, examples: list) -> dict[str, Tensor]:
        batch = self.collate(examples)
        missing = {"pixel_values", "labels"} - set(batch)
        if missing:
            raise KeyError(
                f"The batch has {sorted(batch)} and lacks {sorted(missing)}: give a `collate` that makes them."
            )
        images, labels = self.batch_mixup(batch["pixel_values"], batch["labels"])
        return {**batch, "pixel_values": images, "labels": labels}

    def into(self, loader: torch.utils.data.DataLoader) -> torch.utils.data.DataLoader:
        """`loader`, from now on mixing what its own collator makes."""
        # accelerate's loaders, which a Trainer gives, ask the one inside them
        inner = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
        self.collate, inner.collate_fn = inner.collate_fn, self
        return loader


def soft_loss(outputs, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of soft (B, K) or integer (B,) labels, for a plain Trainer's `compute_loss_func`.

    The Trainer counts label entries over all accumulated batches; the sum is divided by the rows they stand for, so
    gradients do not depend on accumulation.
    """
    logits = getattr(outputs, "logits", None)
    logits = outputs["logits"] if logits is None else logits
    if not labels.is_floating_point():
        total = F.cross_entropy(logits.float(), labels, reduction="sum")
        entries = 1
    else:
        total = soft_cross_entropy(logits.float(), labels.float()).sum()
        entries = labels.shape[1]
    rows = len(labels) if num_items_in_batch is None else num_items_in_batch / entries
    return total / rows


def from_timm(
    mixup_alpha: float = 1.0,
    cutmix_alpha: float = 0.0,
    cutmix_minmax: tuple[float, float] | None = None,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: str = "batch",
    correct_lam: bool = True,
    label_smoothing: float = 0.1,
    num_classes: int = 1000,
    multi_label: bool = False,
) -> BatchMixup:
    """A `BatchMixup` with the arguments and the distribution of timm's `Mixup`, odd batches included.

    The modes "elem" and "pair" draw lam for each row; which of Mixup and CutMix it is, is drawn for each batch.
    `multi_label`: labels are given as (B, K) floats, which a `BatchMixup` takes in any case.
    """
    if multi_label and label_smoothing:
        raise ValueError(
            "timm smooths multi_label targets towards 0.5, which is not done here: give label_smoothing=0."
        )
    if mode not in ("batch", "elem", "pair"):
        raise ValueError(f"Unknown mode {mode!r}. Choose one of: batch, pair, elem.")
    cut = cutmix_alpha > 0 or cutmix_minmax is not None
    if not cut and mixup_alpha <= 0:
        raise ValueError("One of mixup_alpha > 0, cutmix_alpha > 0, cutmix_minmax must be given.")
    shared = {"per_image": mode != "batch", "pairing": "flip"}
    mixup = {"name": "mixup", "alpha": mixup_alpha, **shared}
    cutmix = {"name": "cutmix", "alpha": cutmix_alpha or 1.0, "minmax": cutmix_minmax, "correct_lam": correct_lam}
    cutmix |= shared
    if cut and mixup_alpha > 0:
        method = {"name": "choice", "methods": [cutmix, mixup], "weights": [switch_prob, 1 - switch_prob], **shared}
    else:
        method = cutmix if cut else mixup
    return BatchMixup(method, num_classes, label_smoothing=label_smoothing, prob=prob)
