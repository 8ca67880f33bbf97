"""Noisy feature mixup: mixing, then noise."""

import math

import pytest
import torch
from torch import nn

from hf_mixup import Net, load
from hf_mixup.methods.mixup import mixup
from hf_mixup.methods.noisymix import draw_levels, noisymix, scale_view_levels, sparse_noise
from hf_mixup.ops.losses import jensen_shannon

KINDS = ("cnn", "vit")
QUIET = {"add_noise": 0.0, "mult_noise": 0.0}
PARTNER = torch.tensor([1, 2, 0])


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


def test_the_result_matches_the_authors():
    """Numbers from erichson/NoisyMix, src/noisy_mixup.py at f76352e: do_noisy_mixup(x, [0, 1, 2], alpha=1,
    add_noise_level=0.5, mult_noise_level=0.4, sparse_level=0.65), each Beta draw being 0.3, the pairing [1, 2, 0], and
    these patterns in place of its normal and uniform fields: the first two rows of the output."""
    expected = [1.156864, -0.066836, -0.558912, 0.414893, 0.689683, -0.649177, -0.522397, 0.686248]
    expected += [0.156159, -0.866362, -0.097171, 0.990223, -0.131706, -0.758639, 0.305291, 0.877443]
    shape = (3, 2, 2, 2)
    x, normal = pattern(shape, 1.7), 1.5 * pattern(shape, 0.37)
    uniform = [(pattern(shape, frequency) + 1) / 2 for frequency in (0.91, 1.23, 0.53)]
    added = 0.5 * 0.3 * normal * (uniform[0] >= 0.65)
    scaled = 0.4 * 0.3 * (2 * uniform[1] - 1) * (uniform[2] >= 0.65)
    mixed, mix = noisymix(x, torch.full((3,), 0.3), PARTNER, added, scaled)
    torch.testing.assert_close(mixed[:2].flatten(), torch.tensor(expected), atol=2e-6, rtol=0)
    torch.testing.assert_close(mix.lam, torch.full((3,), 0.3))


