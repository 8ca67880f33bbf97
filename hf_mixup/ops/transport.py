"""Moving the blocks of images: which block goes where, as indices, and the images so put together."""

from functools import lru_cache

import torch
from torch import Tensor

from .masks import mingle

IN_CACHE = 2**19  # numbers a processor works on without waiting for its memory


@lru_cache(maxsize=16)
def grid_distances(side: int, device: torch.device) -> Tensor:
    """(P, P) squared distances in a grid of P = side * side blocks, in units of side - 1; not to be written to."""
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
        base = distance.index_select(0, block) + penalty.index_select(0, rows)
        return base.addcmul_(worth.index_select(0, rows)[:, None], places.index_select(0, image), value=-1)

    claim, choice = _first_claims(distance, saliency.flatten(1), wanted)
    stays = torch.arange(side**2, device=choice.device)
    for left in reversed(range(side)):
        winner = _cheapest_claims(claim.view(count, -1), choice.view(count, -1))
        lost = (winner.gather(1, choice.view(count, -1)) != stays).flatten()
        rows = _those(lost)
        if left == 0 or len(rows) == 0:
            return winner
        penalty[rows, choice[rows]] += lost[rows]
        claim[rows], choice[rows] = cost(rows).min(1)


def _first_claims(distance: Tensor, worth: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(B * P,) least cost and (B * P,) place of each block, without a table of all costs."""
    choice = _nearest(wanted)
    shows = wanted.flatten(1).gather(1, choice)
    claim = distance.gather(1, choice.t()).t() - worth * shows
    stays = torch.arange(len(distance), device=choice.device)
    # a block for which every shown place is too far stays hidden, at no cost
    return claim.clamp(max=0).flatten(), torch.where(claim > 0, stays, choice).flatten()


def _nearest(wanted: Tensor) -> Tensor:
    """(B, P) the nearest place of the `wanted` (B, T, T), the first of equals; 0 where there is none.

    Squared distances are sums over rows and columns, so their minimum is taken along columns, then along rows.
    """
    side = wanted.shape[1]
    place = torch.arange(side, device=wanted.device, dtype=torch.int32)
    # one number tells distance and place: the distance in whole grids of places
    distance = (place[:, None] - place).square() * side**2
    far = torch.full_like(place[:1], 2 * side**4)
    along = torch.where(wanted[:, :, :, None], distance + place[:, None], far).amin(2)
    nearest = (along[:, :, None] + (distance + place[:, None] * side)[:, :, None]).amin(1)
    return (nearest % side**2).flatten(1).long()


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


def places(mask: Tensor, worth: Tensor, partner: Tensor, t_eps: float | None) -> tuple[Tensor, Tensor]:
    """(B, P) twice: the blocks of the own and of the partner's image that show at each place; all stay for None."""
    stay = torch.arange(mask[0].numel(), device=mask.device).expand(len(mask), -1)
    if t_eps is None:
        return stay, stay
    own, other = plan(worth, mask > 0, t_eps), plan(worth.index_select(0, partner), mask < 1, t_eps)
    return torch.where(own < 0, stay, own), torch.where(other < 0, stay, other)


def compose(
    x: Tensor,
    partner: Tensor,
    mask: Tensor,
    own: Tensor,
    other: Tensor,
    others: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`mask` parts of the blocks `own` of each image and the rest of the blocks `other` of its partner; like `x`.

    `x` (B, C, H, W), `partner` (B,), `mask` (B, T, T) in [0, 1], `own` and `other` (B, P) the block that each place
    shows, `others` like `x` where partners are not those of `x`. Exact where the mask is 0 or 1; float32 or wider
    inside; whole-number images are rounded. `out`: a tensor like `x`, not `x` itself.
    """
    (count, channels, height, width), side = x.shape, mask.shape[-1]
    # an image row cut to the width of a block is a line: blocks move line by line, in one gather
    lines, other_lines = (images.reshape(-1, width // side) for images in (x, x if others is None else others))
    row = torch.arange(count, device=x.device)
    own, other = (_first_line(*pair, x.shape, side) for pair in ((row, own), (partner, other)))
    plane = torch.arange(channels, device=x.device)[:, None, None, None] * height * side
    below = torch.arange(height // side, device=x.device)[:, None] * side
    share = mask[:, None, :, None].expand(-1, channels, -1, height // side, -1)

    def gather(lines, first):
        index = first.view(-1, 1, side, 1, side) + plane + below
        return lines.index_select(0, index.flatten())

    mixed = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    step = max(IN_CACHE // x[0].numel(), 1) if x.device.type == "cpu" else count
    for start in range(0, count, step):
        part = slice(start, start + step)
        done = mingle(gather(lines, own[part]), gather(other_lines, other[part]), share[part].reshape(-1, 1))
        mixed[part] = done.view(-1, channels, height, width)
    return mixed


def _first_line(image: Tensor, block: Tensor, shape: torch.Size, side: int) -> Tensor:
    """(B, P) the first line of each `block` (B, P) of each `image` (B,), as `compose` cuts images of `shape`."""
    _, channels, height, _ = shape
    return (image[:, None] * channels * height + block // side * (height // side)) * side + block % side
