"""The benchmark's small-image networks; importing this package registers them with timm by name."""

import sys

from .convnext import cifar_convnext_tiny
from .resnet import cifar_resnet18, cifar_resnext50_32x4d
from .vit import mini_vit
from .wide_resnet import mini_resnet, wrn_28_8

__all__ = [
    "cifar_convnext_tiny",
    "cifar_resnet18",
    "cifar_resnext50_32x4d",
    "mini_resnet",
    "mini_vit",
    "wrn_28_8",
]

sys.modules["hf_mixup.networks"] = sys.modules[__name__]  # `import hf_mixup.networks` is a public path
