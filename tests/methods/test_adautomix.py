"""AdAutoMix: masks for several images, adversarial steps, and which networks each loss trains."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods._mixblock import ShareBlock
from hf_mixup.methods.adautomix import adautomix, combine, weighted_cosine

KINDS = ("cnn", "vit")
SIZE = (32, 32)  # so that the CNN's map has more than one cell
INDEX = torch.tensor([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
LAM = torch.tensor([[0.5, 0.3, 0.2]]).expand(3, 3)


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


GOLDEN = {  # the second row of pixels of the first two rows' first two shares
    (3, False): [0.255712, 0.247537, 0.230184, 0.2211, 0.375881, 0.40026, 0.450384, 0.475882]
    + [0.375881, 0.40026, 0.450384, 0.475882, 0.368407, 0.352203, 0.319432, 0.303017],
    (3, True): [0.286298, 0.291717, 0.300984, 0.304738, 0.480907, 0.462436, 0.425257, 0.406652]
    + [0.546568, 0.526784, 0.486303, 0.465731, 0.155617, 0.168141, 0.195219, 0.209757],
    (2, True): [0.679276, 0.678568, 0.677148, 0.676437, 0.686947, 0.676642, 0.655517, 0.644713]
    + [0.320724, 0.321432, 0.322852, 0.323563, 0.313053, 0.323358, 0.344483, 0.355287],
    (2, False): [0.500552, 0.498941, 0.495719, 0.494109, 0.445402, 0.451702, 0.464347, 0.470688]
    + [0.499448, 0.501059, 0.504281, 0.505891, 0.554598, 0.548298, 0.535653, 0.529312],
}


def authors_block(lam_channel):
    block = ShareBlock(4, lam_channel)
    for parameter, frequency in zip(block.parameters(), (0.7, 0.3, 1.3, 0.4, 1.1, 0.9)):
        parameter.data = pattern(parameter.shape, frequency)
    return block


@pytest.fixture
def built(make_net):
    def build(kind="cnn", loss=None, **hyperparameters):
        net = make_net(kind, SIZE, **({"loss": loss} if loss else {}))
        method = load("adautomix", **hyperparameters)
        method.build(net)
        return net, method.train()

    return build


def with_gradient(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize("count, lam_channel", GOLDEN)
def test_the_generator_matches_the_authors(count, lam_channel):
    """JinXins/Adversarial-AutoMixup at 9d6fd12, heads/Ada_mix_pine.py: AdaptiveMask(4, lam_concat=lam_channel,
    unsampling_mode="bilinear", scale_factor=2) with these weights, called with ([z, z[[1, 2, 0]], z[[2, 0, 1]]],
    [0.5, 0.3, 0.2]) or, for two, ([z, z[[1, 2, 0]]], 0.3): `out["mask"][:2, :2, 1]`, its mmcv convolutions replaced by
    nn.Conv2d and ReLU."""
    lam = LAM if count == 3 else torch.tensor([[0.3, 0.7]]).expand(3, 2)
    shares = authors_block(lam_channel)(2 * pattern((3, 4, 2, 2), 2.3), lam, INDEX[:, :count], (4, 4))
    torch.testing.assert_close(
        shares[:2, :2, 1].transpose(0, 1).flatten(), torch.tensor(GOLDEN[count, lam_channel]), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(shares.sum(1), torch.ones(3, 4, 4))


def test_without_lam_channel_the_generator_is_symmetric():
    z, block = 2 * pattern((3, 4, 2, 2), 2.3), authors_block(False)
    shares = block(z, LAM, INDEX, (4, 4))
    torch.testing.assert_close(block(z, LAM, INDEX.flip(1), (4, 4)), shares.flip(1))


WEIGHT = pattern((5, 12), 0.7)


class Linear(torch.nn.Module):
    """An encoder that is a linear layer."""

    def forward(self, x):
        return x.flatten(1) @ WEIGHT.T


def test_the_generators_objectives_match_the_authors(built):
    """The same repository, classifiers/AdAutoMix.py: AdAutoMix.co_mixup with masks
    `pattern((3, 3, 2, 2), 1.9).softmax(1)`, and forward_k with a linear encoder and head: its loss 4.690328, its cosine
    -0.121962, and on adversarial steps -0.3 * loss + 0.7 * cosine."""
    net, method = built(lam_margin=0.0)
    method.encoder, method.make_mask = Linear(), lambda *_: pattern((3, 3, 2, 2), 1.9).softmax(1)
    method.draw_index = lambda *_: INDEX
    x, y = 2 * pattern((3, 3, 2, 2), 2.3), torch.eye(5)[:3]
    for step, expected in ((0, -1.492472), (1, 4.690328), (2, -1.492472)):
        method.step = step
        losses = method.adversarial_generator_losses(net, x, y, None, LAM, None)
        assert losses["generator"].item() == pytest.approx(expected, abs=1e-5)
    method.step, method.cosine_sign = 0, -1
    flipped = method.adversarial_generator_losses(net, x, y, None, LAM, None)["generator"]
    assert flipped.item() == pytest.approx(-0.3 * 4.690328 + 0.7 * 0.121962, abs=1e-5)


def test_images_are_mixed_as_the_authors_do():
    """Numbers from AdAutoMix.co_mixup, as above: `img_mix_mb[:, 0]`."""
    expected = [0.426529, 0.059041, -0.882565, -0.144994, 0.877815, 0.538221, 0.769851, 1.220479]
    expected += [-0.223398, -0.512864, -0.499836, 0.640507]
    x, shares = 2 * pattern((3, 3, 2, 2), 2.3), pattern((3, 3, 2, 2), 1.9).softmax(1)
    mixed, mix = combine(x, shares, LAM, INDEX)
    torch.testing.assert_close(mixed[:, 0].flatten(), torch.tensor(expected), atol=2e-6, rtol=0)
    assert torch.equal(mix.mask, shares[:, :2]) and torch.equal(mix.weight, LAM) and torch.equal(mix.index, INDEX)


@pytest.mark.parametrize("first, even", [(0.02, True), (0.98, True), (0.5, False), (0.04, False)])
def test_images_are_mixed_uniformly_where_the_first_share_is_extreme(first, even):
    """For three images the authors' rule uses the first share only."""
    x, shares = torch.randn(3, 3, 2, 2), torch.rand(3, 3, 2, 2).softmax(1)
    lam = torch.tensor([[first, (1 - first) / 4, (1 - first) * 3 / 4]]).expand(3, 3)
    mixed, mix = adautomix(x, shares, lam, INDEX, 0.03)
    plain = sum(lam[:, k, None, None, None] * x[INDEX[:, k]] for k in range(3))
    assert torch.allclose(mixed, plain, atol=1e-6) == even
    assert torch.equal(mix.mask, lam[:, :2, None, None].expand(-1, -1, 2, 2)) == even