def test_noise_of_three_views_matches_the_authors():
    """Numbers from the NoisyMix repository (f76352e), src/noisy_mixup.py: do_noisy_mixup(x, [0, 1], jsd=1, alpha=1,
    add_noise_level=0.5, mult_noise_level=0.4, sparse_level=0.65), its Beta draws being 0.3 for lam and then `level`,
    the pairing [1, 0], and these patterns in place of its normal and uniform fields."""
    expected = [1.205737, 0.232157, -0.774416, 0.146657, 0.888593, 0.276621, -0.959875, -0.094301]
    expected += [1.05169, -0.501589, -0.42245, 0.911023, 0.793548, -0.659192, -0.859014, 0.477867]
    expected += [0.659868, 0.213556, 0.493009, 0.757763, -0.07647, -0.951244, -0.755658, -0.213555]
    shape = (2, 1, 2, 2)
    level = scale_view_levels(torch.tensor([[[0.2, 0.4]], [[0.25, 0.35]], [[0.5, 0.1]]]))
    found = []
    for i, x in enumerate(pattern((6, 1, 2, 2), 1.7).chunk(3)):
        normal = 1.5 * pattern(shape, 0.37 + 0.1 * i)
        uniform = [(pattern(shape, frequency + 0.1 * i) + 1) / 2 for frequency in (0.91, 1.23, 0.53)]
        added = 0.5 * level[i, 0, 0] * normal * (uniform[0] >= 0.65)
        scaled = 0.4 * level[i, 0, 1] * (2 * uniform[1] - 1) * (uniform[2] >= 0.65)
        found.append(noisymix(x, torch.full((2,), 0.3), torch.tensor([1, 0]), added, scaled)[0])
    torch.testing.assert_close(torch.cat(found).flatten(), torch.tensor(expected), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_without_noise_it_is_manifold_mixup(kind, layer, make_net, images, one_hot, seeded):
    net = make_net(kind)
    net.model.eval()
    quiet = load("noisymix", layers=(layer,), **QUIET)(net, images(), one_hot(), seeded(1))["mix"]
    plain = load("manifoldmix", layers=(layer,), alpha=1.0)(net, images(), one_hot(), seeded(1))["mix"]
    torch.testing.assert_close(quiet, plain)


def test_noise_is_added_without_mixing(make_net, images, one_hot, rng):
    net = make_net("vit")
    method = load("noisymix", alpha=0.0)
    mixed, mix = method.mix(net, images(), one_hot(), rng)
    assert (mix.lam == 1).all() and not torch.equal(mixed, images())
    assert method(net, images(), one_hot(), rng)["mix"] != net.loss(net(images()), one_hot())


@pytest.mark.parametrize("add, mult", [(0.4, 0.0), (0.0, 0.2)])
def test_noise_has_the_requested_level(add, mult, seeded):
    """On an image of ones: additive noise has deviation add, multiplicative noise is uniform up to mult."""
    method = load("noisymix", add_noise=add, mult_noise=mult)
    added, scaled = method.noise(torch.ones(4, 3, 100, 100), torch.ones(1, 2), seeded(1))
    assert added.std().item() == pytest.approx(add, rel=0.02, abs=1e-9)
    assert scaled.std().item() == pytest.approx(mult / math.sqrt(3), rel=0.02, abs=1e-9)
    assert scaled.abs().max() <= mult and scaled.abs().max() >= 0.99 * mult


@pytest.mark.parametrize("sparsity", [0.0, 0.65, 1.0])
def test_sparsity_is_the_share_of_entries_without_noise(sparsity, seeded):
    noise = torch.ones(2, 3, 100, 100)
    left = sparse_noise(noise, torch.tensor([1.0, 2.0]), sparsity, seeded(1))
    assert ((left == 0).float().mean() - sparsity).abs() < 5 * 0.5 / noise.numel() ** 0.5
    assert set(left[1].unique().tolist()) <= {0.0, 2.0}


def test_noise_levels_are_beta_distributed_and_drawn_once_per_batch(seeded):
    drawn = draw_levels(20000, seeded(1))
    assert drawn.shape == (20000, 2)
    # Beta(2, 5): mean 2/7, variance 10/392
    assert (drawn.mean(0) - 2 / 7).abs().max() < 5 * (10 / 392 / 20000) ** 0.5
    torch.testing.assert_close(drawn.var(0), torch.full((2,), 10 / 392), rtol=0.05, atol=0)
    assert torch.corrcoef(drawn.T)[0, 1].abs() < 5 / 20000**0.5


def test_without_per_image_all_rows_share_the_noise_level(make_net, images, one_hot, rng):
    x = torch.zeros(6, 3, 64, 64)
    net = make_net("cnn")
    for per_image, spread in ((False, (0.9, 1.1)), (True, (1.3, 1e9))):
        mixed, _ = load("noisymix", per_image=per_image).mix(net, x, one_hot(), rng)
        loudness = mixed.std((1, 2, 3))
        assert spread[0] < loudness.max() / loudness.min() < spread[1]


@pytest.mark.parametrize("per_image, count", [(False, 1), (True, 6)])
@pytest.mark.parametrize("layer", [0, 2])
def test_per_image_draws_noise_levels_per_row(layer, per_image, count, make_net, images, one_hot, rng, monkeypatch):
    method, given = load("noisymix", layers=(layer,), per_image=per_image), []
    noise = method.noise
    monkeypatch.setattr(method, "noise", lambda h, level, rng: given.append(level) or noise(h, level, rng))
    method(make_net("cnn"), images(), one_hot(), rng)
    assert len(given[0].unique(dim=0)) == count


def test_skipped_rows_have_no_noise(make_net, images, rng):
    given = []

    def remember(logits, y):
        given.append((logits.detach(), y))
        return logits.sum(1)

    net = make_net("cnn", loss=remember)
    net.model.eval()
    x, y = images(40), torch.eye(40)
    load("noisymix", layers=(2,), per_image=True, prob=0.5)(net, x, y, rng)
    logits, target = given[0]
    spared = (target == y).all(1)
    assert 5 < spared.sum() < 35
    same = torch.isclose(logits, net(x).detach(), atol=1e-5).all(1)
    assert torch.equal(same, spared)


@pytest.mark.parametrize("kind", KINDS)
def test_all_layers_are_drawn_and_one_at_a_time(kind, make_net, images, one_hot, rng):
    net, method, hooked = make_net(kind), load("noisymix"), []
    for known in net.architecture.layers:
        known.module.register_forward_hook(lambda module, *_: hooked.append(len(module._forward_hooks) - 1))
    drawn = []
    for _ in range(60):  # a layer is missed with probability 4 (3/4)^60, one in 8 million
        hooked.clear()
        method(net, images(2), one_hot(2), rng)
        assert sum(hooked) <= 1
        drawn.append(hooked.index(1) + 1 if 1 in hooked else 0)
    assert set(drawn) == {0, 1, 2, 3}


@pytest.mark.parametrize("layer", [0, 2])
def test_gradient_reaches_both_images_of_a_pair(layer, make_net, images, one_hot, rng):
    def first_row_only(logits, y):
        return (y * logits.log_softmax(-1)).sum(-1) * (torch.arange(len(y)) == 0)

    net = make_net("cnn", loss=first_row_only)
    net.model.eval()
    x = images().requires_grad_()
    load("noisymix", layers=(layer,), pairing="halves")(net, x, one_hot(), rng)["mix"].backward()
    assert x.grad.flatten(1).abs().sum(1).gt(0).tolist() == [True, False, False, True, False, False]


def test_hidden_states_keep_their_dtype_and_noise_is_float32():
    h = torch.randn(3, 4, 5, 5).bfloat16()
    noise = torch.randn(3, 4, 5, 5)
    mixed, _ = noisymix(h, torch.full((3,), 0.3), PARTNER, noise, noise)
    wide, _ = noisymix(h.float(), torch.full((3,), 0.3), PARTNER, noise, noise)
    assert mixed.dtype == torch.bfloat16 and torch.equal(mixed, wide.bfloat16())


@pytest.mark.parametrize(
    "wrong",
    [
        {"add_noise": -1.0},
        {"mult_noise": math.nan},
        {"sparsity": 2.0},
        {"layers": ()},
        {"jsd_weight": -1.0},
        {"std": (1.0,)},
    ],
)
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        load("noisymix", **wrong)


def test_a_stage_number_above_the_networks_is_rejected_at_build(make_net):
    with pytest.raises(ValueError, match="9.*has 4 stages.*up to 4"):
        load("noisymix", layers=(0, 9)).build(make_net("cnn"))


def test_a_network_without_stages_is_rejected_with_its_name():
    with pytest.raises(ValueError, match="noisymix requires a list of stages.*Sequential"):
        load("noisymix").build(Net(nn.Sequential(nn.Flatten(), nn.Linear(48, 5))))


# With a divergence of three views


def test_with_weight_zero_there_are_no_views(make_net, images, one_hot, rng):
    net, sizes = make_net("cnn"), []
    net.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert set(load("noisymix")(net, images(), one_hot(), rng)) == {"mix"}
    assert set(load("noisymix", jsd_weight=12.0)(net, images(), one_hot(), rng)) == {"mix", "jsd"}
    assert sizes == [6, 18]


@pytest.mark.parametrize("per_image", [False, True])
def test_all_views_are_mixed_in_the_same_way_and_the_images_have_the_mixed_loss(
    per_image, make_net, images, one_hot, rng
):
    """For layer 0 without noise, so that the network's input is known."""
    given, net, method = (
        [],
        make_net("cnn"),
        load("noisymix", layers=(0,), jsd_weight=1.0, per_image=per_image, **QUIET),
    )
    net.model.eval()
    net.model.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    lam, partner, spared = torch.rand(6, generator=rng), torch.tensor([1, 2, 3, 4, 5, 0]), torch.zeros(6)
    views = method.views(images(), spared, 3, rng)
    method.mixed_logits(net, views, 0, lam, partner, spared, rng)
    for view, mixed in zip(views.chunk(3), given[0].chunk(3), strict=True):
        torch.testing.assert_close(mixed, mixup(view, lam, partner)[0])
    assert torch.equal(views[:6], images()) and not torch.equal(views[6:12], views[12:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_the_two_losses_are_of_the_same_pass(kind, layer, make_net, images, one_hot, rng):
    net, seen = make_net(kind), []
    net.model.register_forward_hook(lambda _, args, output: seen.append(output.float()))
    losses = load("noisymix", layers=(layer,), jsd_weight=2.0, alpha=0.0)(net, images(), one_hot(), rng)
    logits = seen[0].chunk(3)
    torch.testing.assert_close(losses["mix"], net.loss(logits[0], one_hot()))
    torch.testing.assert_close(losses["jsd"], 2 * jensen_shannon(*logits).mean())
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_later_views_have_more_additive_noise(make_net, rng):
    """On images of zeros only additive noise has an effect; averaged over draws, since each view has its own level."""
    given, net = [], make_net("cnn")
    net.model.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    method, black = load("noisymix", layers=(0,), jsd_weight=1.0, per_image=True), torch.zeros(60, 3, 16, 16)
    method(net, black, torch.eye(5)[torch.arange(60) % 5], rng)
    loudness = torch.stack([view.std((1, 2, 3)).mean() for view in given[0].chunk(3)])
    torch.testing.assert_close(loudness, 0.4 * 2 / 7 * torch.tensor([1.0, 2, 3]), rtol=0.35, atol=0)


def test_views_of_skipped_rows_are_the_images(make_net, images, rng):
    given, net = [], make_net("cnn")
    net.model.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    x = images(40)
    method = load("noisymix", layers=(0,), jsd_weight=1.0, per_image=True, prob=0.5)
    method(net, x, torch.eye(5)[torch.arange(40) % 5], rng)
    left = [(view == x).flatten(1).all(1) for view in given[0].chunk(3)]
    assert 5 < left[0].sum() < 35 and torch.equal(left[0], left[1]) and torch.equal(left[0], left[2])


def test_a_step_with_views_runs_under_autocast(make_net, images, one_hot, rng):
    net = make_net("cnn")
    net.precision = torch.bfloat16
    losses = load("noisymix", jsd_weight=12.0, sparsity=0.65)(net, images(5), one_hot(5), rng)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_a_step_with_views_does_not_read_values_on_the_host(make_net, images, one_hot, rng, watch):
    net, x, y = make_net("cnn"), images(), one_hot()
    with watch(x, y):
        sum(load("noisymix", jsd_weight=12.0, per_image=True, prob=0.75)(net, x, y, rng).values()).backward()


def test_mean_and_std_are_only_checked_with_views(images, one_hot, rng):
    grey, told = images(channels=1), {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    load("noisymix", **told).mix(None, grey, one_hot(), rng)
    with pytest.raises(ValueError, match="3 channels, but the images have 1"):
        load("noisymix", jsd_weight=1.0, **told).mix(None, grey, one_hot(), rng)


def test_float64_images_are_mixed_in_float64(seeded, one_hot):
    x = torch.full((6, 3, 4, 4), 1 / 3, dtype=torch.float64)
    mixed, _ = load("noisymix", add_noise=0.0, mult_noise=0.0).mix(None, x, one_hot(), seeded(0))
    assert torch.equal(mixed, x)
