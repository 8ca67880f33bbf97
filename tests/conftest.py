"""Fixtures for all tests, which run in one thread, offline and on the CPU: small networks, images, a check for syncs.

On a machine with a GPU, `pytest -m gpu` runs the tests that need it.
"""

import gc
import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"

import pytest
import timm
import torch
from fixtures.watch import Watch
from torch import Tensor

from hf_mixup import Net

torch.set_num_threads(1)

CLASSES = 5
SIZE = (16, 16)


def pytest_configure(config):
    """Hide the GPUs from all other tests: they fork, which a process that has used CUDA cannot, and compare bits.

    A background job of a shell ignores Ctrl-C, and so would the commands that tests start and interrupt.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU and pytest -m gpu")


def pytest_collection_finish():
    """Exclude all that is imported from garbage collection, which accelerate requests at each training."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def seeded():
    """`seeded(3)`: a generator with that seed."""
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    """`images(6, size=(16, 16))`: a batch of random images in [0, 1], or [0, 255] for integer dtypes."""

    def make(count=6, size=SIZE, channels=3, dtype=torch.float32, seed=0) -> Tensor:
        x = torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))
        return x.to(dtype) if dtype.is_floating_point else (x * 255).to(dtype)

    return make


@pytest.fixture
def one_hot():
    """`one_hot(6)`: one-hot targets of the classes 0, 1, 2, ..., repeated."""
    return lambda count=6, classes=CLASSES: torch.eye(classes)[torch.arange(count) % classes]


def resnet(size=SIZE, classes=CLASSES, **args):
    """timm's ResNet with four stages of 8 to 16 channels, with BatchNorm and without dropout."""
    torch.manual_seed(0)
    overlay = {"input_size": (3, *size)}
    stages = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
    return timm.create_model("resnet18", num_classes=classes, pretrained_cfg_overlay=overlay, **{**stages, **args})


def vit(size=SIZE, classes=CLASSES, **args):
    """timm's ViT with three blocks, patches of 4 pixels and a class token."""
    torch.manual_seed(0)
    shape = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", img_size=size, num_classes=classes, **{**shape, **args})


@pytest.fixture
def make_net():
    """`make_net("cnn", (16, 16))`: a Net in training mode, with the same random weights at each call."""

    def make(kind="cnn", size=SIZE, classes=CLASSES, **args) -> Net:
        model = {"cnn": resnet, "vit": vit}[kind](size, classes)
        return Net(model, **args).train()

    return make


@pytest.fixture
def resnet_model():
    return resnet


@pytest.fixture
def vit_model():
    return vit


@pytest.fixture
def watch():
    """`with watch(x, y, host=rng):` fails if a value computed from `x` or `y`, or not drawn by `rng`, is read."""
    return Watch
