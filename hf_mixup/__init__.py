"""Mixup for image models, native to the Hugging Face ecosystem.

    import hf_mixup, timm, torch
    from transformers import TrainingArguments

    images, labels = torch.rand(64, 3, 32, 32), torch.randint(10, (64,))
    data = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels)]
    model = timm.create_model("resnet18", num_classes=10)

    # any network, any data set, any method; only training images are mixed
    args = TrainingArguments("outputs/example", max_steps=4, report_to="none")
    trainer = hf_mixup.MixupTrainer(model, args, method="cutmix", train_dataset=data, eval_dataset=data)
    trainer.train()
    print(trainer.evaluate())

    # a batch in a training loop of your own: targets are float32 (64, 10)
    mixed, targets = hf_mixup.BatchMixup("resizemix", num_classes=10)(images, labels)

Train: `MixupTrainer`, with transformers' TrainingArguments or `MixupConfig`, the fields of a recipe.
Mix batches: `BatchMixup`, `MixupCollator` with `soft_loss` for a plain Trainer, `from_timm`.
Methods: `available`, `load`; your own: `Method`, which returns a `Mix` and reads a network through `Net`.
Tasks: `available_tasks`, `load_task`; your own: `Task`.
Trained models: `load_pretrained`, `evaluate`, `predict`; `preview` draws a recipe's images.
`networks` are the package's own, and `MixupStep` is the module that MixupTrainer trains.
The command `hf-mixup` trains recipes: `hf-mixup --help`.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .version import __version__

__all__ = [
    "BatchMixup",
    "Method",
    "Mix",
    "MixupCollator",
    "MixupConfig",
    "MixupStep",
    "MixupTrainer",
    "Net",
    "Task",
    "__version__",
    "available",
    "available_tasks",
    "evaluate",
    "from_timm",
    "load",
    "load_pretrained",
    "load_task",
    "networks",
    "predict",
    "preview",
    "soft_loss",
]

MODULES = ("batch", "config", "methods", "mix", "net", "tasks", "trainer")  # of the names above, for __getattr__
MODULES += tuple(f"publish.{name}" for name in ("evaluate", "load_pretrained", "predict", "preview"))


def __getattr__(name: str) -> Any:
    """In the command `hf-mixup`, which starts without torch: import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "networks":
        return import_module(".models.architectures", __name__)
    modules = (import_module(f".{module}", __name__) for module in MODULES)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def _is_command() -> bool:
    """Whether this process runs `hf-mixup`, or `python -m hf_mixup`."""
    if sys.argv[:1] != ["-m"]:  # Python's value while it imports the package of `-m`
        return bool(sys.argv) and Path(sys.argv[0]).stem in ("hf-mixup", "hf-mixup-script")
    return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == [__name__] if "-m" in sys.orig_argv else False


if TYPE_CHECKING or not _is_command():
    from .batch import BatchMixup, MixupCollator, from_timm, soft_loss
    from .config import MixupConfig
    from .methods import Method, available, load
    from .mix import Mix
    from .models import architectures as networks  # registers them with timm
    from .net import Net
    from .publish.evaluate import evaluate
    from .publish.load_pretrained import load_pretrained
    from .publish.predict import predict
    from .publish.preview import preview
    from .tasks import Task, available_tasks, load_task
    from .trainer import MixupStep, MixupTrainer
