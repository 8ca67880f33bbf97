"""Wide residual networks (Zagoruyko and Komodakis, 2016), and a small one that trains on a CPU."""

from timm.layers import ClassifierHead, create_conv2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from ._cfg import cfg


class WideResNet(ResNetV2):
    """timm's pre-activation ResNet with basic blocks, BatchNorm, a 3x3 stride-1 stem and a linear classifier.

    `layers`: number of blocks in each stage. `channels`: width of each stage. The input of the first stage has `1 /
    stem_pool` of the image's height and width; each later stage halves both.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (4, 4, 4),
        channels: tuple[int, ...] = (128, 256, 512),
        num_classes: int = 10,
        in_chans: int = 3,
        stem_chs: int = 16,
        stem_pool: int = 1,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        args = {"basic": True, "bottle_ratio": 1.0, "norm_layer": nn.BatchNorm2d, "conv_layer": create_conv2d}
        super().__init__(
            layers, channels, num_classes, in_chans, stem_chs=stem_chs, drop_path_rate=drop_path_rate, **args
        )
        self.drop_rate = drop_rate
        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(in_chans, stem_chs, 3, padding=1, bias=False))
        if stem_pool > 1:
            self.stem.add_module("pool", nn.MaxPool2d(stem_pool))
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()
        for stage, info in enumerate(self.feature_info):
            info["reduction"] = stem_pool * 2 ** (stage - 1) if stage else 1
        self.init_weights(zero_init_last=False)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ):
        """The last feature map and those of `indices`, as in timm; ResNetV2's own method expects four stages."""
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}. Use 'NCHW'.")
        count = len(self.feature_info)
        if indices is None or isinstance(indices, int):
            indices = range(count)[-indices:] if indices else range(count)
        chosen = {range(count)[i] for i in indices}
        x, maps = self.stem.conv(x), []
        for i in range(max(chosen) + 1 if stop_early else count):
            if i > 0:
                x = self.stages[i - 1](self.stem[1:](x) if i == 1 else x)
            if i in chosen:
                maps.append(self.norm(x) if norm and i == count - 1 else x)
        if intermediates_only:
            return maps
        return self.norm(x) if i == count - 1 else x, maps


def _create(variant: str, pretrained: bool, **kwargs) -> WideResNet:
    """A WideResNet built by timm's factory."""
    features = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    return build_model_with_cfg(WideResNet, variant, pretrained, feature_cfg=features, **kwargs)


default_cfgs = generate_default_cfgs(
    {
        "wrn_28_8": cfg("stem.conv", "head.fc"),
        "mini_resnet": cfg("stem.conv", "head.fc"),
    }
)


@register_model
def wrn_28_8(pretrained: bool = False, **kwargs) -> WideResNet:
    """WRN-28-8: 23.4 M parameters. With channels (160, 320, 640) it is WRN-28-10."""
    return _create("wrn_28_8", pretrained, **kwargs)


@register_model
def mini_resnet(pretrained: bool = False, **kwargs) -> WideResNet:
    """Three stages of one block at a half, a quarter and an eighth of the image's side: 0.3 M parameters."""
    args = {"layers": (1, 1, 1), "channels": (32, 64, 128), "stem_pool": 2}
    return _create("mini_resnet", pretrained, **{**args, **kwargs})
