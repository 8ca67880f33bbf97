"""A vision transformer for 28 and 32 px images that trains on a CPU."""

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from ._cfg import cfg

default_cfgs = generate_default_cfgs({"mini_vit": cfg("patch_embed.proj", "head", fixed_input_size=True)})


@register_model
def mini_vit(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """A ViT of width 96, depth 6, patch 4 with a class token: 0.7 M parameters; `img_size` is a multiple of 4."""
    args = {"patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
    return build_model_with_cfg(
        VisionTransformer,
        "mini_vit",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **{**args, **kwargs},
    )
