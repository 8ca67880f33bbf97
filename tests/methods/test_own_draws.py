"""With `per_image`, draws of different rows are independent: positions, sizes, numbers of holes."""

import math

import pytest
import torch
from rows import row

from hf_mixup import available, load

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs
BATCHES = 400
# methods whose mask is drawn at random, not computed from the images or by a network
PLACED = [
    n for n in available() if row(n)["mask"] and row(n)["mixes"] and row(n)["shared_lam"] and not load(n).needs_net
]


def features(mask):
    """(9, N) features of the partner's region in masks (N, H, W): its share; and for rows and columns its centre, its
    extent, the number of lines, and the number of changes."""
    shown = 1 - mask.double()
    found = [shown.mean((1, 2))]
    for axis, side in ((2, shown.shape[1]), (1, shown.shape[2])):
        weight, seen, place = shown.sum(axis), (shown > 0.5).any(axis).double(), torch.arange(side)
        span = (seen * (place + 1)).amax(1) - side + (seen * (side - place)).amax(1)
        middle = (weight * place).sum(1) / weight.sum(1).clamp(min=1e-6)
        found += [middle, span, seen.sum(1), seen.diff(dim=1).abs().sum(1)]
    return torch.stack(found)


def correlations(numbers):
    """(F,) correlations between the first and the second row, from (F, N, 2); zero for constant features."""
    return torch.stack([torch.corrcoef(pair.T)[0, 1] for pair in numbers.double()]).nan_to_num(0.0)


@pytest.mark.parametrize("name, changes", [(name, {}) for name in PLACED] + [("cutmix", {"minmax": (0.25, 0.75)})])
def test_per_image_draws_are_independent_between_rows(name, changes, rng):
    method = load(name, **row(name)["args"], **changes, per_image=True)
    masks = []
    for _ in range(BATCHES):
        x = torch.rand(2, 1, 20, 24, generator=rng)
        masks.append(method.mix(None, x, torch.eye(2), rng)[1].mask.expand(2, -1, -1, -1)[:, 0])
    found = features(torch.cat(masks)).unflatten(1, (-1, 2))
    assert (found.std((1, 2)) > 0).any()
    assert correlations(found).abs().max() < SIGMAS / math.sqrt(BATCHES), correlations(found)


@pytest.mark.parametrize("name", PLACED)
def test_without_per_image_rows_share_their_draws(name, rng):
    """Shows that the test above would fail if both rows shared a draw."""
    method = load(name, **row(name)["args"])
    x = torch.rand(2, 1, 20, 24, generator=rng)
    masks = [method.mix(None, x, torch.eye(2), rng)[1].mask.expand(2, -1, -1, -1)[:, 0] for _ in range(50)]
    assert correlations(features(torch.cat(masks)).unflatten(1, (-1, 2))).max() > 0.99


def test_snapmixs_two_boxes_are_independent_between_rows(rng, make_net, monkeypatch):
    """With a uniform semantic map, weights are the areas of the target box and of the source box."""
    net, method = make_net("cnn"), load("snapmix", per_image=True)
    monkeypatch.setattr(net, "class_map", lambda x, y: torch.ones(len(x), 4, 4))
    x, mixes = torch.rand(2, 3, 16, 16, generator=rng), []
    for _ in range(BATCHES):
        mixes.append(method.mix(net, x, torch.eye(5)[:2], rng)[1])
    areas = torch.stack([torch.stack([1 - mix.lam, mix.weight[:, 1]]) for mix in mixes], 1)
    found = torch.cat([areas, features(torch.cat([mix.mask[:, 0] for mix in mixes])).unflatten(1, (-1, 2))])
    assert correlations(found).abs().max() < SIGMAS / math.sqrt(BATCHES), correlations(found)
    one_box_and_the_other = torch.corrcoef(areas[:, :, 0].double())[0, 1]
    assert one_box_and_the_other.abs() < SIGMAS / math.sqrt(BATCHES)
