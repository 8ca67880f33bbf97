"""Token merging inside a ViT with hooks: tokens merge between a block's attention and its MLP, as in ToMe.

The residual connection around the MLP requires a constant sequence length, so hooks cannot shorten the sequence between
the two. Merged sequences are padded to the old length, and the padding is removed after the block.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.token_merging import match, max_merges, merge
from .architecture import Architecture


class Merger:
    """State of one forward pass: `sources[k]` (B, T) is the position of each image token in the input of block k."""

    def __init__(self, counts: Sequence[int], prefix_tokens: int):
        self.counts, self.prefix_tokens = counts, prefix_tokens
        self.sources: list[Tensor | None] = []
        self.weight = None

    def merge(self, tokens: Tensor, keys: Tensor) -> Tensor:
        """(B, T, C) `tokens` (B, T, C) merged by the similarity of `keys` (B, T, D), padded with zeros."""
        if not self.sources:
            self.weight = torch.ones_like(tokens[..., 0])
            self.sources.append(torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1))
        count = max(min(self.counts[len(self.sources) - 1], max_merges(tokens.shape[1], self.prefix_tokens)), 0)
        place = match(keys, count, self.prefix_tokens)
        merged, self.weight = merge(tokens, self.weight, place, count)
        self.sources.append(place.gather(1, self.sources[-1]))
        return F.pad(merged, (0, 0, 0, count))


@contextmanager
def merging_tokens(architecture: Architecture, counts: Sequence[int]) -> Iterator[Merger]:
    """Merge `counts[k]` tokens in block k during a forward pass made inside; one pass per Merger."""
    merger = Merger(counts, architecture.prefix_tokens)
    handles: list = []
    with ExitStack() as stack:
        stack.callback(lambda: [handle.remove() for handle in handles])
        for layer, attention in zip(architecture.layers, architecture.attentions, strict=True):
            handles += _hooks(layer.module, attention, merger)
        yield merger


def _hooks(block: nn.Module, attention: nn.Module, merger: Merger) -> list:
    state = {}

    def merge_before_mlp(_, args):
        state["before"] = args[0]
        state["after"] = merger.merge(args[0], state["keys"])
        return (state["after"], *args[1:])

    def remove_padding(_, args, output):
        length = merger.weight.shape[1]
        return (output - state["before"] + state["after"])[:, :length]

    source, keys = _keys(attention)
    norm = block.norm2 if hasattr(block, "norm2") else block.layernorm_after  # timm, transformers
    return [
        source.register_forward_hook(lambda _, args, output: state.update(keys=keys(output))),
        norm.register_forward_pre_hook(merge_before_mlp),
        block.register_forward_hook(remove_padding),
    ]


def _keys(attention: nn.Module) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The layer that computes the keys, and a function from its output to the keys averaged over heads, (B, T, D)."""
    if hasattr(attention, "qkv"):  # timm
        heads = attention.num_heads
        return attention.qkv, lambda output: output.unflatten(-1, (3, heads, -1))[:, :, 1].mean(2)
    heads = attention.num_attention_heads
    return attention.k_proj, lambda output: output.unflatten(-1, (heads, -1)).mean(2)
