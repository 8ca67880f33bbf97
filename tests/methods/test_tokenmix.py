"""TokenMix: blocks of patches, labels by what shows of each image's own map."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.tokenmix import blocks, tokenmix


@pytest.mark.parametrize(("grid", "target"), [((14, 14), 112), ((4, 4), 9), ((3, 5), 8)])
def test_cells_are_some_and_no_more_than_asked_for(grid, target, rng):
    taken = blocks(grid, target, 200, rng).sum((1, 2))
    assert (taken > 0).all() and (taken <= target).all()
    assert taken.float().mean() > 0.8 * target


def test_a_grid_too_small_for_blocks_stays_whole(rng):
    assert not blocks((1, 1), 1, 3, rng).any() and not blocks((14, 14), 0, 3, rng).any()


def test_the_authors_number_of_cells_is_the_default():
    assert round(load("tokenmix").ratio * 196) == 112


def mixed(attention, taken, images, rng):
    return tokenmix(images(len(attention)), attention, torch.arange(len(attention)).roll(1), taken)


def test_equal_maps_give_the_area(images, rng):
    taken = blocks((4, 4), 9, 6, rng)
    _, mix = mixed(torch.full((6, 4, 4), 1 / 16), taken, images, rng)
    torch.testing.assert_close(mix.lam, mix.mask.mean((1, 2, 3)))
    torch.testing.assert_close(mix.weight.sum(1), torch.ones(6))


def test_weights_are_what_shows_of_each_images_own_map(images, rng):
    attention = torch.rand(6, 4, 4, generator=rng)
    attention /= attention.sum((1, 2), keepdim=True)
    taken = blocks((4, 4), 9, 6, rng)
    x, (out, mix) = images(), mixed(attention, taken, images, rng)
    for i, partner in enumerate(mix.partner.tolist()):
        weights = torch.stack([attention[i][~taken[i]].sum(), attention[partner][taken[i]].sum()])
        torch.testing.assert_close(mix.weight[i], weights)
        cells = taken[i].repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert torch.equal(out[i], torch.where(cells, x[partner], x[i]))


def test_nothing_taken_is_the_image_itself(images, rng):
    out, mix = mixed(torch.full((6, 4, 4), 1 / 16), torch.zeros(1, 4, 4), images, rng)
    assert torch.equal(out, images()) and mix.weight.tolist() == [[1.0, 0.0]] * 6


def test_the_maps_are_the_networks_of_the_clean_images(make_net, images, one_hot, seeded):
    net = make_net("vit")
    _, mix = load("tokenmix").mix(net, images(), one_hot(), seeded(1))
    assert mix.mask.shape[0] == 1  # one mask for the batch
    shown = (mix.mask[:, 0, ::4, ::4] * net.attention(images())).sum((1, 2))
    torch.testing.assert_close(mix.lam, shown)


def test_a_network_without_attention_is_refused_by_name(make_net):
    with pytest.raises(ValueError, match="tokenmix needs attention.*resnet18.*ViT"):
        load("tokenmix").build(make_net("cnn"))


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_an_impossible_ratio_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        load("tokenmix", ratio=ratio)
