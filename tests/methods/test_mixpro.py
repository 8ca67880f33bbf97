"""MixPro: cells of two images, labels by attention as far as the network is right."""

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import Mix, load
from hf_mixup.methods.mixpro import maskmix, progressive
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
def test_each_row_keeps_the_cells_asked_for_rounded_up(lam, cells, images, rng):
    _, mix = drawn(lam, images, rng)
    corners = mix.mask[:, 0, ::4, ::4]
    assert corners.sum((1, 2)).tolist() == [cells] * 6
    assert mix.lam.tolist() == [cells / 16] * 6
    assert torch.equal(mix.mask, F.interpolate(corners[:, None], scale_factor=4))


def test_cells_are_each_rows_own(images, rng):
    _, mix = drawn(0.5, images, rng)
    assert len({tuple(row.flatten().tolist()) for row in mix.mask}) > 4


def test_cells_are_chosen_evenly(images, rng):
    count = 2000
    _, mix = drawn(0.3, images, rng, count)
    # a share of n draws has sigma sqrt(p (1 - p) / n)
    share = mix.mask[:, 0, ::4, ::4].mean(0)
    assert ((share - 0.3125).abs() < 5 * (0.3125 * 0.6875 / count) ** 0.5).all()


def test_uneven_cells_count_by_their_pixels(images, rng):
    _, mix = drawn(0.5, images, rng, size=(14, 18))
    assert torch.equal(mix.lam, mix.mask.mean((1, 2, 3)))


def test_lam_one_keeps_every_image(images, rng):
    assert torch.equal(drawn(1.0, images, rng)[0], images())


def test_the_label_goes_from_area_to_attention_as_the_network_is_right():
    """sim .25, attention .8, area .4: .5."""
    y = torch.tensor([[1.0, 0, 0, 0]])
    # probabilities p, q, q, q whose cosine with the target is one quarter
    ratio = (5.0**0.5) * torch.ones(3)  # q / p: 1 / sqrt(1 + 3 * 5) = 1 / 4
    logits = torch.cat([torch.ones(1), ratio]).log()[None]
    lam = progressive(torch.tensor([0.4]), torch.tensor([0.8]), y, logits)
    torch.testing.assert_close(lam, torch.tensor([0.5]))


def test_lam_lies_between_area_and_attention(rng):
    area, attended = torch.rand(2, 100, generator=rng)
    y = torch.rand(100, 5, generator=rng)
    lam = progressive(area, attended, y, torch.randn(100, 5, generator=rng))
    assert (lam >= torch.minimum(area, attended)).all() and (lam <= torch.maximum(area, attended)).all()


class Given:
    """A loss that remembers the targets."""

    def __call__(self, logits, y):
        self.y = y
        return soft_cross_entropy(logits, y)


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


def test_a_network_without_attention_is_refused_by_name(make_net):
    with pytest.raises(ValueError, match="mixpro needs attention.*resnet18.*ViT"):
        load("mixpro").build(make_net("cnn"))


def test_a_grid_without_cells_is_refused():
    with pytest.raises(ValueError, match="grid"):
        load("mixpro", grid=0)
