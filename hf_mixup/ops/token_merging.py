"""Token merging: similar tokens are averaged (ToMe: Bolya et al., ICLR 2023, section 3)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.5  # the first block merges 1 + SLOPE times the mean, the last 1 - SLOPE times


def schedule(blocks: int, total: int) -> list[int]:
    """Number of tokens to merge in each block, decreasing linearly, `total` in sum, as in MergeMix's code.

    The mean is the integer whose schedule has the sum nearest to `total`; the first block's number is corrected by the
    difference. It may become negative, which means no merging.
    """

    def counts_for(mean: int) -> list[int]:
        high = int(mean * (1 + SLOPE))
        step = 2 * (mean - high) / max(blocks - 1, 1)
        return [int(high + step * block) for block in range(blocks)]

    counts = min((counts_for(mean) for mean in range(max(total, 1))), key=lambda counts: abs(sum(counts) - total))
    return [counts[0] + total - sum(counts), *counts[1:]]


def max_merges(tokens: int, protected: int) -> int:
    """The largest number of tokens that can merge in one block, out of `tokens`, of which `protected` do not merge."""
    return max((tokens - protected) // 2, 0)


def match(features: Tensor, count: int, protected: int) -> Tensor:
    """(B, T) new index of each token after the `count` tokens with the most similar match are merged with that match.

    `features` (B, T, D), compared by cosine similarity. Tokens 0, 2, 4, ... may merge into tokens 1, 3, 5, ...; the
    first `protected` tokens do not merge. New order: protected tokens, remaining even tokens, odd tokens.
    """
    tokens = features.shape[1]
    unit = F.normalize(features.float(), dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].mT
    similarity[:, : (protected + 1) // 2] = -math.inf
    similarity[:, :, : protected // 2] = -math.inf
    best, target = similarity.max(-1)
    merges = best.argsort(dim=1, descending=True, stable=True).argsort(1) < count
    remains = torch.ones(len(features), tokens, dtype=torch.bool, device=features.device)
    remains[:, ::2] = ~merges
    position = torch.arange(tokens, device=features.device)
    order = torch.where(position < protected, 0, position % 2 + 1).argsort(stable=True)
    place = torch.empty_like(remains, dtype=torch.long)
    place[:, order] = remains[:, order].cumsum(1) - 1
    place[:, ::2] = torch.where(merges, place.gather(1, 2 * target + 1), place[:, ::2])
    return place


def merge(tokens: Tensor, weight: Tensor, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, T - count, C) weighted means of the `tokens` (B, T, C) with the same `place` (B, T), and the (B, T - count)
    sums of their `weight` (B, T), the number of original tokens in each."""
    remaining = tokens.shape[1] - count
    sums = weight.new_zeros(len(tokens), remaining).scatter_add(1, place, weight)
    index = place[..., None].expand_as(tokens)
    means = tokens.new_zeros(len(tokens), remaining, tokens.shape[2]).scatter_add(1, index, tokens * weight[..., None])
    return means / sums[..., None], sums
