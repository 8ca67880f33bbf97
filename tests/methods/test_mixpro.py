"""MixPro: cells of two images, labels weighted by attention and accuracy."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import Mix, Net, load
from hf_mixup.methods.mixpro import maskmix, progressive_lam
from hf_mixup.methods.transmix import attended_share
from hf_mixup.ops.losses import smooth, soft_cross_entropy


def drawn(lam, images, rng, count=6, grid=4, size=(16, 16)):
    return maskmix(
        images(count, size),
        torch.full((count,), lam),
        torch.arange(count).roll(1),
        torch.rand(count, grid, grid, generator=rng),
    )


@pytest.mark.parametrize(("lam", "cells"), [(0.3, 5), (0.3125, 5), (0.5, 8), (0.01, 1), (1.0, 16), (0.0, 0)])
def test_each_row_keeps_lam_times_the_cells_rounded_up(lam, cells, images, rng):
    _, mix = drawn(lam, images, rng)
    corners = mix.mask[:, 0, ::4, ::4]
    assert corners.sum((1, 2)).tolist() == [cells] * 6
    assert mix.lam.tolist() == [cells / 16] * 6
    assert torch.equal(mix.mask, F.interpolate(corners[:, None], scale_factor=4))


def test_cells_differ_between_rows(images, rng):
    _, mix = drawn(0.5, images, rng)
    assert len({tuple(row.flatten().tolist()) for row in mix.mask}) > 4


def test_all_cells_are_chosen_with_equal_probability(images, rng):
    count = 2000
    _, mix = drawn(0.3, images, rng, count)
    # a share of n draws has sigma sqrt(p (1 - p) / n)
    share = mix.mask[:, 0, ::4, ::4].mean(0)
    assert ((share - 0.3125).abs() < 5 * (0.3125 * 0.6875 / count) ** 0.5).all()


def test_cells_of_different_sizes_are_weighted_by_their_pixels(images, rng):
    _, mix = drawn(0.5, images, rng, size=(14, 18))
    assert torch.equal(mix.lam, mix.mask.mean((1, 2, 3)))


def test_lam_one_keeps_every_image(images, rng):
    assert torch.equal(drawn(1.0, images, rng)[0], images())


def test_lam_interpolates_from_area_to_attention_by_accuracy():
    """sim .25, attention .8, area .4: .5."""
    y = torch.tensor([[1.0, 0, 0, 0]])
    # probabilities p, q, q, q whose cosine with the target is one quarter
    ratio = (5.0**0.5) * torch.ones(3)  # q / p: 1 / sqrt(1 + 3 * 5) = 1 / 4
    logits = torch.cat([torch.ones(1), ratio]).log()[None]
    lam = progressive_lam(torch.tensor([0.4]), torch.tensor([0.8]), y, logits)
    torch.testing.assert_close(lam, torch.tensor([0.5]))


def test_lam_lies_between_area_and_attention(rng):
    area, attended = torch.rand(2, 100, generator=rng)
    y = torch.rand(100, 5, generator=rng)
    lam = progressive_lam(area, attended, y, torch.randn(100, 5, generator=rng))
    assert (lam >= torch.minimum(area, attended)).all() and (lam <= torch.maximum(area, attended)).all()


class Given:
    """A loss that records its targets."""

    def __call__(self, logits, y):
        self.y = y
        return soft_cross_entropy(logits, y)


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


class Looking(Net):
    """A network with fixed logits and attention."""

    def forward(self, x):
        return 2 * pattern((3, 4), 1.3)

    @contextmanager
    def capturing_attention(self, for_method):
        yield lambda: (pattern((3, 64), 0.11).square() + 0.1).view(3, 8, 8)


def of_the_authors(x):
    """The authors' draws: lam 0.3, the cells kept in each row, and the next row as partner."""
    scores = torch.ones(3, 16)
    for row, kept in zip(scores, ([5, 0, 15, 10, 3], [1, 2, 4, 8, 12], [6, 7, 9, 11, 13])):
        row[kept] = 0.0
    scores += torch.arange(16) / 100  # distinct
    return maskmix(x, torch.full((3,), 0.3), torch.tensor([1, 2, 0]), scores.view(3, 4, 4))


def test_cells_and_labels_match_the_authors():
    """fistyee/MixPro at 53a229e, utils.py: MaskMix(x, x[[1, 2, 0]], 1, 4, 2, 4, y, y[[1, 2, 0]], 0.1, 4) with the draws
    above and y arange(3): `samples[:, 0, 2::4, 5]` and the sum of all; and with its masks and targets the lines of
    main.py, train_one_epoch, from lam_old to loss.mean(), for the logits and attention above: lam and the loss, which
    their loss does not smooth."""
    pixels = [-0.388224, 0.621681, 0.593016, -0.729724, -0.388224, -0.354725, 0.886686, 0.563582]
    pixels += [0.85104, 0.621681, 0.886686, 0.563582]
    x, y, given = pattern((3, 3, 16, 16), 0.37), torch.eye(4)[:3], Given()
    mixed, mix = of_the_authors(x)
    torch.testing.assert_close(mixed[:, 0, 2::4, 5].flatten(), torch.tensor(pixels), atol=2e-6, rtol=0)
    assert float(mixed.sum()) == pytest.approx(70.951347, abs=1e-3) and mix.lam.tolist() == [0.3125] * 3
    method, net = load("mixpro"), Looking(torch.nn.Flatten(), loss=given, label_smoothing=0.1)
    method.mix_batch = lambda net, x, y, rng: of_the_authors(x)
    method(net, x, y, None)
    lam = (given.y.diagonal() - 0.1 / 4) / 0.9
    torch.testing.assert_close(lam, torch.tensor([0.331179, 0.292464, 0.331377]), atol=2e-6, rtol=0)
    plain = soft_cross_entropy(net(x), Mix.pair(mix.partner, lam)(y)).mean()
    assert float(plain) == pytest.approx(1.586549, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_reads_the_attention_and_the_prediction_of_the_mixed_batch(smoothing, make_net, images, seeded):
    given, y = Given(), torch.eye(6)
    net = make_net("vit", classes=6, loss=given, label_smoothing=smoothing)
    net.model.eval()
    method = load("mixpro")
    method(net, images(), y, seeded(5))
    mixed, mix = method.mix(net, images(), y, seeded(5))
    similar = F.cosine_similarity(smooth(mix(y), smoothing), net(mixed).softmax(1))
    lam = similar * attended_share(mix.mask, net.attention(mixed)) + (1 - similar) * mix.lam
    torch.testing.assert_close(given.y, smooth(Mix.pair(mix.partner, lam)(y), smoothing))
    assert not given.y.requires_grad and len(lam.unique()) > 1


def test_a_network_without_attention_is_rejected_with_its_name(make_net):
    with pytest.raises(ValueError, match="mixpro requires attention.*resnet18.*ViT"):
        load("mixpro").build(make_net("cnn"))


def test_a_grid_without_cells_is_rejected():
    with pytest.raises(ValueError, match="grid"):
        load("mixpro", grid=0)
