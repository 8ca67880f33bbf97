"""PuzzleMix: the authors' numbers, and properties stated in the paper."""

import pytest
import torch

from hf_mixup import Net, load
from hf_mixup.methods._adversarial import PixelRange, attack, sign_step
from hf_mixup.methods.puzzlemix import block_shares, costs, puzzlemix

ROLLED = torch.tensor([1, 2, 0])


def example():
    """Three images of 8x8 pixels with peaked saliency, from formulas."""
    pixel = torch.arange(3 * 3 * 8 * 8, dtype=torch.float64).view(3, 3, 8, 8)
    place = torch.arange(3 * 8 * 8, dtype=torch.float64).view(3, 8, 8)
    x = (pixel * 0.37).sin() * (pixel * 0.011).cos()
    return x.float(), (place * 1.7).sin().square().pow(40).float()


def random_batch(count, size, rng, peak=6):
    return torch.rand(count, 3, *size, generator=rng), torch.rand(count, *size, generator=rng) ** peak


# The authors' code (snu-mllab/PuzzleMix, mixup.py at e2dbf3a) made the golden numbers:
#   mixup_graph(x, saliency, ROLLED, block_num=4, alpha=.6, beta=1.2, gamma=.5, eta=.2, neigh_size=4, n_labels=3,
#               mean=0, std=.5, transport=True, t_eps=.2, t_size=-1) on `example()`;
# KEEP, GIVE, DOWN, RIGHT are what it passes to graphcut_multi for image 0, before truncation. gco-wrapper's swap and an
# exact cut of its integer costs give the same labels here.
KEEP = [
    [0.184629, 0.011064, 0.000464, 0.014702],
    [0.001001, 0.000826, 0.082241, 0.113881],
    [0.176768, 0.024664, 0.04837, 0.147544],
    [0.150123, 0.047609, 0.000454, 0.002294],
]
GIVE = [
    [0.086765, 0.008063, 0.166563, 0.017337],
    [0.123938, 0.001824, 0.0007, 0.053318],
    [0.000528, 0.003244, 0.146086, 0.063876],
    [0.154499, 0.00507, 0.111965, 0.063327],
]
DOWN = [
    [0.01883, 0.018782, 0.018803, 0.01878],
    [0.018832, 0.018804, 0.018772, 0.018791],
    [0.018801, 0.018816, 0.018752, 0.018783],
]
RIGHT = [
    [0.018752, 0.018805, 0.018747],
    [0.018783, 0.018765, 0.018781],
    [0.018789, 0.018733, 0.018764],
    [0.018787, 0.018773, 0.018744],
]
TWICE_MASK = [
    [[0, 1, 2, 1], [2, 1, 1, 0], [0, 1, 2, 0], [1, 1, 2, 2]],
    [[2, 1, 1, 0], [0, 0, 2, 1], [2, 1, 2, 2], [2, 2, 1, 0]],
    [[0, 1, 0, 2], [1, 2, 1, 2], [2, 2, 0, 1], [0, 1, 0, 2]],
]
# the first pixel of each block of the first channel
CORNERS = [
    [-0.48319, -0.12247, 0.99492, 0.70629, -0.34977, -0.18945, 0.42122, 0.42146]
    + [-0.72574, -0.17363, 0.63133, 0.22390, -0.70796, -0.58957, 0.32002, 0.74965],
    [-0.48319, 0.10068, 0.24715, 0.08676, 0.10398, 0.25322, -0.06874, 0.27720]
    + [-0.72574, -0.33212, -0.35995, 0.22390, -0.65022, -0.88717, -0.36704, -0.10165],
    [0.00000, 0.51232, 0.99492, 0.08676, -0.12289, 0.25322, 0.59403, 0.13294]
    + [-0.00245, 0.07543, 0.63133, 0.48398, -0.76571, -0.13862, 0.32002, -0.10165],
]


def test_costs_match_the_authors():
    x, saliency = example()
    found = costs(x, block_shares(saliency, 4), ROLLED, 1.2, 0.5, 4, (0.5, 0.5, 0.5))
    for part, golden in zip(found, (KEEP, GIVE, DOWN, RIGHT)):
        torch.testing.assert_close(part[0], torch.tensor(golden), atol=1e-6, rtol=0)


