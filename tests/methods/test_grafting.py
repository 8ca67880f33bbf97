"""Saliency Grafting: some of the salient cells, and labels by the saliency that shows."""

import math

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.grafting import grafting, salient, shown

MAPS = torch.tensor([[[0.1, 0.9], [0.5, 0.2]], [[0.3, 0.1], [0.8, 0.0]], [[0.6, 0.6], [0.2, 0.4]]])
DICE = torch.tensor([[[0.2, 0.4], [0.7, 0.1]], [[0.1, 0.9], [0.6, 0.3]], [[0.8, 0.3], [0.1, 0.2]]])
PARTNER = torch.tensor([1, 2, 0])


def reference(maps, dice, partner, chance, temperature):
    """The formulas, cell by cell: who is grafted (B, h, w), and lam (B,)."""
    maps, dice = maps.tolist(), dice.tolist()
    grafted, lams = [], []
    for i, j in enumerate(partner.tolist()):
        cells = [value for row in maps[i] for value in row]
        others = [value for row in maps[j] for value in row]
        throws = [value for row in dice[i] for value in row]
        powers = [math.exp(value / temperature) for value in cells]
        bits = [p / sum(powers) > 1 / len(cells) and d < chance for p, d in zip(powers, throws, strict=True)]
        own = math.hypot(*(c for c, bit in zip(cells, bits, strict=True) if bit)) / math.hypot(*cells)
        other = math.hypot(*(c for c, bit in zip(others, bits, strict=True) if not bit)) / math.hypot(*others)
        grafted.append(bits)
        lams.append(own / (own + other))
    return torch.tensor(grafted).view(len(maps), len(maps[0]), -1), torch.tensor(lams)


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_cells_and_labels_are_those_of_the_formulas(chance, temperature, images, rng):
    maps, dice = torch.rand(5, 4, 6, generator=rng), torch.rand(5, 4, 6, generator=rng)
    x, partner = images(5, (8, 12)), torch.tensor([1, 2, 3, 4, 0])
    mixed, mix = grafting(x, maps, torch.tensor([chance]), partner, dice, temperature)
    grafted, lam = reference(maps, dice, partner, chance, temperature)
    torch.testing.assert_close(mix.lam, lam)
    cells = grafted.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    assert torch.equal(mix.mask == 1, cells) and torch.equal(mixed, torch.where(cells, x, x[partner]))


def test_a_worked_example(images):
    """Row 0: .9 and .5 are above the softened mean at 1, .9's dice are below one half; lam of .9 / |(.1 .9 .5 .2)|."""
    _, mix = grafting(images(3, (2, 2)), MAPS, torch.tensor([0.5]), PARTNER, DICE, 1.0)
    assert mix.mask[0, 0].tolist() == [[0, 1], [0, 0]]
    own, other = 0.9 / math.sqrt(1.11), math.sqrt(0.73 / 0.74)
    torch.testing.assert_close(mix.lam[0], torch.tensor(own / (own + other)))


def test_a_lower_temperature_leaves_fewer_cells(rng):
    maps = torch.rand(8, 6, 6, generator=rng)
    counts = [int(salient(maps, temperature).sum()) for temperature in (0.02, 0.2, 2.0)]
    assert counts[0] < counts[1] < counts[2] < maps.numel()


def test_maps_without_saliency_count_pixels(images):
    _, mix = grafting(images(3, (2, 2)), torch.zeros(3, 2, 2), torch.ones(1), PARTNER, DICE, 0.2)
    assert mix.lam.tolist() == [0, 0, 0] and (mix.mask == 0).all()
    assert shown(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)) == 0


def test_the_map_is_that_of_the_layer_asked_for(make_net, images, one_hot, rng):
    for layer, cells in ((0, 4), (1, 2)):
        net, method = make_net(), load("grafting", layer=layer)
        method.build(net)
        assert method.saliency(net, images()).shape == (6, cells, cells)
        assert (method.saliency(net, images()) >= 0).all()
    with pytest.raises(ValueError, match="no layer 'head'"):
        load("grafting", layer="head").build(make_net())


def test_the_chance_to_be_grafted_is_drawn(make_net, images, one_hot, seeded):
    net, method = make_net(), load("grafting", layer=0, alpha=0.0).train()
    seen = salient(method.saliency(net, images()), method.temperature)
    for seed in range(3):  # all of Beta(0, 0) is at one: every salient cell is grafted
        _, mix = method.mix(net, images(), one_hot(), seeded(seed))
        assert torch.equal(mix.mask[:, 0, ::4, ::4] == 1, seen)


def test_a_map_of_one_cell_is_refused(make_net, images, one_hot, rng):
    method = load("grafting").train()
    with pytest.raises(ValueError, match="layer -1 has a map of one cell.*16x16 pixels: give an earlier layer"):
        method.mix(make_net(), images(), one_hot(), rng)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match="Grafting's temperature is"):
        load("grafting", temperature=temperature)
