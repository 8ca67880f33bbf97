"""ResNet and ResNeXt for 32 to 64 px images: timm's, with a stem that keeps the resolution."""

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ._cfg import cfg

STEM_REDUCTION = 4  # of timm's 7x7 stride-2 convolution and pooling, which this stem does not have


class CifarResNet(ResNet):
    """timm's ResNet with a 3x3 stride-1 stem and no max-pooling (He et al., 2016, sec. 4.2; four stages).

    The last feature map has an eighth of the image's height and width.
    """

    def __init__(self, *args, in_chans: int = 3, **kwargs):
        super().__init__(*args, in_chans=in_chans, **kwargs)
        width = self.conv1.out_channels
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's other convolutions
        self.maxpool = nn.Identity()
        for info in self.feature_info:
            info["reduction"] = max(1, info["reduction"] // STEM_REDUCTION)


def _create(variant: str, pretrained: bool, **kwargs) -> CifarResNet:
    """A CifarResNet built by timm's factory."""
    return build_model_with_cfg(CifarResNet, variant, pretrained, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "cifar_resnet18": cfg("conv1", "fc"),
        "cifar_resnext50_32x4d": cfg("conv1", "fc"),
    }
)


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNet-18 with the CIFAR stem: 11.2 M parameters."""
    return _create("cifar_resnet18", pretrained, **{"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs})


@register_model
def cifar_resnext50_32x4d(pretrained: bool = False, **kwargs) -> CifarResNet:
    """ResNeXt-50 (32x4d) with the CIFAR stem: 23.2 M parameters at 100 classes."""
    args = {"block": Bottleneck, "layers": (3, 4, 6, 3), "cardinality": 32, "base_width": 4}
    return _create("cifar_resnext50_32x4d", pretrained, **{**args, **kwargs})