def test_images_match_the_authors():
    x, saliency = example()
    options = dict(t_eps=0.2, std=(0.5, 0.5, 0.5))
    mixed, mix = puzzlemix(x, saliency, torch.tensor([0.6]), ROLLED, 4, **options)
    torch.testing.assert_close(mix.mask[:, 0, ::2, ::2] * 2, torch.tensor(TWICE_MASK).float())
    torch.testing.assert_close(mix.lam, torch.tensor([0.53125, 0.59375, 0.53125]))
    torch.testing.assert_close(mixed[:, 0, ::2, ::2].flatten(1), torch.tensor(CORNERS), atol=1e-5, rtol=0)
    still, _ = puzzlemix(x, saliency, torch.tensor([0.6]), ROLLED, 4, **options, transport=False)
    assert (mixed != still).any()


# The same call with noise=`wave(2.3)` of 10 / 255 and adv_mask1, adv_mask2: the sum of all pixels, and the first ones
NOISY = {
    (1, 0): (0.2833135, (-0.48319, -0.12247, 1.0, 0.71916, -0.41116, -0.21026, 0.40024, 0.42146)),
    (0, 1): (0.5267298, (-0.40643, -0.1188, 0.99492, 0.71141, -0.34977, -0.22832, 0.39739, 0.4887)),
    (1, 1): (0.6241163, (-0.40643, -0.1188, 1.0, 0.72428, -0.41116, -0.24913, 0.37641, 0.4887)),
}
# main.py's noise at its random start, clipped, and after its step, in 255ths: of 2x2 pixels
START = (10.0, -3.232897, -8.737372, -1.778092, -6.041374, -5.587768)
START += (1.40255, 8.916024, -2.700363, 9.98445, 7.042694, -8.994923)
STEP = (10.0, 8.767103, -10.0, 10.0, -10.0, -10.0, -10.0, -3.083976, -10.0, -2.01555, -4.957305, -10.0)
HALF = (0.5, 0.5, 0.5)


def wave(frequency, function=torch.sin):
    pixel = torch.arange(3 * 3 * 8 * 8, dtype=torch.float64).view(3, 3, 8, 8)
    return function(pixel * frequency).float()


@pytest.mark.parametrize("coins", NOISY)
def test_noisy_images_match_the_authors(coins):
    x, saliency = example()
    worse = PixelRange(HALF, HALF, x).add_noise(x, wave(2.3) * 10 / 255)
    sources = tuple(worse if coin else x for coin in coins)
    options = dict(t_eps=0.2, std=HALF, sources=sources)
    mixed, mix = puzzlemix(x, saliency, torch.tensor([0.6]), ROLLED, 4, **options)
    torch.testing.assert_close(mix.mask[:, 0, ::2, ::2] * 2, torch.tensor(TWICE_MASK).float())
    total, first = NOISY[coins]
    torch.testing.assert_close(mixed[0, 0, ::2, ::2].flatten()[:8], torch.tensor(first), atol=1e-5, rtol=0)
    assert abs(mixed.double().sum() - total) < 1e-4


def test_noise_matches_the_authors():
    x, start = example()[0][:1, :, :2, :2], wave(1.9, torch.cos)[:1, :, :2, :2] * 10 / 255
    start = PixelRange(HALF, HALF, x).clip_noise(x, start)
    torch.testing.assert_close(start.flatten() * 255, torch.tensor(START), atol=1e-4, rtol=0)
    noise = sign_step(start, wave(0.77)[:1, :, :2, :2], 10 / 255)
    torch.testing.assert_close(noise.flatten() * 255, torch.tensor(STEP), atol=1e-4, rtol=0)


def test_noise_increases_the_loss_and_is_bounded(make_net, images, one_hot, rng):
    net, x, y = make_net("cnn"), images() * 0.8 + 0.1, one_hot()
    net.model.eval()
    pixels = PixelRange((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), x)
    worse, slope = attack(x, lambda x: net.gradient(x, y), pixels, 8 / 255, rng)
    assert slope.shape == x.shape and 0 < (worse - x).abs().max() <= 8 / 255 + 1e-6
    assert net.loss(net(worse), y) > net.loss(net(x), y)


