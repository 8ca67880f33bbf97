"""SAMix: the generator compared with the authors', the mask loss, and which networks each loss trains."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods._mixblock import SceneBlock, hinge, lam_curve, variance

KINDS = ("cnn", "vit")
SIZE = (32, 32)  # so that the CNN's map has more than one cell


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


GOLDEN = {  # the second row of pixels of three masks
    0.25: [0.154524, 0.174489, 0.220404, 0.17913, 0.08859, 0.060921]
    + [0.119103, 0.272193, 0.741031, 0.744047, 0.281667, 0.125883]
    + [0.797259, 0.702102, 0.458467, 0.289537, 0.208163, 0.174332],
    -1: [0.154753, 0.174678, 0.220476, 0.17953, 0.089256, 0.061551]
    + [0.119633, 0.273006, 0.741455, 0.740539, 0.270173, 0.117637]
    + [0.794172, 0.694488, 0.441037, 0.282044, 0.219089, 0.191653],
}
LOSSES = {0.25: (-0.104221, 0.283375), -1: (-0.100803, 0.292136)}


@pytest.fixture
def built(make_net):
    def build(kind="cnn", **hyperparameters):
        net = make_net(kind, (32, 32))
        method = load("samix", **hyperparameters)
        method.build(net)
        return net, method.train()

    return build


def with_gradient(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("k", [0.25, -1])
def test_the_generator_matches_the_authors(k):
    """Westlake-AI/openmixup at 37e1372, heads/pmix_block.py: PixelMixBlock(4, unsampling_mode="bilinear", lam_mul=True,
    lam_residual=True, lam_mul_k=k, x_qk_concat=True, mask_loss_mode="L1+Variance", mask_loss_margin=0.1) with the value
    network of its SAMix configs (2 hidden channels) and these weights, called with (z, 0.3, [1, 2, 0], 2):
    `out["mask"][:, 0, 1]`, its mmcv convolutions replaced by nn.Conv2d; and mask_loss(out["mask"], lam) for lam 0.3 and
    0.8."""
    block = SceneBlock(4, k)
    weights = [block.query.weight, block.query.bias, block.key.weight, block.key.bias]
    for parameter, frequency in zip(weights, (0.7, 0.3, 1.3, 0.4)):
        parameter.data = pattern(parameter.shape, frequency)
    block.value[0].weight.data = pattern(block.value[0].weight.shape, 1.1)
    block.value[3].weight.data = 3 * pattern(block.value[3].weight.shape, 0.9)
    mask = block(2 * pattern((3, 4, 2, 3), 2.3), torch.tensor(0.3), torch.tensor([1, 2, 0]), (4, 6))
    torch.testing.assert_close(mask[:, 0, 1].flatten(), torch.tensor(GOLDEN[k]), atol=2e-6, rtol=0)
    for lam, expected in zip((0.3, 0.8), LOSSES[k]):
        lam = torch.tensor([lam])
        loss = hinge(mask, lam, 0.1) - 2 * variance(mask, lam)
        assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "k, lam, expected",
    [(0.25, (0.1, 0.25, 0.5, 0.75, 0.9), (0.1823, 0.3571, 0.5, 0.6429, 0.8177)), (1, (0.1, 0.25), (0.1360, 0.2969))],
)
def test_lam_curve_matches_the_paper(k, lam, expected):
    torch.testing.assert_close(lam_curve(torch.tensor(lam), k), torch.tensor(expected), atol=5e-5, rtol=0)


def test_lam_curve_keeps_0_and_half_and_1_and_a_negative_k_changes_nothing():
    lam = torch.linspace(0, 1, 11)
    for k in (0.0, 0.25, 1.0, 10.0):
        bent = lam_curve(lam, k)
        torch.testing.assert_close(bent[[0, 5, 10]], lam[[0, 5, 10]])
        torch.testing.assert_close(bent + bent.flip(0), torch.ones(11))
    assert torch.equal(lam_curve(lam, -1), lam)


def test_the_mask_loss_is_least_for_masks_of_zeros_and_ones(built):
    _, method = built(mask_weight=1.0)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    assert method.mask_loss(mask, torch.tensor([0.5])).item() == pytest.approx(-0.5)
    assert method.mask_loss(mask, torch.tensor([0.5, 0.5])).item() == pytest.approx(-0.5)
    assert method.mask_loss(torch.full_like(mask, 0.5), torch.tensor([0.5])).item() == pytest.approx(0)


def test_the_variance_of_a_row_with_its_own_lam_uses_its_own_mean():
    mask = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert variance(mask, torch.tensor([0.5])).item() == pytest.approx(0.25)
    assert variance(mask, torch.tensor([0.5, 0.5])).item() == 0


def test_the_cosine_schedule_applies_to_the_whole_mask_loss(built):
    _, method = built(mask_schedule="cosine")
    mask, lam = torch.rand(2, 1, 4, 4), torch.tensor([0.1])
    whole = method.mask_loss(mask, lam)
    method.step, method.total_steps = 50, 100
    torch.testing.assert_close(method.mask_loss(mask, lam), whole / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_losses_train_only_the_generator(kind, built, images, one_hot, rng):
    net, method = built(kind)
    losses = method(net, images(size=SIZE), one_hot(), rng)
    assert set(losses) == {"mix", "onehot", "generator", "mask"}
    (losses["generator"] + losses["mask"]).backward()
    assert with_gradient(method.generator) >= {"query.weight", "key.weight", "value.0.weight", "value.3.weight"}
    for other in (net, method.encoder, method.head, method.encoder_head):
        assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_losses_do_not_train_the_generator(kind, built, images, one_hot, rng):
    net, method = built(kind)
    losses = method(net, images(size=SIZE), one_hot(), rng)
    (losses["mix"] + losses["onehot"]).backward()
    assert with_gradient(net) and with_gradient(method.head)
    for other in (method.generator, method.encoder, method.encoder_head):
        assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_start_near_one_half(kind, built, images, one_hot, rng):
    net, method = built(kind, lam_margin=0.0)
    mask = method.mix(net, images(size=SIZE), one_hot(), rng)[1].mask
    assert mask.shape == (6, 1, 32, 32) and (mask > 0).all() and (mask < 1).all()
    assert (mask.mean() - 0.5).abs() < 0.05


def test_lam_changes_the_mask():
    block, z = SceneBlock(4), 2 * pattern((2, 4, 2, 2), 2.3)
    masks = [block(z, torch.tensor(lam), torch.tensor([1, 0]), (4, 4)) for lam in (0.2, 0.8)]
    assert (masks[0] - masks[1]).abs().max() > 1e-6


def test_dropout_uses_the_given_generator_and_only_in_training(seeded):
    block, partner = SceneBlock(4, dropout=0.5), torch.tensor([1, 0])
    arguments = 2 * pattern((2, 4, 4, 4), 2.3), torch.tensor(0.5), partner, (4, 4)
    dropped = [block(*arguments, seeded(seed)) for seed in (1, 1, 2)]
    assert torch.equal(dropped[0], dropped[1]) and not torch.equal(dropped[0], dropped[2])
    block.eval()
    assert torch.equal(block(*arguments, seeded(1)), block(*arguments, seeded(2)))
    value = torch.ones(1, 1, 100, 100)
    kept = block.drop(value, seeded(3))
    assert set(kept.unique().tolist()) == {0.0, 2.0} and abs(kept.mean() - 1) < 0.05  # five sigma


def test_dropout_uses_no_global_randomness(built, images, one_hot, rng):
    net, method = built(dropout=0.5)
    before = torch.get_rng_state()
    sum(method(net, images(size=SIZE), one_hot(), rng).values()).backward()
    assert torch.equal(before, torch.get_rng_state())


def test_the_generator_computes_in_float32_under_autocast():
    block, z = SceneBlock(8), torch.randn(2, 8, 4, 4)
    arguments = torch.tensor(0.5), torch.tensor([1, 0]), (8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mask = block(z.bfloat16(), *arguments)
    assert mask.dtype == torch.float32 and torch.equal(mask, block(z.bfloat16().float(), *arguments))


def test_the_state_can_be_saved_and_loaded(built, images, one_hot, seeded):
    net, method = built()
    method(net, images(size=SIZE), one_hot(), seeded(1))  # updates BatchNorm of the generator
    _, other = built()
    other.load_state_dict(method.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(method.state_dict().values(), other.state_dict().values()))
    mixed = [one.mix(net, images(size=SIZE), one_hot(), seeded(2))[0] for one in (method, other)]
    assert torch.equal(*mixed)


def test_a_momentum_of_one_freezes_generator_and_encoder_with_their_buffers(built, images, one_hot, rng):
    net, method = built(momentum=1.0)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    sum(method(net, images(size=SIZE), one_hot(), rng).values()).backward()
    method.after_step(net)
    assert not method.generator.training
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize(
    "wrong, said",
    [({"lam_channel": True}, "lam_k"), ({"dropout": 1.0}, "1.0"), ({"upsample": "cubic"}, "SAMix's upsample")],
)
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        load("samix", **wrong)