def test_similarity_is_one_for_parallel_logits():
    logits = torch.randn(3, 5)
    _, mix = combine(torch.randn(3, 3, 2, 2), torch.ones(3, 3, 1, 1), torch.eye(3)[[0, 0, 0]], INDEX)
    assert weighted_cosine(2 * logits, logits, mix).item() == pytest.approx(1)
    assert weighted_cosine(-logits, logits, mix).item() == pytest.approx(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count, step", [(3, 0), (3, 1), (2, 0)])
def test_the_generator_loss_trains_only_the_generator(kind, count, step, built, images, one_hot, rng):
    net, method = built(kind, images=count)
    method.step = step
    losses = method(net, images(size=SIZE), one_hot(), rng)
    assert set(losses) == {"mix", "onehot", "generator"} | ({"linear"} if count > 2 else set())
    losses["generator"].backward()
    assert with_gradient(method.generator) >= {"query.weight", "key.weight", "value.weight"}
    for other in (net, method.encoder, method.head, method.encoder_head):
        assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_networks_losses_do_not_train_the_generator(kind, built, images, one_hot, rng):
    net, method = built(kind)
    losses = method(net, images(size=SIZE), one_hot(), rng)
    (losses["mix"] + losses["onehot"] + losses["linear"]).backward()
    assert with_gradient(net) and with_gradient(method.head)
    for other in (method.generator, method.encoder, method.encoder_head):
        assert all(p.grad is None for p in other.parameters())


def test_the_weights_of_the_clean_and_the_linear_loss_sum_to_one(built, images, one_hot, seeded):
    values = []
    for weight in (0.0, 1.0, 0.25):
        net, method = built("vit", linear_weight=weight)
        values.append(method(net, images(size=SIZE), one_hot(), seeded(1)))
    torch.testing.assert_close(values[2]["onehot"], 0.75 * values[0]["onehot"])
    torch.testing.assert_close(values[2]["linear"], 0.25 * values[1]["linear"])
    assert values[0]["linear"] == 0 and values[1]["onehot"] == 0


def test_the_linear_loss_is_mixup_of_three(built, images, one_hot, seeded):
    net, method = built("vit", linear_weight=1.0, lam_margin=0.0)
    x, y = images(size=SIZE), one_hot()
    loss = method(net, x, y, seeded(1))["linear"]
    rng = seeded(1)
    lam, index = method.draw_shares(x, 3, rng), method.draw_index(x, 3, rng)
    plain = sum(lam[:, k, None, None, None] * x[index[:, k]] for k in range(3))
    target = sum(lam[:, k, None] * y[index[:, k]] for k in range(3))
    torch.testing.assert_close(loss, net.loss(net(plain), target))


def test_shares_are_normalised_beta_draws(built, images, seeded):
    _, method = built(per_image=True)
    lam = method.draw_shares(images(4000), 3, seeded(1))
    torch.testing.assert_close(lam.sum(1), torch.ones(4000))
    # three normalised uniform numbers: mean 1/3, variance 0.028 (Dirichlet: 0.056)
    assert (lam.mean(0) - 1 / 3).abs().max() < 5 * 0.168 / 4000**0.5
    uniform = torch.rand(400000, 3, generator=seeded(2))
    expected = (uniform / uniform.sum(1, keepdim=True)).var(0).mean()
    assert (lam.var(0).mean() / expected - 1).abs() < 0.1


def test_the_shares_of_a_pair_are_lam_and_1_minus_lam(built, images, seeded):
    _, method = built(images=2, per_image=True)
    lam = method.draw_shares(images(1000), 2, seeded(1))
    assert torch.equal(lam[:, 1], 1 - lam[:, 0]) and (lam[:, 0].mean() - 0.5).abs() < 5 * 0.289 / 1000**0.5


def test_draws_that_underflow_leave_the_row_unmixed(built, images, seeded):
    _, method = built(alpha=1e-6, per_image=True)
    lam = method.draw_shares(images(200), 3, seeded(1))
    assert lam.isfinite().all() and torch.allclose(lam.sum(1), torch.ones(200))


def test_network_and_generator_use_different_partners(built, images, one_hot, rng):
    net, method = built()
    drawn, draw = [], method.draw_index
    method.draw_index = lambda *args: drawn.append(draw(*args)) or drawn[-1]
    for _ in range(8):
        method(net, images(size=SIZE), one_hot(), rng)
    assert len(drawn) == 16 and any(not torch.equal(a, b) for a, b in zip(drawn[::2], drawn[1::2]))
    assert all(torch.equal(index[:, 0], torch.arange(6)) for index in drawn)


def test_the_number_of_images_is_the_same_on_all_ranks(built, images, one_hot, seeded):
    net, method = built(random_images=True)
    ran = []
    for process in range(2):
        steps = []
        for step in range(8):
            method.common_rng = seeded(step)
            steps.append("linear" in method(net, images(size=SIZE), one_hot(), seeded(100 * process + step)))
        ran.append(steps)
    assert ran[0] == ran[1] and 0 < sum(ran[0]) < 8


def test_skipped_rows_are_clean_in_every_loss_of_the_network(built, images, seeded):
    seen = []

    def remember(logits, y):
        seen.append(y)
        return -(y * logits.log_softmax(-1)).sum(-1)

    net, method = built(loss=remember, per_image=True, prob=0.5)
    method(net, images(12, SIZE), torch.eye(12)[:, :5], seeded(1))
    mixed, _, linear = seen[:3]
    assert torch.equal(mixed, linear)


def test_a_batch_smaller_than_the_number_of_images_is_mixed(built, images, one_hot, rng):
    net, method = built(images=4)
    mixed, mix = method.mix(net, images(2, SIZE), one_hot(2), rng)
    assert mix.index.shape == (2, 4) and mix.index.max() == 1


def test_the_mask_loss_is_off_by_default(built, images, one_hot, rng):
    net, method = built(mask_weight=0.1, mask_margin=0.0)
    assert method(net, images(size=SIZE), one_hot(), rng)["mask"] > 0


def test_batchnorm_of_the_network_is_updated_in_its_three_passes_only(built, images, one_hot, rng):
    net, method = built()
    method.step = 1
    method(net, images(size=SIZE), one_hot(), rng)
    assert net.model.bn1.num_batches_tracked == 3
    assert method.encoder.model.bn1.num_batches_tracked == 2  # features, mixed images
    method.step = 2
    method(net, images(size=SIZE), one_hot(), rng)
    assert method.encoder.model.bn1.num_batches_tracked == 5  # plus clean images in adversarial steps


def test_the_state_can_be_saved_and_loaded(built, images, one_hot, seeded):
    net, method = built()
    method.head.weight.data.add_(1)
    _, other = built()
    other.load_state_dict(method.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(method.state_dict().values(), other.state_dict().values()))
    mixed = [one.mix(net, images(size=SIZE), one_hot(), seeded(2))[0] for one in (method, other)]
    assert torch.equal(*mixed)


def test_the_generator_computes_in_float32_under_autocast():
    block, z = ShareBlock(8, True), torch.randn(3, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        shares = block(z.bfloat16(), LAM, INDEX, (8, 8))
    assert shares.dtype == torch.float32 and torch.equal(shares, block(z.bfloat16().float(), LAM, INDEX, (8, 8)))


@pytest.mark.parametrize(
    "wrong",
    [{"images": 1}, {"adversarial_every": 0}, {"adversarial_weight": 1.5}, {"cosine_sign": 0}, {"pairing": "flip"}],
)
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong):
    with pytest.raises(ValueError, match=f"AdAutoMix.*{next(iter(wrong.values()))}"):
        load("adautomix", **wrong)