@pytest.mark.parametrize("per_image", [False, True])
def test_adv_prob_is_the_share_of_batches_with_noise(per_image, make_net, images, one_hot, seeded):
    net, x, y = make_net("cnn", (8, 8)), images(size=(8, 8)) * 0.8 + 0.1, one_hot()
    pixels = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    method = load("puzzlemix", grids=[4], adv_prob=0.3, per_image=per_image, **pixels)
    sides = torch.zeros(2)
    for seed in range(200):
        _, sources = method.saliency_and_sources(net, x, y, seeded(seed))
        sides += torch.stack([(side != x).flatten(1).any(1).float().mean() for side in sources])
    assert ((sides / 200 - 0.3).abs() < 5 * (0.3 * 0.7 / 200) ** 0.5).all()
    assert torch.equal(load("puzzlemix", **pixels).saliency_and_sources(net, x, y, seeded(0))[1][0], x)


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("blocks", [2, 4, 8, 16])
def test_lam_is_the_mean_of_the_mask_whose_levels_are_few(n_labels, blocks, rng):
    x, saliency = random_batch(5, (16, 32), rng)
    _, mix = puzzlemix(x, saliency, torch.rand(5, generator=rng), torch.arange(5).roll(1), blocks, n_labels=n_labels)
    assert mix.mask.shape == (5, 1, 16, 32)
    assert set(mix.mask.unique().tolist()) <= ({0.0, 1.0} if n_labels == 2 else {0.0, 0.5, 1.0})
    torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam)


@pytest.mark.parametrize("transport", [True, False])
def test_each_image_is_visible_where_it_is_salient(transport, images):
    x, saliency = images(2, (16, 16)), torch.full((2, 16, 16), 1e-3)
    saliency[0, :, :8] = 1
    saliency[1, :, 8:] = 1
    mixed, mix = puzzlemix(x, saliency, torch.tensor([0.5]), torch.tensor([1, 0]), 4, transport=transport)
    assert (mix.mask[0, 0, :, :8] == 1).all() and (mix.mask[0, 0, :, 8:] == 0).all()
    assert torch.equal(mix.mask[1], 1 - mix.mask[0])
    assert torch.equal(mixed[0], torch.cat([x[0, :, :, :8], x[1, :, :, 8:]], 2))
    assert torch.equal(mixed[0], mixed[1])


def test_without_transport_each_pixel_is_a_blend_in_place(rng):
    x, saliency = random_batch(6, (16, 16), rng)
    partner = torch.arange(6).roll(2)
    mixed, mix = puzzlemix(x, saliency, torch.tensor([0.4]), partner, 4, transport=False)
    torch.testing.assert_close(mixed, mix.mask * x + (1 - mix.mask) * x[partner])


def test_a_hidden_salient_block_moves_to_a_visible_place(images):
    """Both images are salient in the same block: one keeps it, the other's block moves next to it."""
    x, saliency = images(2, (8, 8)), torch.full((2, 8, 8), 1e-4)
    saliency[0, :2, :2], saliency[1, :2, :2] = 1.0, 0.8
    mixed, mix = puzzlemix(x, saliency, torch.tensor([0.5]), torch.tensor([1, 0]), 4, n_labels=2, beta=0.0)
    shown = x[0] if mix.mask[0, 0, 0, 0] == 1 else x[1]
    hidden = x[1] if mix.mask[0, 0, 0, 0] == 1 else x[0]
    assert torch.equal(mixed[0, :, :2, :2], shown[:, :2, :2])
    places = [mixed[0, :, row : row + 2, column : column + 2] for row in range(0, 8, 2) for column in range(0, 8, 2)]
    assert any(torch.equal(place, hidden[:, :2, :2]) for place in places)


@pytest.mark.parametrize("blocks", [4, 16])
def test_permuting_the_batch_permutes_the_result(blocks, rng):
    x, saliency = random_batch(7, (32, 32), rng)
    lam, partner = torch.rand(7, generator=rng), torch.randperm(7, generator=rng)
    order = torch.randperm(7, generator=rng)
    mixed, mix = puzzlemix(x, saliency, lam, partner, blocks)
    new_partner = order.argsort()[partner[order]]
    again, other = puzzlemix(x[order], saliency[order], lam[order], new_partner, blocks)
    assert torch.equal(again, mixed[order]) and torch.equal(other.lam, mix.lam[order])


def test_arguments_are_not_modified(rng):
    x, saliency = random_batch(3, (16, 16), rng)
    lam, partner = torch.rand(3, generator=rng), ROLLED.clone()
    puzzlemix(x, saliency, lam, partner, 4)
    assert [argument._version for argument in (x, saliency, lam, partner)] == [0] * 4


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_share_of_one_gives_the_whole_image(lam, rng):
    x, saliency = random_batch(4, (32, 32), rng, peak=30)
    partner = torch.arange(4).roll(1)
    mixed, mix = puzzlemix(x, saliency, torch.tensor([lam]), partner, 16)
    assert torch.equal(mixed, x if lam else x[partner]) and (mix.lam == lam).all()


