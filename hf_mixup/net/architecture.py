"""Where the stages, the classifier and the attention of a network are: the only file that knows timm's and
transformers' models."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

# the stages (blocks) of transformers' own image classifiers, by model_type
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
STEMS = ("stem", "conv", "bn", "act", "relu", "patch_embed")


@dataclass(frozen=True)
class Layer:
    """One stage of a CNN or Swin, one block of a ViT."""

    name: str
    module: nn.Module


class LayerInfo(NamedTuple):
    """A stage or block: `reduction` is the image's height over the map's."""

    name: str
    channels: int
    reduction: int


class Outputs(NamedTuple):
    """`logits` (B, K), `pooled` (B, F) what the classifier reads, `tokens` (B, C, h, w) the last layer's map."""

    logits: Tensor
    pooled: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Anatomy:
    """What `net.py` reads of a network. Tuples are empty and modules None where the network has no such part."""

    name: str
    layers: tuple[Layer, ...]
    classifier: nn.Linear | None
    attention: nn.Module | None  # that of the last block
    block: nn.Module | None  # the block it is in: windows and shifts
    prefix_tokens: int  # class and distillation tokens before the patches
    channels_last: bool  # maps are (B, H, W, C)
    image_size: tuple[int, int] | None
    attentions: tuple[nn.Module, ...] = ()  # those of all blocks, in order

    @property
    def plain(self) -> bool:
        """Whether each block has attention, and the first token is a class token."""
        return self.prefix_tokens > 0 and 0 < len(self.attentions) == len(self.layers)


def anatomy(model: nn.Module) -> Anatomy:
    """The parts of a timm model, a transformers image classifier, or (nothing known) any other module."""
    timm_model = getattr(model, "timm_model", model)
    if hasattr(timm_model, "get_classifier"):
        return _timm(timm_model)
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in STAGES:
        return _transformers(model, kind)
    return Anatomy(type(model).__name__, (), _last_linear(model), None, None, 0, False, None)


def _timm(model: nn.Module) -> Anatomy:
    entries = [entry["module"] for entry in getattr(model, "feature_info", None) or []]
    entries = [name for name in entries if not name.split(".")[-1].startswith(STEMS)]
    layers = tuple(Layer(name, model.get_submodule(name)) for name in entries if _has(model, name))
    block, attentions = _attentions(model, "attn", "attn_drop")
    config = getattr(model, "pretrained_cfg", None) or {}
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or config.get("input_size", (0,))[1:]
    return Anatomy(
        name=config.get("architecture") or type(model).__name__,
        layers=layers,
        classifier=_last_linear(model.get_classifier()),
        attention=attentions[-1] if attentions else None,
        attentions=attentions,
        block=block,
        prefix_tokens=getattr(model, "num_prefix_tokens", 0) or 0,
        channels_last=getattr(model, "output_fmt", None) == "NHWC",
        image_size=tuple(size) or None,
    )


def _transformers(model: nn.Module, kind: str) -> Anatomy:
    stages = model.get_submodule(STAGES[kind])
    block, attentions = _attentions(model, "attention", "q_proj")
    size = getattr(model.config, "image_size", None)
    return Anatomy(
        name=type(model).__name__,
        layers=tuple(Layer(f"{STAGES[kind]}.{i}", _last_block(stage)) for i, stage in enumerate(stages)),
        classifier=_last_linear(model.classifier),
        attention=attentions[-1] if attentions else None,
        attentions=attentions,
        block=block,
        prefix_tokens=PREFIX_TOKENS.get(kind, 0),
        channels_last=False,
        image_size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
    )


def _last_block(stage: nn.Module) -> nn.Module:
    """Swin makes its map smaller at the end of a stage: what counts is what its last block gives."""
    return stage.blocks[-1] if hasattr(stage, "blocks") else stage


def _has(model: nn.Module, name: str) -> bool:
    return any(name == other for other, _ in model.named_modules())


