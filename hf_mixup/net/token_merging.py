"""Token merging inside a ViT, by hooks: tokens merge between a block's attention and its MLP, as in ToMe.

A block adds its MLP's result to what the MLP was given, so hooks cannot shorten the sequence in between. The tokens
that are left are padded to the old length, and cut off after the block.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.token_merging import match, max_merges, merge
from .architecture import Anatomy


class Merger:
    """One pass: `sources` (B, T) where each token of the image is, as each block's attention saw it."""

    def __init__(self, counts: Sequence[int], kept: int):
        self.counts, self.kept = counts, kept
        self.sources: list[Tensor | None] = []
        self.weight = None

    def merge(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """(B, T, C) `tokens` (B, T, C) after the next block's merging by `keys` (B, T, D), padded with zeros."""
        if not self.sources:
            self.weight = torch.ones_like(tokens[..., 0])
            self.sources.append(torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1))
        count = max(min(self.counts[len(self.sources) - 1], max_merges(tokens.shape[1], self.kept)), 0)
        place = match(keys, count, self.kept)
        merged, self.weight = merge(tokens, self.weight, place, count)
        self.sources.append(place.gather(1, self.sources[-1]))
        return F.pad(merged, (0, 0, 0, count))


@contextmanager
def merging(parts: Anatomy, counts: Sequence[int]) -> Iterator[Merger]:
    """Passes inside merge `counts[k]` tokens in block k; read the result before the next pass."""
    merger = Merger(counts, parts.prefix_tokens)
    handles: list = []
    with ExitStack() as stack:
        stack.callback(lambda: [handle.remove() for handle in handles])
        for layer, attention in zip(parts.layers, parts.attentions, strict=True):
            handles += _hooks(layer.module, attention, merger)
        yield merger


def _hooks(block: nn.Module, attention: nn.Module, merger: Merger) -> list:
    seen = {}

    def swap(_, args):
        seen["before"] = args[0]
        seen["after"] = merger.merge(args[0], seen["keys"])
        return (seen["after"], *args[1:])

    def cut(_, args, output):
        left = merger.weight.shape[1]
        return (output - seen["before"] + seen["after"])[:, :left]

    source, keys = _keys(attention)
    norm = block.norm2 if hasattr(block, "norm2") else block.layernorm_after  # timm, transformers
    return [
        source.register_forward_hook(lambda _, args, output: seen.update(keys=keys(output))),
        norm.register_forward_pre_hook(swap),
        block.register_forward_hook(cut),
    ]


def _keys(attention: nn.Module) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The layer that makes an attention's keys, and how to take their mean over heads (B, T, D) from its output."""
    if hasattr(attention, "qkv"):  # timm
        heads = attention.num_heads
        return attention.qkv, lambda output: output.unflatten(-1, (3, heads, -1))[:, :, 1].mean(2)
    heads = attention.num_attention_heads
    return attention.k_proj, lambda output: output.unflatten(-1, (heads, -1)).mean(2)
