"""Finds the stages, the classifier and the attention modules in networks of timm and transformers."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from ..errors import ModelError

# modules that hold the stages (blocks) of transformers' own image classifiers, by model_type
STAGES = {
    "resnet": "resnet.encoder.stages",
    "convnext": "convnext.encoder.stages",
    "convnextv2": "convnextv2.encoder.stages",
    "vit": "vit.layers",
    "deit": "deit.layers",
    "swin": "swin.encoder.layers",
}
PREFIX_TOKENS = {"vit": 1, "deit": 2}
SUPPORTED = "a timm network with `feature_info`, or transformers' ResNet, ConvNeXt, ViT, DeiT or Swin"
# prefixes of modules in timm's `feature_info` that belong to the stem
STEMS = ("stem", "conv", "bn", "act", "relu", "patch_embed")


@dataclass(frozen=True)
class Layer:
    """One stage of a CNN or Swin, one block of a ViT."""

    name: str
    module: nn.Module


class LayerInfo(NamedTuple):
    """Size of a stage's or block's output; `reduction` is image height divided by map height."""

    name: str
    channels: int
    reduction: int


class Outputs(NamedTuple):
    """`logits` (B, K), `pooled` (B, F) input of the classifier, `tokens` (B, C, h, w) map of the last layer."""

    logits: Tensor
    pooled: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Architecture:
    """The parts of a network that `Net` reads. A part that the network does not have is None or an empty tuple."""

    name: str
    layers: tuple[Layer, ...]
    classifier: nn.Linear | None
    attention: nn.Module | None  # of the last block
    block: nn.Module | None  # the block that contains `attention`; holds the sizes of windows and shifts
    prefix_tokens: int  # class and distillation tokens before the patches
    channels_last: bool  # maps are (B, H, W, C)
    image_size: tuple[int, int] | None
    attentions: tuple[nn.Module, ...] = ()  # of all blocks, in order
    second_classifier: nn.Linear | None = None  # of a distilled network, for its distillation token

    @property
    def classifiers(self) -> tuple[nn.Linear, ...]:
        """The linear classifiers: none, one, or two in a distilled network."""
        return tuple(filter(None, (self.classifier, self.second_classifier)))

    @property
    def is_plain_vit(self) -> bool:
        """Whether every block has attention and the first token is a class token."""
        return self.prefix_tokens > 0 and 0 < len(self.attentions) == len(self.layers)


def architecture_of(model: nn.Module) -> Architecture:
    """The parts of a timm model or transformers image classifier; of any other module only the last linear layer."""
    timm_model = getattr(model, "timm_model", model)
    if hasattr(timm_model, "get_classifier"):
        return _timm(timm_model)
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type in STAGES:
        return _transformers(model, model_type)
    return Architecture(type(model).__name__, (), _last_linear(model), None, None, 0, False, None)


def _timm(model: nn.Module) -> Architecture:
    entries = [entry["module"] for entry in getattr(model, "feature_info", None) or []]
    entries = [name for name in entries if not name.split(".")[-1].startswith(STEMS)]
    layers = tuple(Layer(name, model.get_submodule(name)) for name in entries if _has_module(model, name))
    block, attentions = _attentions(model, "attn", "attn_drop")
    config = getattr(model, "pretrained_cfg", None) or {}
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or config.get("input_size", (0,))[1:]
    heads = model.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)  # a distilled network has two classifiers
    return Architecture(
        name=config.get("architecture") or type(model).__name__,
        layers=layers,
        classifier=_last_linear(heads[0]),
        second_classifier=_last_linear(heads[1]) if len(heads) > 1 else None,
        attention=attentions[-1] if attentions else None,
        attentions=attentions,
        block=block,
        prefix_tokens=getattr(model, "num_prefix_tokens", 0) or 0,
        channels_last=getattr(model, "output_fmt", None) == "NHWC",
        image_size=tuple(size) or None,
    )


def _transformers(model: nn.Module, model_type: str) -> Architecture:
    stages = model.get_submodule(STAGES[model_type])
    block, attentions = _attentions(model, "attention", "q_proj")
    size = getattr(model.config, "image_size", None)
    return Architecture(
        name=type(model).__name__,
        layers=tuple(Layer(f"{STAGES[model_type]}.{i}", _stage_output(stage)) for i, stage in enumerate(stages)),
        classifier=_last_linear(model.classifier),
        attention=attentions[-1] if attentions else None,
        attentions=attentions,
        block=block,
        prefix_tokens=PREFIX_TOKENS.get(model_type, 0),
        channels_last=False,
        image_size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
    )


def _stage_output(stage: nn.Module) -> nn.Module:
    """The module whose output is the stage's map: in Swin the last block, before the downsampling that follows it."""
    return stage.blocks[-1] if hasattr(stage, "blocks") else stage


def _has_module(model: nn.Module, name: str) -> bool:
    return any(name == other for other, _ in model.named_modules())


def _last_linear(module: nn.Module) -> nn.Linear | None:
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return linear[-1] if linear else None


def _attentions(model: nn.Module, name: str, marker: str) -> tuple[nn.Module | None, tuple[nn.Module, ...]]:
    """The last block whose attribute `name` is an attention module, and the attention modules of all blocks.

    `marker` is an attribute that only attention modules have.
    """
    blocks = [module for module in model.modules() if hasattr(getattr(module, name, None), marker)]
    return (blocks[-1] if blocks else None), tuple(getattr(block, name) for block in blocks)


def as_map(hidden, architecture: Architecture, image: tuple[int, int]) -> Tensor:
    """The output of a layer, a map or tokens, as a map (B, C, h, w); `image` is (height, width) of the input images."""
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    if hidden.dim() == 4:
        return hidden.permute(0, 3, 1, 2) if architecture.channels_last else hidden
    tokens = hidden[:, architecture.prefix_tokens :]
    height, width = patch_grid(tokens.shape[1], image)
    if height * width != tokens.shape[1]:
        raise ModelError(
            f"{tokens.shape[1]} tokens of an image of {image[0]} x {image[1]} px are not a grid of square patches: "
            "give one number as model_args.patch_size, or choose a method that does not read the network."
        )
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def patch_grid(count: int, image: tuple[int, int]) -> tuple[int, int]:
    """Number of rows and columns of the grid that `count` patches of an `image` (height, width) form."""
    height = round((count * image[0] / image[1]) ** 0.5)
    return height, count // height