@pytest.mark.parametrize("lam", [1e-38, 1e-6, 0.5, 1 - 1e-7])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30, torch.nan, torch.inf])
def test_any_saliency_and_lam_give_a_valid_mask(lam, scale, rng):
    x, saliency = random_batch(3, (8, 8), rng)
    mixed, mix = puzzlemix(x, saliency * scale, torch.tensor([lam]), ROLLED, 4)
    assert mixed.isfinite().all() and set(mix.mask.unique().tolist()) <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_mixed_in_float32(dtype, rng):
    x, saliency = random_batch(5, (16, 16), rng)
    x, lam, partner = x.to(dtype), torch.tensor([0.4]), torch.arange(5).roll(1)
    mixed, mix = puzzlemix(x, saliency, lam, partner, 8)
    wide, other = puzzlemix(x.float(), saliency, lam, partner, 8)
    assert mixed.dtype == dtype and mix.lam.dtype == torch.float32
    assert torch.equal(mixed, wide.to(dtype)) and torch.equal(mix.mask, other.mask)


def test_parts_of_blocks_move_on_a_finer_grid(rng):
    x, saliency = random_batch(4, (16, 16), rng, peak=40)
    lam, partner = torch.tensor([0.5]), torch.arange(4).roll(1)
    options = dict(t_eps=0.1)
    coarse, mix = puzzlemix(x, saliency, lam, partner, 4, **options)
    fine, other = puzzlemix(x, saliency, lam, partner, 4, t_size=2, **options)
    assert torch.equal(mix.mask, other.mask) and not torch.equal(coarse, fine)
    assert torch.equal(puzzlemix(x, saliency, lam, partner, 4, t_size=8, **options)[0], coarse)
    with pytest.raises(ValueError, match="4x4 pixels cannot be divided into parts of 3"):
        puzzlemix(x, saliency, lam, partner, 4, t_size=3)


def test_an_image_size_that_no_grid_divides_is_rejected(make_net, images, one_hot, rng):
    method, net = load("puzzlemix"), make_net("cnn", (15, 15))
    with pytest.raises(ValueError, match=r"15x15 pixels .* 2 or 4 or 8 or 16 .* give `grids`"):
        method.mix(net, images(4, (15, 15)), one_hot(4), rng)
    mixed, _ = load("puzzlemix", grids=[3, 5]).mix(net, images(4, (15, 15)), one_hot(4), rng)
    assert mixed.shape == (4, 3, 15, 15)


def test_grids_are_drawn_from_those_that_divide_the_image(seeded):
    method = load("puzzlemix")
    assert {method.grid((28, 28), seeded(seed)) for seed in range(40)} == {2, 4}
    assert {method.grid((32, 48), seeded(seed)) for seed in range(80)} == {2, 4, 8, 16}


def test_saliency_may_be_taken_of_smaller_images(make_net, images, one_hot, rng):
    net, x, y = make_net("cnn", (32, 32)), images(4, (32, 32)), one_hot(4)
    method = load("puzzlemix", saliency_scale=0.5)
    assert method.saliency(net, x, y).shape == (4, 16, 16)
    assert method.mix(net, x, y, rng)[0].shape == x.shape


def test_computing_scores_leaves_the_network_unchanged(resnet_model, images, one_hot, rng):
    net = Net(resnet_model((16, 16), channels=(8, 16, 32, 64))).train()
    x, y = images(5), one_hot(5)
    net.loss(net(x), y).backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    buffers = [buffer.clone() for buffer in net.buffers()]
    load("puzzlemix").mix(net, x, y, rng)
    assert all(torch.equal(parameter.grad, was) for parameter, was in zip(net.parameters(), gradients))
    assert all(torch.equal(buffer, was) for buffer, was in zip(net.buffers(), buffers))
    assert net.model.training and all(module.training for module in net.modules())


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_labels": 4},
        {"saliency_scale": 0},
        {"neigh_size": 0},
        {"grids": (1, 2)},
        {"adv_prob": 2.0},
        {"adv_prob": 0.1},
    ],
)
def test_invalid_hyperparameters_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        load("puzzlemix", **wrong)
