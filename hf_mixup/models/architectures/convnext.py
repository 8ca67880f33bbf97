"""ConvNeXt for 32 px images: timm's, with a stem that keeps the resolution."""

from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt, checkpoint_filter_fn
from torch import nn

from ._cfg import cfg


class CifarConvNeXt(ConvNeXt):
    """timm's ConvNeXt with a 3x3 stride-1 stem, as OpenMixup trains it on CIFAR-100 (Li et al., 2022).

    The last feature map has an eighth of the image's height and width.
    """

    def __init__(self, in_chans: int = 3, **kwargs):
        super().__init__(in_chans=in_chans, patch_size=1, **kwargs)
        self.stem[0] = nn.Conv2d(in_chans, self.stem[0].out_channels, 3, padding=1)
        trunc_normal_(self.stem[0].weight, std=0.02)  # as timm's other convolutions
        nn.init.zeros_(self.stem[0].bias)


default_cfgs = generate_default_cfgs({"cifar_convnext_tiny": cfg("stem.0", "head.fc")})


@register_model
def cifar_convnext_tiny(pretrained: bool = False, **kwargs) -> CifarConvNeXt:
    """ConvNeXt-T with the CIFAR stem: 27.9 M parameters at 100 classes."""
    return build_model_with_cfg(
        CifarConvNeXt,
        "cifar_convnext_tiny",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **{"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768), **kwargs},
    )