def _last_linear(module: nn.Module | tuple) -> nn.Linear | None:
    module = module[0] if isinstance(module, tuple) else module  # a distilled network has two
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return linear[-1] if linear else None


def _attentions(model: nn.Module, name: str, part: str) -> tuple[nn.Module | None, tuple[nn.Module, ...]]:
    """The last block that has an attention called `name`, told by its `part`, and the attentions of all such blocks."""
    found = [module for module in model.modules() if hasattr(getattr(module, name, None), part)]
    return (found[-1] if found else None), tuple(getattr(block, name) for block in found)


def as_map(hidden, parts: Anatomy, image: tuple[int, int]) -> Tensor:
    """(B, C, h, w) the output of a layer for an `image` of that height and width: maps and patch tokens alike."""
    hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    if hidden.dim() == 4:
        return hidden.permute(0, 3, 1, 2) if parts.channels_last else hidden
    tokens = hidden[:, parts.prefix_tokens :]
    height, width = patch_grid(tokens.shape[1], image)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def patch_grid(count: int, image: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of `count` patches of an `image` (height, width)."""
    height = round((count * image[0] / image[1]) ** 0.5)
    return height, count // height


@contextmanager
def watching_attention(parts: Anatomy, every: bool = False) -> Iterator[list[Tensor]]:
    """A list that each forward pass inside adds the last block's attention to, (B or windows, heads, T, T).

    `every`: the attention of all blocks, in order.
    """
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for module in parts.attentions if every else (parts.attention,):
            stack.enter_context(_watching(module, seen))
        yield seen


@contextmanager
def _watching(module: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    if hasattr(module, "attn_drop"):  # timm: fused attention gives no weights
        fused, module.fused_attn = module.fused_attn, False
        handle = module.attn_drop.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            yield
        finally:
            handle.remove()
            module.fused_attn = fused
    else:  # transformers: neither does sdpa
        config, module.config = module.config, copy.copy(module.config)
        module.config._attn_implementation = "eager"
        handle = module.register_forward_hook(lambda _, args, output: seen.append(output[1]))
        try:
            yield
        finally:
            handle.remove()
            module.config = config


def attention_map(
    attention: Tensor, parts: Anatomy, batch: int, image: tuple[int, int], by_patches: bool = False
) -> Tensor:
    """(B, h, w) how much each patch is looked at, rows summing to one: by the class token, or by the patches on average
    where there is none or `by_patches` asks for it. `attention` as `watching_attention` gives it.
    """
    attention = attention.float().mean(1)
    if len(attention) != batch:
        looked_at = _unwindow(attention.mean(1), parts, batch, image)
    else:
        prefix = parts.prefix_tokens
        row = attention[:, 0] if prefix and not by_patches else attention[:, prefix:].mean(1)
        row = row[:, prefix:]
        looked_at = row.reshape(batch, *patch_grid(row.shape[1], image))
    return looked_at / looked_at.sum((1, 2), keepdim=True)


def _unwindow(looked_at: Tensor, parts: Anatomy, batch: int, image: tuple[int, int]) -> Tensor:
    """(B, h, w) from windows (B * windows, tokens), as they lie in the image: Swin's shift undone."""
    timm = hasattr(parts.attention, "attn_drop")
    size, shift = _pair(parts.block.window_size), _pair(parts.block.shift_size)
    rows, columns = _pair(parts.block.input_resolution)
    if not timm:  # transformers' is for the configuration's image, whatever the image
        rows, columns = (-(-n * side // whole) for n, side, whole in zip((rows, columns), image, parts.image_size))
    high, wide = -(-rows // size[0]), -(-columns // size[1])
    windows = looked_at.reshape(batch, high, wide, *size)
    padded = windows.transpose(2, 3).reshape(batch, high * size[0], wide * size[1])
    if timm:  # it shifts, then pads; transformers pads, then shifts
        return padded[:, :rows, :columns].roll(shift, (1, 2))
    return padded.roll(shift, (1, 2))[:, :rows, :columns]


def _pair(value) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (tuple, list)) else (int(value), int(value))
