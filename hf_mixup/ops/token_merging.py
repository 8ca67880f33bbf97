"""Tokens that merge with those most like them (ToMe: Bolya et al., ICLR 2023, section 3)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BEND = 0.5  # the first block merges 1 + BEND times the mean, the last 1 - BEND times


def schedule(blocks: int, total: int) -> list[int]:
    """How many tokens merge in each block, falling evenly, `total` in all; as MergeMix's authors count them.

    Of the whole numbers that may be the mean, the one whose line comes nearest to `total`; the first block takes what
    is missing or too much, so that it may be below 0, which is none.
    """

    def line(mean):
        high = int(mean * (1 + BEND))
        step = 2 * (mean - high) / max(blocks - 1, 1)
        return [int(high + step * block) for block in range(blocks)]

    counts = min((line(mean) for mean in range(max(total, 1))), key=lambda counts: abs(sum(counts) - total))
    return [counts[0] + total - sum(counts), *counts[1:]]


def room(tokens: int, kept: int) -> int:
    """How many of so many tokens, `kept` of them protected, can merge at once."""
    return max((tokens - kept) // 2, 0)


def match(features: Tensor, count: int, kept: int) -> Tensor:
    """(B, T) the new place of each token when the `count` tokens most like another one merge with it.

    `features` (B, T, D), compared by angle. Every second token, from the first, may merge with one of the others; the
    first `kept` tokens take no part. New order: those, what is left of the first half, the second half.
    """
    tokens = features.shape[1]
    unit = F.normalize(features.float(), dim=-1)
    alike = unit[:, ::2] @ unit[:, 1::2].mT
    alike[:, : (kept + 1) // 2] = -math.inf
    alike[:, :, : kept // 2] = -math.inf
    best, to = alike.max(-1)
    goes = best.argsort(dim=1, descending=True, stable=True).argsort(1) < count
    stays = torch.ones(len(features), tokens, dtype=torch.bool, device=features.device)
    stays[:, ::2] = ~goes
    own = torch.arange(tokens, device=features.device)
    order = torch.where(own < kept, 0, own % 2 + 1).argsort(stable=True)
    place = torch.empty_like(stays, dtype=torch.long)
    place[:, order] = stays[:, order].cumsum(1) - 1
    place[:, ::2] = torch.where(goes, place.gather(1, 2 * to + 1), place[:, ::2])
    return place


def merge(tokens: Tensor, weight: Tensor, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, T - count, C) means of the `tokens` (B, T, C) that `place` (B, T) puts together, and the (B, T - count) sums
    of their `weight` (B, T): how many tokens each one stands for."""
    left = tokens.shape[1] - count
    sums = weight.new_zeros(len(tokens), left).scatter_add(1, place, weight)
    where = place[..., None].expand_as(tokens)
    means = tokens.new_zeros(len(tokens), left, tokens.shape[2]).scatter_add(1, where, tokens * weight[..., None])
    return means / sums[..., None], sums
