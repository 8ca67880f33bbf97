"""GridMix: the partner is visible in a grid of holes (Dobrynin's GridMixup, 2021, as in OpenMixup's benchmark).

The crop with the grid is never larger than the image (both public implementations wrap around), and cells have at least
two pixels per side, one of them outside the hole. This is not the GridMix of Baek et al. (2021).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mix import Mix
from ..ops.masks import blend, separable_mask, unexpand, writable_copy
from ..ops.sampling import integers, uniform
from ._base import Method, Net


def gridmix(
    x: Tensor,
    lam: Tensor,
    partner: Tensor,
    area: Tensor,
    aspect: Tensor,
    holes: Tensor,
    place: Tensor,
    hole_aspect: Tensor,
    out: Tensor | None = None,
) -> tuple[Tensor, Mix]:
    """Each image with its partner in the holes of a grid; lam becomes the share of pixels outside the holes.

    A hole's side is `sqrt(1 - lam)` of its cell's, at least one pixel. The grid lies in a crop with share `area` of the
    image and height / width `aspect`. It has `holes` cells across, of height / width `hole_aspect`. `place`: position
    of the crop, (0, 0) top left to (1, 1) bottom right. `lam`, `partner` (B,); `place` (B or 1, 2), others (B or 1,).
    """
    corners = crops(x.shape[-2:], area, aspect, place)
    mask = separable_mask(*grid(x.shape[-2:], corners, *cells(corners, unexpand(lam), holes, hole_aspect), x.device))
    return blend(x, partner, mask, out), Mix.pair(partner, mask.mean((1, 2, 3)), mask)


def crops(size: tuple[int, int], area: Tensor, aspect: Tensor, place: Tensor) -> Tensor:
    """(B, 4) top, left, height, width of crops inside an image of `size`."""
    height, width = size
    crop_width = ((height * width * area.double()).long() / aspect.double()).sqrt().long()
    crop_height = (crop_width * aspect.double()).long().clamp(1, height)
    crop_size = torch.stack([crop_height, crop_width.clamp(1, width)], 1)
    corner = (torch.tensor(size) - crop_size) * place.double()
    return torch.cat([corner.long(), crop_size], 1)


def cells(crop: Tensor, lam: Tensor, holes: Tensor, hole_aspect: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 2) height and width of a cell, at least two pixels, and (B, 2) of its hole."""
    width = -(-crop[:, 3] // holes)
    cell = torch.stack([(width * hole_aspect.double()).long(), width], 1).clamp(min=2)
    hole = (cell * (1 - lam.double()).sqrt()[:, None]).long().clamp(min=1)
    return cell, torch.minimum(hole, cell - 1)


def grid(size: tuple[int, int], crop: Tensor, cell: Tensor, hole: Tensor, device: torch.device) -> list[Tensor]:
    """(B, H) and (B, W), one for rows and columns in holes, else zero; each cell has a hole in its top left corner."""
    crop, cell, hole = (number.to(device, non_blocking=True)[..., None] for number in (crop, cell, hole))
    lines = []
    for axis, side in enumerate(size):
        place = torch.arange(side, device=device) - crop[:, axis]
        inside = (place >= 0) & (place < crop[:, axis + 2])
        lines.append((inside & (place % cell[:, axis] < hole[:, axis])).float())
    return lines


@dataclass(eq=False)
class GridMix(Method):
    """`alpha`: both parameters of the Beta distribution of lam, the image's own share; 0 for no mixing. `holes`:
    smallest and largest number of cells across the crop, drawn uniformly. `crop_area`: smallest and largest area of the
    crop with the grid, as a share of the image, drawn uniformly. `crop_aspect`: smallest and largest height / width of
    the crop, drawn uniformly. `hole_aspect`: smallest and largest height / width of the cells, drawn uniformly.
    """

    paper = "https://github.com/IlyaDobrynin/GridMixup"  # there is no paper
    title = "GridMix"
    alpha: float = 1.0
    holes: tuple[int, int] = (2, 6)
    crop_area: tuple[float, float] = (0.5, 1.0)
    crop_aspect: tuple[float, float] = (0.5, 2.0)
    hole_aspect: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        highest = {"holes": math.inf, "crop_area": 1.0, "crop_aspect": math.inf, "hole_aspect": math.inf}
        for key, limit in highest.items():
            low, high = getattr(self, key)
            if not (0 < low <= high <= limit and high < math.inf):
                limits = "above 0" if limit == math.inf else "above 0 and up to 1"
                raise ValueError(f"GridMix's {key} is {getattr(self, key)!r}: give low <= high, {limits}.")

    def mix_batch(
        self, net: Net | None, x: Tensor, y: Tensor, rng: torch.Generator, out: Tensor | None = None
    ) -> tuple[Tensor, Mix]:
        if self.alpha == 0:  # the smallest hole is not empty
            return writable_copy(x, out), Mix.none(x)
        lam, partner = self.draw(x, self.alpha, rng)
        count, (fewest, most) = self.draws(x), self.holes
        area, aspect = uniform(*self.crop_area, count, rng), uniform(*self.crop_aspect, count, rng)
        holes = fewest + integers(most - fewest + 1, count, rng)
        place = torch.rand(count, 2, generator=rng)
        return gridmix(x, lam, partner, area, aspect, holes, place, uniform(*self.hole_aspect, count, rng), out)
