"""PatchUp: blocks of hidden features."""

import pytest
import timm
import torch
from torch import nn

from hf_mixup import Net, load
from hf_mixup.methods.patchup import block_prob, block_size, blocks, patchup

KINDS = ("cnn", "vit")
PARTNER = torch.tensor([1, 2, 0])


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


GOLDEN = {  # by lam inside the blocks: three rows of the first channel of the first map, two of its second channel
    0.3: [0.841471, 0.42738, 0.349476, 0.155756, -0.389611, -0.075151]
    + [-0.979178, -0.048719, -0.391323, 0.149555, 0.35278, 0.751574]
    + [0.557314, 0.315406, 0.209544, -0.369405, -0.114347, 0.39887]
    + [-0.59064, -0.304879, -0.223418, 0.362454, -0.114785, 0.9999]
    + [-0.14288, 0.403167, -0.075913, -0.383605, -0.613266, -0.704279],
    0.0: [0.841471, 0.42738, 0.907081, 0.300578, -0.984535, -0.075151]
    + [-0.979178, -0.209945, -0.942514, 0.452815, 0.825823, 0.751574]
    + [0.557314, 0.834232, 0.439335, -0.947446, -0.19518, 0.99774]
    + [-0.59064, -0.811104, -0.475524, 0.933643, -0.114785, 0.9999]
    + [-0.14288, 0.988702, -0.276043, -0.917568, -0.613266, -0.704279],
}
UNCHANGED, TARGETS = 0.347222, {0.3: (0.543056, 0.456944), 0.0: (0.347222, 0.652778)}


@pytest.mark.parametrize("lam", [0.3, 0.0])
def test_the_result_matches_the_authors(lam):
    """Numbers from chandar-lab/PatchUp, modules/patchup.py at 31133f3: PatchUp(block_size=3, gamma=0.5)(x, eye(3),
    lam=0.3, patchup_type=...), SOFT for 0.3 and HARD for 0, with these centres in place of its draw and the pairing
    [1, 2, 0]: the output, and the first row of `target_reweighted`. There `gamma_adj` is 0.125 and the unchanged share
    0.347222."""
    h, centres = pattern((3, 2, 6, 6), 1.7), pattern((2, 6, 6), 2.3) > 0.95
    mixed, mix = patchup(h, blocks(centres[None], 3), torch.full((3,), lam), PARTNER)
    found = torch.cat([mixed[0, 0, :3].flatten(), mixed[0, 1, :2].flatten()])
    torch.testing.assert_close(found, torch.tensor(GOLDEN[lam]), atol=2e-6, rtol=0)
    torch.testing.assert_close(mix(torch.eye(3))[0, :2], torch.tensor(TARGETS[lam]), atol=2e-6, rtol=0)
    assert 1 - blocks(centres[None], 3).mean().item() == pytest.approx(UNCHANGED, abs=1e-6)
    assert block_prob(0.5, 3, (6, 6)) == pytest.approx(0.125)


@pytest.mark.parametrize("side, chance", [(32, 0.015457), (16, 0.026122)])
def test_the_block_probability_depends_on_the_map_size(side, chance):
    assert block_prob(0.5, 7, (side, side)) == pytest.approx(chance, abs=1e-6)


@pytest.mark.parametrize(
    "size, side", [((32, 32), 7), ((16, 16), 7), ((14, 14), 7), ((12, 32), 5), ((8, 8), 3), ((2, 2), 1), ((1, 1), 1)]
)
def test_blocks_are_odd_and_at_most_half_of_the_map(size, side):
    assert block_size(7, size) == side


def test_blocks_are_whole_and_have_the_expected_share():
    rng = torch.Generator().manual_seed(0)
    chance = block_prob(0.25, 7, (32, 32))
    holes = blocks(torch.rand(1, 4000, 32, 32, generator=rng) < chance, 7)
    # away from the border, a position is in a block if one of the 49 positions around it is a centre
    assert holes[..., 16, 16].mean().item() == pytest.approx(1 - (1 - chance) ** 49, abs=5 * 0.5 / 4000**0.5)
    [row, column] = (blocks(torch.eye(9)[4][None, None] * torch.eye(9)[4][:, None], 7)[0] > 0).nonzero().aminmax(dim=0)
    assert row.tolist() == [1, 1] and column.tolist() == [7, 7]


def test_features_outside_blocks_are_not_changed():
    h = torch.randn(3, 4, 8, 8)
    holes = blocks(torch.rand(1, 4, 8, 8) < 0.05, 3).expand(3, -1, -1, -1)
    for lam in (0.0, 0.4):
        mixed, mix = patchup(h, holes, torch.full((3,), lam), PARTNER)
        assert torch.equal(mixed[holes == 0], h[holes == 0])
        inside = lam * h + (1 - lam) * h[PARTNER]
        torch.testing.assert_close(mixed[holes == 1], inside[holes == 1])
        torch.testing.assert_close(mix(torch.eye(3)).sum(1), torch.ones(3))


def one_layer(layer, **args):
    return load("patchup", layers=(layer,), **args)


def maps_of(net, method, x, y, rng, layer):
    """The clean output of a layer, and the input of the next one."""
    clean, given = [], []
    modules = [known.module for known in net.architecture.layers]
    handles = [
        modules[layer].register_forward_hook(lambda m, args, out: clean.append(out.detach())),
        modules[layer + 1].register_forward_pre_hook(lambda m, args: given.append(args[0].detach())),
    ]
    method(net, x, y, rng)
    for handle in handles:
        handle.remove()
    return clean[0], given[0]


