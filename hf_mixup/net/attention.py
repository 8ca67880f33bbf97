"""Attention maps of ViTs and Swin, captured with hooks during a forward pass and averaged over heads and queries."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from .architecture import Architecture, patch_grid


@contextmanager
def capture_attention(architecture: Architecture, all_blocks: bool = False) -> Iterator[list[Tensor]]:
    """A list to which each forward pass appends the last block's attention, (B or B * windows, heads, T, T).

    With `all_blocks`, it appends the attention of every block, in order.
    """
    captured: list[Tensor] = []
    with ExitStack() as stack:
        for module in architecture.attentions if all_blocks else (architecture.attention,):
            stack.enter_context(_capture(module, captured))
        yield captured


@contextmanager
def _capture(module: nn.Module, captured: list[Tensor]) -> Iterator[None]:
    """Append the attention weights of each pass to `captured`; fused kernels do not return them and are turned off."""
    if hasattr(module, "attn_drop"):  # timm
        fused, module.fused_attn = module.fused_attn, False
        handle = module.attn_drop.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
        try:
            yield
        finally:
            handle.remove()
            module.fused_attn = fused
    else:  # transformers
        config, module.config = module.config, copy.copy(module.config)
        module.config._attn_implementation = "eager"
        handle = module.register_forward_hook(lambda _, args, output: captured.append(output[1]))
        try:
            yield
        finally:
            handle.remove()
            module.config = config


def attention_map(
    attention: Tensor, architecture: Architecture, batch: int, image: tuple[int, int], by_patches: bool = False
) -> Tensor:
    """(B, h, w) attention that each patch receives, averaged over heads; each map sums to one.

    The query is the class token. Without a class token, or with `by_patches`, the attention is averaged over all
    patches as queries.
    `attention` comes from `capture_attention`; `image` is (height, width).
    """
    attention = attention.float().mean(1)
    if len(attention) != batch:
        received = _unwindow(attention.mean(1), architecture, batch, image)
    else:
        prefix = architecture.prefix_tokens
        row = attention[:, 0] if prefix and not by_patches else attention[:, prefix:].mean(1)
        row = row[:, prefix:]
        received = row.reshape(batch, *patch_grid(row.shape[1], image))
    return received / received.sum((1, 2), keepdim=True)


def _unwindow(received: Tensor, architecture: Architecture, batch: int, image: tuple[int, int]) -> Tensor:
    """(B, h, w) from Swin's windows (B * windows, tokens): windows at their positions in the image, shift reversed."""
    timm = hasattr(architecture.attention, "attn_drop")
    block = architecture.block
    size, shift = _pair(block.window_size), _pair(block.shift_size)
    rows, columns = _pair(block.input_resolution)
    if not timm:  # transformers keeps the resolution of the configuration's image, whatever the input's size
        full = architecture.image_size
        rows, columns = (-(-count * side // full_side) for count, side, full_side in zip((rows, columns), image, full))
    window_rows, window_columns = -(-rows // size[0]), -(-columns // size[1])
    windows = received.reshape(batch, window_rows, window_columns, *size)
    padded = windows.transpose(2, 3).reshape(batch, window_rows * size[0], window_columns * size[1])
    if timm:  # timm shifts, then pads; transformers pads, then shifts
        return padded[:, :rows, :columns].roll(shift, (1, 2))
    return padded.roll(shift, (1, 2))[:, :rows, :columns]


def _pair(value) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (tuple, list)) else (int(value), int(value))
