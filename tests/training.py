"""Networks, data and trainers that train in a second, for the tests of the trainer."""

import copy
import gc
import types

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_mixup import MixupConfig, MixupTrainer
from hf_mixup.models import build_model

gc.freeze()  # accelerate collects garbage before each training: not through all that was imported

CLASSES, SIDE = 5, 16
CNN = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
VIT = {"embed_dim": 24, "depth": 3, "num_heads": 3}


def native_resnet():
    """transformers' ResNet, whose loss the stock Trainer scales wrongly under accumulation."""
    torch.manual_seed(0)
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_labels=CLASSES, **shape))


def native_vit():
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ViTForImageClassification(ViTConfig(image_size=SIDE, patch_size=4, num_labels=CLASSES, **shape, **dropout))


def wrapped(architecture="resnet18", side=SIDE, **args):
    """A timm network in transformers' wrapper, and its image processor."""
    torch.manual_seed(0)
    shape = VIT if "vit" in architecture else CNN
    return build_model(
        architecture, classes=list("abcdefghij"[:CLASSES]), image_size=side, model_args={**shape, **args}
    )


def timm_resnet(**args):
    return wrapped(**args)[0]


def timm_vit(**args):
    return wrapped("mini_vit", **args)[0]


def frozen(model: nn.Module) -> nn.Module:
    """`model` with BatchNorm kept in eval mode, so that a loss is the same in one batch and in four."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval().train = types.MethodType(lambda self, mode=True: self, module)
    return model


class Rows(Dataset):
    """Float images and class numbers, as a user's own data set gives them."""

    def __init__(self, count=64, side=SIDE, classes=CLASSES):
        rng = torch.Generator().manual_seed(1)
        self.x = torch.randn(count, 3, side, side, generator=rng)
        self.y = torch.randint(classes, (count,), generator=rng)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return {"pixel_values": self.x[row], "labels": int(self.y[row])}


class Learnable(Rows):
    """Images whose mean colour is their class."""

    def __init__(self, count=64):
        super().__init__(count)
        self.x = self.x * 0.5 + torch.linspace(-2, 2, CLASSES)[self.y][:, None, None, None]


def config(folder, **changes) -> MixupConfig:
    usual = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "max_grad_norm": 0.0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return MixupConfig(**usual | changes)


def make(folder, model=None, data=None, callbacks=(), **changes) -> MixupTrainer:
    """A trainer of `method` (and other fields of MixupConfig) on float images, not yet run."""
    set_seed(0)
    given = {
        name: changes.pop(name) for name in ("task", "method", "processing_class", "eval_dataset") if name in changes
    }
    if isinstance(given.get("method"), str):
        changes["method"] = given.pop("method")
    model = timm_resnet() if model is None else model
    data = Rows() if data is None else data
    return MixupTrainer(model, config(folder, **changes), train_dataset=data, callbacks=[*callbacks], **given)


class Watcher(TrainerCallback):
    """What is there at each step: gradients before the optimizer's step, weights before the first and after each."""

    def __init__(self):
        self.gradients, self.weights = [], []

    def on_train_begin(self, args, state, control, model=None, **_):
        self.weights.append(copy.deepcopy(model.state_dict()))

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    def on_step_end(self, args, state, control, model=None, **_):
        self.weights.append(copy.deepcopy(model.state_dict()))

    @property
    def norms(self) -> list[float]:
        return [norm(step.values()) for step in self.gradients]


class Seen:
    """Inputs that a network is given, by mode: `training` and `evaluating`."""

    def __init__(self, model: nn.Module):
        self.training, self.evaluating = [], []
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, model, args, kwargs):
        x = args[0] if args else kwargs["pixel_values"]
        (self.training if model.training else self.evaluating).append(x.detach().clone())


def norm(tensors) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def loop_norm(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The gradient norm of the mean cross-entropy over all rows, by hand."""
    model = copy.deepcopy(model).train()
    model.zero_grad()
    F.cross_entropy(model(x).logits, y).backward()
    return norm(p.grad for p in model.parameters() if p.grad is not None)


def are_rows(x: Tensor, rows: Tensor) -> bool:
    """Whether every image of `x` is one of `rows`, unchanged."""
    return bool((x.flatten(1)[:, None] == rows.flatten(1)[None]).all(-1).any(-1).all())


def losses(trainer, name="loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def files(folder) -> dict[str, bytes]:
    """Every file below `folder`, by its path, and how it begins."""
    return {str(path.relative_to(folder)): path.read_bytes()[:2] for path in folder.rglob("*") if path.is_file()}


def weights(folder) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
