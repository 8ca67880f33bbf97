"""Transport of image blocks: assign blocks to places, and compose images from the moved blocks."""

from functools import lru_cache

import torch
from torch import Tensor

from .masks import blend_with

CACHE_NUMEL = 2**19  # elements that fit into a processor's cache


@lru_cache(maxsize=16)
def grid_distances(side: int, device: torch.device) -> Tensor:
    """(P, P) squared distances in a grid of P = side * side blocks, in units of side - 1; cached, do not modify."""
    place = torch.arange(side, device=device)
    place = torch.cartesian_prod(place, place)
    # divide integers, so that equal distances are equal to the last bit
    return (place[:, None] - place).square().sum(-1) / max(side - 1, 1) ** 2


@torch.no_grad()
def plan(saliency: Tensor, visible: Tensor, price: float) -> Tensor:
    """(B, P) the block that moves to each place of the grid, -1 for none; a block moves to at most one place.

    `saliency` (B, T, T) value of each block if it is visible; `visible` (B, T, T) bool, where blocks are visible;
    `price` times the squared distance is the cost of a move, with the grid's side as unit. T rounds: every block claims
    its cheapest place, the cheapest claim wins, and the cost of a lost claim increases by one (Kim et al., arXiv
    2009.06962, section 4.3).
    """
    count, side = saliency.shape[:2]
    distance = grid_distances(side, saliency.device) * price
    is_visible, worth = visible.flatten(1).to(saliency.dtype), saliency.flatten()
    penalty = torch.zeros(len(worth), side**2, dtype=torch.uint8, device=saliency.device)

    def cost(rows: Tensor) -> Tensor:
        block, image = rows % side**2, rows // side**2
        base = distance.index_select(0, block) + penalty.index_select(0, rows)
        return base.addcmul_(worth.index_select(0, rows)[:, None], is_visible.index_select(0, image), value=-1)

    claim, choice = _first_claims(distance, saliency.flatten(1), visible)
    block = torch.arange(side**2, device=choice.device)
    for remaining in reversed(range(side)):
        winner = _cheapest_claims(claim.view(count, -1), choice.view(count, -1))
        lost = (winner.gather(1, choice.view(count, -1)) != block).flatten()
        rows = _rows_to_update(lost)
        if remaining == 0 or len(rows) == 0:
            return winner
        penalty[rows, choice[rows]] += lost[rows]
        claim[rows], choice[rows] = cost(rows).min(1)


def _first_claims(distance: Tensor, worth: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """(B * P,) least cost and (B * P,) place of each block, without computing all costs."""
    choice = _nearest_visible(visible)
    is_visible = visible.flatten(1).gather(1, choice)
    claim = distance.gather(1, choice.t()).t() - worth * is_visible
    block = torch.arange(len(distance), device=choice.device)
    # a block for which every visible place costs more than 0 stays where it is, hidden
    return claim.clamp(max=0).flatten(), torch.where(claim > 0, block, choice).flatten()


def _nearest_visible(visible: Tensor) -> Tensor:
    """(B, P) the nearest `visible` (B, T, T) place of each block, the first one of a tie; 0 if there is none.

    Squared distances are sums over rows and columns, so the minimum is taken along columns, then along rows.
    """
    side = visible.shape[1]
    place = torch.arange(side, device=visible.device, dtype=torch.int32)
    # distance * P + place: one minimum gives both
    distance = (place[:, None] - place).square() * side**2
    far = torch.full_like(place[:1], 2 * side**4)
    along = torch.where(visible[:, :, :, None], distance + place[:, None], far).amin(2)
    nearest = (along[:, :, None] + (distance + place[:, None] * side)[:, :, None]).amin(1)
    return (nearest % side**2).flatten(1).long()


def _cheapest_claims(claim: Tensor, choice: Tensor) -> Tensor:
    """(B, P) the block with the cheapest claim on each place, the first one of a tie; -1 without a claim.

    `claim` (B, P) cost and `choice` (B, P) place of each block's claim.
    """
    no_block = claim.shape[1]
    cheapest = torch.full_like(claim, torch.inf).scatter_reduce(1, choice, claim, "amin")
    wins = claim == cheapest.gather(1, choice)
    block = torch.arange(no_block, device=claim.device)
    winner = torch.full_like(choice, no_block).scatter_reduce(1, choice, torch.where(wins, block, no_block), "amin")
    return torch.where(winner == no_block, -1, winner)


def _rows_to_update(selected: Tensor) -> Tensor:
    """Indices of the rows where `selected` (N,) is true; of all rows on a GPU, where reading it would synchronise."""
    if selected.device.type == "cpu":
        return selected.nonzero()[:, 0]
    return torch.arange(len(selected), device=selected.device)


def block_sources(mask: Tensor, worth: Tensor, partner: Tensor, t_eps: float | None) -> tuple[Tensor, Tensor]:
    """The blocks of the own and of the partner's image at each place, each (B, P); `t_eps` None moves no blocks."""
    stay = torch.arange(mask[0].numel(), device=mask.device).expand(len(mask), -1)
    if t_eps is None:
        return stay, stay
    own, other = plan(worth, mask > 0, t_eps), plan(worth.index_select(0, partner), mask < 1, t_eps)
    return torch.where(own < 0, stay, own), torch.where(other < 0, stay, other)


def compose(
    x: Tensor,
    partner: Tensor,
    mask: Tensor,
    own_blocks: Tensor,
    partner_blocks: Tensor,
    partner_images: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`mask` * the own image's moved blocks + (1 - `mask`) * the partner's; shape and dtype of `x`.

    `x` (B, C, H, W), `partner` (B,), `mask` (B, T, T) in [0, 1], `own_blocks` and `partner_blocks` (B, P) the block
    that moves to each place, `partner_images` like `x`: the images of the partners, by default `x`. Exact where the
    mask is 0 or 1; computed in float32 or wider; integer images are rounded. `out`: a tensor like `x`, not `x` itself.
    """
    (count, channels, height, width), side = x.shape, mask.shape[-1]
    # a line is one image row of a block: blocks move line by line, in one gather
    sources = x, x if partner_images is None else partner_images
    lines, partner_lines = (images.reshape(-1, width // side) for images in sources)
    row = torch.arange(count, device=x.device)
    blocks = (row, own_blocks), (partner, partner_blocks)
    own, other = (_first_line(*pair, x.shape, side) for pair in blocks)
    plane = torch.arange(channels, device=x.device)[:, None, None, None] * height * side
    below = torch.arange(height // side, device=x.device)[:, None] * side
    share = mask[:, None, :, None].expand(-1, channels, -1, height // side, -1)

    def gather(lines: Tensor, first: Tensor) -> Tensor:
        index = first.view(-1, 1, side, 1, side) + plane + below
        return lines.index_select(0, index.flatten())

    mixed = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    step = max(CACHE_NUMEL // x[0].numel(), 1) if x.device.type == "cpu" else count
    for start in range(0, count, step):
        part = slice(start, start + step)
        done = blend_with(gather(lines, own[part]), gather(partner_lines, other[part]), share[part].reshape(-1, 1))
        mixed[part] = done.view(-1, channels, height, width)
    return mixed


def _first_line(image: Tensor, block: Tensor, shape: torch.Size, side: int) -> Tensor:
    """(B, P) index of the first line of each `block` (B, P) of `image` (B,), for images of `shape` in `compose`."""
    _, channels, height, _ = shape
    return (image[:, None] * channels * height + block // side * (height // side)) * side + block % side
