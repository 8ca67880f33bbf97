"""Methods for training loops without `MixupTrainer`: a callable, a collator and a loss for soft labels."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.data_loader import DataLoaderAdapter
from torch import Tensor, nn

from .errors import did_you_mean
from .methods import Method, load
from .ops.losses import smooth, soft_cross_entropy
from .ops.masks import write_out
from .ops.sampling import generator
from .tasks.classification import targets

CHANNELS = (1, 3, 4)  # of images


class BatchMixup(nn.Module):
    """`images, targets = BatchMixup("cutmix", num_classes=10)(images, labels)`, as in timm and torchvision.

    `images` (B, C, H, W), `labels` int (B,) or rows (B, K) of any type; targets are float32 (B, K). A pair (images,
    labels) may be given instead, as to torchvision's. In eval mode, and with `mixup_enabled = False` as in timm, images
    are returned unchanged. Random draws depend on `seed` (None: torch's initial seed) and the rank, and in a DataLoader
    worker also on the worker's seed, which differs in each epoch. To allocate no memory, give `out`, a tensor like
    `images`, in each call; `inplace` writes to `images` and requires `pairing="halves"`.
    """

    def __init__(
        self,
        method: str | dict | Method,
        num_classes: int,
        *,
        seed: int | None = None,
        label_smoothing: float = 0.0,
        inplace: bool = False,
        **hyperparameters: Any,
    ) -> None:
        super().__init__()
        self.mixup_enabled = True
        self.method = load(method, **hyperparameters)
        self.num_classes, self.seed, self.label_smoothing, self.inplace = num_classes, seed, label_smoothing, inplace
        self._rng, self._rng_pid = None, None
        if self.method.needs_net or self.method.needs_forward:
            raise ValueError(
                f"Method {self.method.name!r} requires a training step and cannot run on batches only: "
                "use hf_mixup.MixupTrainer, or choose a method that only mixes pixels."
            )
        if inplace and self.method.pairing != "halves":
            raise ValueError(f'inplace requires pairing="halves", not {self.method.pairing!r}.')
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing!r}: give a number from 0 to 1.")
        self._complete = True

    def __setattr__(self, name: str, value: Any) -> None:
        if "_complete" in self.__dict__:
            check_attribute(self, name)
        super().__setattr__(name, value)

    def forward(
        self, images: Tensor | Sequence[Tensor], labels: Tensor | None = None, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if labels is None:
            images, labels = _pair(images)
        _check_images(images)
        rows = labels.dim() == 2 and labels.shape[1] == self.num_classes > 1
        y = targets(labels.float() if rows else labels, self.num_classes)
        if out is not None and self.inplace:
            raise ValueError("out was given, but inplace=True writes to the images: give only one of out and inplace.")
        if out is not None:
            _check_out(out, images)
        out = images if self.inplace else out
        if not self.training:
            return write_out(images, out), y
        if not self.mixup_enabled or not len(images):
            return write_out(images, out), smooth(y, self.label_smoothing)
        mixed, mix = self.method.mix(None, images, y, self.rng, out)
        return mixed, smooth(mix(y), self.label_smoothing)

    @property
    def rng(self) -> torch.Generator:
        """The generator of this process, created at first use, and again after a fork."""
        if self._rng_pid != os.getpid():
            worker = torch.utils.data.get_worker_info()
            seed = torch.initial_seed() if self.seed is None else self.seed
            # not the worker's id: workers are restarted in each epoch, which would repeat the draws
            worker_seed = worker.seed % 2**63 if worker else 0
            self._rng, self._rng_pid = generator(seed % 2**63, _rank(), worker_seed), os.getpid()
        return self._rng

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rng": None, "_rng_pid": None}


def check_attribute(holder: object, name: str) -> None:
    """AttributeError if `holder` has no attribute `name`: setting it would have no effect."""
    if not name.startswith("_") and not hasattr(holder, name):
        public = [known for known in dir(holder) if not known.startswith("_")]
        raise AttributeError(f"{type(holder).__name__} has no attribute {name!r}.{did_you_mean(name, public)}")


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise TypeError(f"Give images and labels, or a pair of them, not {type(batch).__name__}.")
    return tuple(batch)


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(
            f"Images are {type(images).__name__}: give a tensor (B, C, H, W), for example torch.from_numpy."
        )
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise ValueError(f"Images have shape {shape}: give (B, C, H, W).")
    if shape[3] in CHANNELS and shape[1] > max(CHANNELS):
        raise ValueError(f"Images have shape {shape}, that is (B, H, W, C): give images.permute(0, 3, 1, 2).")


def _check_out(out: Tensor, images: Tensor) -> None:
    if (out.shape, out.dtype, out.device) != (images.shape, images.dtype, images.device):
        raise ValueError(f"out is {_describe(out)}, but images are {_describe(images)}: give a tensor like images.")
    if out.untyped_storage().data_ptr() == images.untyped_storage().data_ptr():
        raise ValueError("out and images share memory: give a separate tensor, or use BatchMixup(inplace=True).")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", 0))


class MixupCollator:
    """Collate and mix examples: `pixel_values` (B, C, H, W) and float `labels` (B, K), for training only.

    `MixupCollator("cutmix", num_classes=10).into(loader)` wraps the collator of a DataLoader. In a plain Trainer, use
    it in `get_train_dataloader`, so that evaluation keeps integer labels. Arguments are those of `BatchMixup`;
    `collate` makes the batch (None: torch's default).
    """

    def __init__(
        self,
        method: str | dict | Method,
        num_classes: int,
        *,
        collate: Callable[[list], dict[str, Tensor]] | None = None,
        **arguments: Any,
    ) -> None:
        self.batch_mixup = BatchMixup(method, num_classes, **arguments)
        self.collate = collate or torch.utils.data.default_collate

    def __setattr__(self, name: str, value: Any) -> None:
        if "collate" in self.__dict__:
            check_attribute(self, name)
        super().__setattr__(name, value)

    def __call__(self, examples: list) -> dict[str, Tensor]:
        batch = self.collate(examples)
        missing = {"pixel_values", "labels"} - set(batch)
        if missing:
            raise KeyError(
                f"The batch has {sorted(batch)} and lacks {sorted(missing)}: give a `collate` that adds them. "
                "In a Trainer, set remove_unused_columns=False if the model's forward has other argument names."
            )
        images, labels = self.batch_mixup(batch["pixel_values"], batch["labels"])
        return {**batch, "pixel_values": images, "labels": labels}

    def into(self, loader: torch.utils.data.DataLoader) -> torch.utils.data.DataLoader:
        """Wrap the collator of `loader`, in place, and return `loader`."""
        # accelerate's loaders, as returned by a Trainer, use the collator of the inner loader
        inner = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
        self.collate, inner.collate_fn = inner.collate_fn, self
        return loader


def soft_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of soft (B, K) or integer (B,) or (B, 1) labels, for the `compute_loss_func` of a plain Trainer.

    `num_items_in_batch` is the number of label entries in all accumulated batches. The loss is divided by the
    corresponding number of rows, so that gradients do not depend on accumulation.
    """
    logits = getattr(outputs, "logits", None)
    logits = outputs["logits"] if logits is None else logits
    if not labels.is_floating_point():
        total = soft_cross_entropy(logits.float(), targets(labels, logits.shape[1])).sum()
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
    """A `BatchMixup` with the arguments and the distribution of timm's `Mixup`; supports odd batch sizes.

    The modes "elem" and "pair" draw lam per row; Mixup or CutMix is drawn per batch. `multi_label`: labels are (B, K)
    floats, which `BatchMixup` always accepts.
    """
    if multi_label and label_smoothing:
        raise ValueError("timm's label smoothing of multi_label targets is not supported: give label_smoothing=0.")
    if mode not in ("batch", "elem", "pair"):
        raise ValueError(f"Unknown mode {mode!r}. Choose one of: batch, pair, elem.")
    cut = cutmix_alpha > 0 or cutmix_minmax is not None
    if not cut and mixup_alpha <= 0:
        raise ValueError("No mixing: give mixup_alpha > 0, cutmix_alpha > 0 or cutmix_minmax.")
    shared = {"per_image": mode != "batch", "pairing": "flip"}
    mixup = {"name": "mixup", "alpha": mixup_alpha, **shared}
    cutmix = {"name": "cutmix", "alpha": cutmix_alpha or 1.0, "minmax": cutmix_minmax, "correct_lam": correct_lam}
    cutmix |= shared
    if cut and mixup_alpha > 0:
        method = {"name": "choice", "methods": [cutmix, mixup], "weights": [switch_prob, 1 - switch_prob], **shared}
    else:
        method = cutmix if cut else mixup
    return BatchMixup(method, num_classes, label_smoothing=label_smoothing, prob=prob)
