"""TokenMix: blocks of patches, labels by the visible share of each image's map."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods import tokenmix as module
from hf_mixup.methods.tokenmix import blocks, tokenmix

ROWS = [56, 126, 126, 127, 127, 8319, 6271, 6271, 8188, 8188, 8188, 8188, 8188, 96]  # their mask, one number per row
MASK = torch.tensor([[row >> place & 1 for place in reversed(range(14))] for row in ROWS])


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


def test_blocks_match_the_authors(monkeypatch):
    """Sense-X/TokenMix, tokenmix.py at 0e17d5d: generate_mask(0.5, "cpu", 14), whose random.uniform and random.randint
    were the fractional parts of 0.1 + n * 0.618034, four per attempt: area, aspect, top, left."""
    draws = ((0.1 + n * 0.6180339887498949) % 1 for n in range(1000))
    monkeypatch.setattr(module, "uniform", lambda low, high, *_: torch.tensor([low + (high - low) * next(draws)]))
    monkeypatch.setattr(module, "integers", lambda high, *_: (next(draws) * high).long())
    assert torch.equal(blocks((14, 14), 112, 1, None)[0].long(), MASK)


def test_weights_match_the_authors():
    """As above: Mixup(switch_prob=1, label_smoothing=0, num_classes=4)(x, targets), get_labelmaps_with_coords giving
    these maps, each for its image's class: `x[0, 0, 8::64, 8::48]` and the targets."""
    pixels = [0.831808, -0.106984, -0.930851, -0.882075, 0.232098, 0.74951, 0.933653, 0.114439, 0.229598, -0.75534]
    pixels += [-0.448057, -0.546065, 0.484919, 0.99963, -0.683814, -0.978917, -0.949619, -0.721276, 0.282214, 0.530284]
    maps, flip = pattern((4, 14, 14), 0.013).square(), torch.arange(4).flip(0)
    x = pattern((4, 1, 224, 224), 0.37)
    out, mix = tokenmix(x, maps / maps.sum((1, 2), keepdim=True), flip, MASK[None])
    own, other = torch.tensor([[0.503596, 0.376381, 0.316823, 0.393824], [0.606176, 0.683177, 0.623619, 0.496404]])
    torch.testing.assert_close(mix.weight, torch.stack([own, other], 1), atol=2e-6, rtol=0)
    torch.testing.assert_close(out[0, 0, 8::64, 8::48].flatten(), torch.tensor(pixels), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("grid", "target"), [((14, 14), 112), ((4, 4), 9), ((3, 5), 8)])
def test_the_number_of_cells_is_between_one_and_the_target(grid, target, rng):
    taken = blocks(grid, target, 200, rng).sum((1, 2))
    assert (taken > 0).all() and (taken <= target).all()
    assert taken.float().mean() > 0.8 * target


def test_a_grid_too_small_for_blocks_is_not_changed(rng):
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


def test_weights_are_the_visible_shares_of_each_images_map(images, rng):
    attention = torch.rand(6, 4, 4, generator=rng)
    attention /= attention.sum((1, 2), keepdim=True)
    taken = blocks((4, 4), 9, 6, rng)
    x, (out, mix) = images(), mixed(attention, taken, images, rng)
    for i, partner in enumerate(mix.partner.tolist()):
        weights = torch.stack([attention[i][~taken[i]].sum(), attention[partner][taken[i]].sum()])
        torch.testing.assert_close(mix.weight[i], weights)
        cells = taken[i].repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert torch.equal(out[i], torch.where(cells, x[partner], x[i]))


def test_an_empty_mask_gives_the_image_itself(images, rng):
    out, mix = mixed(torch.full((6, 4, 4), 1 / 16), torch.zeros(1, 4, 4), images, rng)
    assert torch.equal(out, images()) and mix.weight.tolist() == [[1.0, 0.0]] * 6


def test_attention_is_that_of_the_clean_images(make_net, images, one_hot, seeded):
    net = make_net("vit")
    _, mix = load("tokenmix").mix(net, images(), one_hot(), seeded(1))
    assert mix.mask.shape[0] == 1  # one mask for the batch
    shown = (mix.mask[:, 0, ::4, ::4] * net.attention(images())).sum((1, 2))
    torch.testing.assert_close(mix.lam, shown)


def test_a_network_without_attention_is_rejected_with_its_name(make_net):
    with pytest.raises(ValueError, match="tokenmix requires attention.*resnet18.*ViT"):
        load("tokenmix").build(make_net("cnn"))


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_an_invalid_ratio_is_rejected(ratio):
    with pytest.raises(ValueError, match="ratio"):
        load("tokenmix", ratio=ratio)