def test_blocks_differ_between_channels_but_not_between_images(make_net, images, one_hot, rng):
    net = make_net("cnn", (64, 64))
    clean, given = maps_of(net, one_layer(1, mode="hard"), images(size=(64, 64)), one_hot(), rng, 0)
    changed = clean != given
    assert changed.any() and not torch.equal(changed[0, 0], changed[0, 1])
    # relu gives equal zeros: a position changes unless both images are zero there
    both_zero = (clean == 0).float().mean() > 0
    holes = changed.any(0)
    assert both_zero and changed[:, ~holes].sum() == 0
    assert changed[:, holes].float().mean() > 0.5


def test_per_image_draws_blocks_per_image(make_net, images, one_hot, rng):
    net = make_net("vit", (32, 32))
    method = one_layer(1, mode="hard", per_image=True)
    clean, given = maps_of(net, method, images(size=(32, 32)), one_hot(), rng, 0)
    changed = (clean != given)[:, 1:]
    assert not torch.equal(changed[0], changed[1])
    net = make_net("vit", (32, 32))
    clean, given = maps_of(net, one_layer(1, mode="hard"), images(size=(32, 32)), one_hot(), rng, 0)
    changed = (clean != given)[:, 1:]
    assert changed.any() and torch.equal(changed[0], changed[1])


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_hard_blocks_are_the_partners_and_soft_ones_are_mixed(mode, make_net, images, one_hot, rng):
    net = make_net("vit", (32, 32))
    method = one_layer(1, mode=mode, pairing="flip")
    clean, given = maps_of(net, method, images(size=(32, 32)), one_hot(), rng, 0)
    changed = clean != given
    assert changed.any() and torch.equal(given[changed], clean.flip(0)[changed]) == (mode == "hard")


def test_class_tokens_are_not_changed(make_net, images, one_hot, rng):
    net = make_net("vit")
    clean, given = maps_of(net, one_layer(2), images(), one_hot(), rng, 1)
    assert torch.equal(clean[:, 0], given[:, 0]) and not torch.equal(clean[:, 1:], given[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_papers_terms_are_twice_the_loss_of_the_mixed_targets(kind, layer, make_net, images, one_hot, seeded):
    """u CE(y) + (1 - u) CE(y_b) + CE(W), with the logits and the share of the step itself."""
    given = []

    def remember(logits, y):
        given.append((logits, y))
        return -(y * logits.log_softmax(-1)).sum(-1)

    net = make_net(kind, loss=remember)
    losses = one_layer(layer, mode="hard", pairing="halves")(net, images(), torch.eye(6)[:, :5], seeded(1))
    logits, target = given[0]
    share, cross = target[0, 0], -logits.log_softmax(-1)
    y = torch.eye(6)[:, :5]
    terms = share * (y * cross).sum(1) + (1 - share) * (y.roll(3, 0) * cross).sum(1) + (target * cross).sum(1)
    torch.testing.assert_close(sum(losses.values()), terms.mean())


def test_batches_that_prob_skips_have_the_plain_loss(make_net, images, one_hot, rng):
    net = make_net("vit")
    losses = load("patchup", prob=0.0)(net, images(), one_hot(), rng)
    assert set(losses) == {"mix"} and torch.equal(losses["mix"], net.loss(net(images()), one_hot()))


@pytest.mark.parametrize("kind", KINDS)
def test_layer_zero_is_exactly_cutmix(kind, make_net, images, one_hot, rng):
    net = make_net(kind)
    net.model.eval()
    state = rng.get_state()
    torch.randint(1, (), generator=rng)  # consume the draw of the layer
    expected = load("cutmix")(net, images(), one_hot(), rng)["mix"]
    rng.set_state(state)
    assert torch.equal(one_layer(0, mode="hard")(net, images(), one_hot(), rng)["mix"], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_gradient_reaches_both_images_of_a_pair(kind, mode, make_net, images, rng):
    def first_row_only(logits, y):
        return (y * logits.log_softmax(-1)).sum(-1) * (torch.arange(len(y)) == 0)

    net = make_net(kind, (64, 64), loss=first_row_only)
    net.model.eval()
    x = images(size=(64, 64)).requires_grad_()
    one_layer(1, mode=mode, pairing="halves")(net, x, torch.eye(6)[:, :5], rng)["mix"].backward()
    assert x.grad.flatten(1).abs().sum(1).gt(0).tolist() == [True, False, False, True, False, False]


def test_without_blocks_it_is_the_plain_step(make_net, images, one_hot, rng):
    net = make_net("cnn")
    net.model.eval()
    loss = one_layer(1, gamma=0.0)(net, images(), one_hot(), rng)["mix"]
    torch.testing.assert_close(loss, net.loss(net(images()), one_hot()))


def test_maps_of_swin_have_blocks(images, one_hot, rng):
    torch.manual_seed(0)
    args = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
    net = Net(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **args))
    clean, given = maps_of(net, one_layer(1, mode="hard"), images(size=(32, 32)), one_hot(), rng, 0)
    changed = (clean != given)[0]
    assert clean.shape == given.shape and not torch.equal(changed[..., 0], changed[..., 1])


@pytest.mark.parametrize("wrong", [{"mode": "firm"}, {"gamma": 1.5}, {"block": 0}, {"layers": (-1,)}])
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong):
    value = str(next(iter(wrong.values()))).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=value):
        load("patchup", **wrong)


def test_a_stage_number_above_the_networks_is_rejected_at_build(make_net):
    with pytest.raises(ValueError, match="9.*has 4 stages.*up to 4"):
        load("patchup", layers=(0, 9)).build(make_net("cnn"))


def test_a_network_without_stages_is_rejected_with_its_name():
    with pytest.raises(ValueError, match="patchup requires a list of stages.*Sequential"):
        load("patchup").build(Net(nn.Sequential(nn.Flatten(), nn.Linear(48, 5))))
