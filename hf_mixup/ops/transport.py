"""Moving the blocks of images: which block goes where, as indices, and the images so put together."""

from functools import lru_cache

import torch
from torch import Tensor

from .masks import mingle


@lru_cache(maxsize=16)
def grid_distances(side: int, device: torch.device) -> Tensor:
    """(P, P) squared distance between blocks of a grid with P = side * side, in units of side - 1; do not write to it."""
    place = torch.arange(side, device=device)
    place = torch.cartesian_prod(place, place)
    # whole numbers first: equal distances must be equal to the last bit
    return (place[:, None] - place).square().sum(-1) / max(side - 1, 1) ** 2


@torch.no_grad()
def plan(saliency: Tensor, wanted: Tensor, price: float) -> Tensor:
    """(B, P) the block that moves to each place of a grid, -1 where none does; no block moves to two places.

    `saliency` (B, T, T) worth of each block where it shows, `wanted` (B, T, T) which places show, `price` of crossing
    the grid, by squared distance. T rounds: every block claims its cheapest place, the cheapest claim wins, and a lost
    claim becomes dearer by one (Kim et al., arXiv 2009.06962, section 4.3).
    """
    count, side = saliency.shape[:2]
    distance = grid_distances(side, saliency.device) * price
    places, worth = wanted.flatten(1).to(saliency.dtype), saliency.flatten()
    penalty = torch.zeros(len(worth), side**2, dtype=torch.uint8, device=saliency.device)

    def cost(rows):
        block, image = rows % side**2, rows // side**2
        return torch.addcmul(distance[block] + penalty[rows], worth[rows, None], places[image], value=-1)

    choice = _nearest(wanted)
    claim = distance.gather(1, choice.t()).t() - saliency.flatten(1) * places.gather(1, choice)
    stays = torch.arange(side**2, device=choice.device).expand_as(choice)
    # a block that no shown place can please stays, at no cost
    choice, claim = torch.where(claim > 0, stays, choice).flatten(), claim.clamp(max=0).flatten()
    for left in reversed(range(side)):
        winner = _cheapest_claims(claim.view(count, -1), choice.view(count, -1))
        if left == 0:
            return winner
        lost = (winner.gather(1, choice.view(count, -1)) != stays).flatten()
        rows = _those(lost)
        penalty[rows, choice[rows]] += lost[rows]
        claim[rows], choice[rows] = cost(rows).min(1)


def _nearest(wanted: Tensor) -> Tensor:
    """(B, P) the nearest place of the `wanted` (B, T, T), the first of equals; 0 where there is none.

    Squared distances are sums over rows and columns, so their minimum is taken along columns, then along rows.
    """
    side = wanted.shape[1]
    place = torch.arange(side, device=wanted.device)
    # one number tells distance and place: the distance in whole grids of places
    key = (place[:, None] - place).square() * side**2
    far = 2 * side**4
    along = torch.where(wanted[:, :, None], key + place, far).amin(3)
    nearest = (along[:, None] + (key + place * side)[:, :, None]).amin(2)
    return (nearest % side**2).flatten(1)


def _cheapest_claims(claim: Tensor, choice: Tensor) -> Tensor:
    """(B, P) who claims each place most cheaply, the first of equals, -1 where nobody does.

    `claim` (B, P) cost and `choice` (B, P) place of each block's claim.
    """
    nobody = claim.shape[1]
    cheapest = torch.full_like(claim, torch.inf).scatter_reduce(1, choice, claim, "amin")
    wins = claim == cheapest.gather(1, choice)
    block = torch.arange(nobody, device=claim.device)
    winner = torch.full_like(choice, nobody).scatter_reduce(1, choice, torch.where(wins, block, nobody), "amin")
    return torch.where(winner == nobody, -1, winner)


def _those(busy: Tensor) -> Tensor:
    """Numbers of the rows that are `busy` (N,); of all rows where asking would cost a wait for the device."""
    if busy.device.type == "cpu":
        return busy.nonzero()[:, 0]
    return torch.arange(len(busy), device=busy.device)


def compose(x: Tensor, partner: Tensor, mask: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """`mask` parts of the blocks `own` of each image and the rest of the blocks `other` of its partner; like `x`.

    `x` (B, C, H, W), `partner` (B,), `mask` (B, T, T) in [0, 1], `own` and `other` (B, P) the block that each place
    shows. Exact where the mask is 0 or 1; float32 or wider inside; whole-number images are rounded.
    """
    (count, channels, height, width), side, mask = x.shape, mask.shape[-1], mask.flatten(1)
    # an image row cut to the width of a block is a line: blocks are moved line by line, in one gather
    lines = x.reshape(-1, width // side)
    row, place = torch.arange(count, device=x.device)[:, None], torch.arange(side**2, device=x.device)
    own = _first_line(row, own, x.shape, side)
    other = _first_line(partner[:, None], other, x.shape, side)
    start = torch.where(mask > 0, own, other)
    plane = torch.arange(channels, device=x.device)[:, None] * height * side
    below = torch.arange(height // side, device=x.device) * side
    index = start.view(count, 1, side, 1, side) + plane[:, :, None, None] + below[:, None]
    mixed = lines.index_select(0, index.flatten())
    # only blocks that show both images need arithmetic
    both = _those(((mask > 0) & (mask < 1)).flatten())
    here, there = (
        (first.flatten()[both, None, None] + plane + below).flatten()
        for first in (_first_line(row, place, x.shape, side), other)
    )
    share = mask.flatten()[both].repeat_interleave(plane.numel() * below.numel())
    mixed[here] = mingle(mixed.index_select(0, here), lines.index_select(0, there), share[:, None])
    return mixed.view(x.shape)


def _first_line(image: Tensor, block: Tensor, shape: torch.Size, side: int) -> Tensor:
    """Number of the first line of the `block` (B, P) of an `image` (B, 1), when images of `shape` are cut into lines."""
    _, channels, height, _ = shape
    return (image * channels * height + block // side * (height // side)) * side + block % side

