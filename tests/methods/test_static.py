"""Mixup, CutMix and ResizeMix: the authors' numbers, worked values, exactness, and torch.compile."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import timm.data
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from hf_mixup import load
from hf_mixup.methods.cutmix import cutmix
from hf_mixup.methods.mixup import mixup
from hf_mixup.methods.resizemix import patches, resizemix
from hf_mixup.ops.masks import boxes
from hf_mixup.ops.sampling import points

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs
COUNT = 40_000
ROLL = torch.tensor([1, 2, 3, 0])


def same(number, count=4):
    return torch.full((count,), number)


def pattern(shape, frequency=1.7):
    return torch.sin(torch.arange(math.prod(shape)) * frequency + 1.0).reshape(shape)


# facebookresearch/mixup-cifar10, train.py at eaff31a, mixup_data(pattern((3, 2, 2, 2)), eye(3)), its Beta draw being
# 0.3 and the pairing [1, 2, 0]: the first two images.
MIXUP = [0.878795, -0.262422, -0.811172, 0.471453, 0.689683, -0.649177, -0.522397, 0.783793]
MIXUP += [0.320423, -0.866362, -0.097171, 0.891402, -0.132534, -0.857249, 0.353438, 0.766172]


def test_mixup_gives_the_authors_numbers():
    mixed, mix = mixup(pattern((3, 2, 2, 2)), same(0.3, 3), torch.tensor([1, 2, 0]))
    torch.testing.assert_close(mixed[:2].flatten(), torch.tensor(MIXUP), atol=2e-6, rtol=0)
    torch.testing.assert_close(mix(torch.eye(3)), 0.3 * torch.eye(3) + 0.7 * torch.eye(3).roll(1, 1))


def timms(x, lam, monkeypatch, **arguments):
    """timm's Mixup of 4 classes, with `lam` as its Beta draw; partners are in reverse order."""
    monkeypatch.setattr(np.random, "beta", lambda *_: lam)
    return timm.data.Mixup(label_smoothing=0.0, num_classes=4, **arguments)(x.clone(), torch.arange(4))


def torchvisions(transform, x, lam):
    """torchvision's `transform` of 4 classes, with `lam` as its Beta draw; the partner is the previous row."""
    transform._dist = SimpleNamespace(sample=lambda shape: torch.tensor(lam))
    return transform(x.clone(), torch.arange(4))


def test_mixup_equals_timms_and_torchvisions(images, monkeypatch):
    x, before = images(4), torch.arange(4).roll(1)
    for lam in (0.3, 0.75):
        for partner, (mixed, y) in (
            (torch.arange(4).flip(0), timms(x, lam, monkeypatch)),
            (before, torchvisions(v2.MixUp(num_classes=4), x, lam)),
        ):
            ours, mix = mixup(x, same(lam), partner)
            torch.testing.assert_close(ours, mixed)
            torch.testing.assert_close(mix(torch.eye(4)), y)


def test_mixup_is_the_weighted_mean(images):
    x = images(4)
    mixed, mix = mixup(x, torch.tensor([0.1, 0.5, 0.9, 1.0]), ROLL)
    torch.testing.assert_close(mixed[0], 0.1 * x[0] + 0.9 * x[1])
    assert torch.equal(mixed[3], x[3])
    torch.testing.assert_close(mix.lam, torch.tensor([0.1, 0.5, 0.9, 1.0]))


def test_mixup_mixes_hidden_states_of_any_shape(rng):
    hidden = torch.rand(4, 7, 5, generator=rng)
    torch.testing.assert_close(mixup(hidden, same(0.25), ROLL)[0], 0.25 * hidden + 0.75 * hidden[ROLL])


def test_mixup_of_an_image_with_itself_changes_nothing(images):
    x = images(4)
    torch.testing.assert_close(mixup(x, same(0.3), torch.arange(4))[0], x)


# CutMix. clovaai/CutMix-PyTorch, train.py at 2d8eb68, rand_bbox and the lam after it, by image size, lam and the centre
# in place of its two draws: rows and columns of the box, and the share that is kept.

CUTMIX = [
    ((9, 14), 0.3, (2, 11), [0, 5, 6, 14], 0.68253968),
    ((9, 14), 0.75, (8, 0), [6, 9, 0, 3], 0.92857143),
    ((32, 32), 0.51, (16, 20), [5, 27, 9, 31], 0.52734375),
    ((7, 7), 0.05, (3, 3), [0, 6, 0, 6], 0.26530612),
    ((32, 32), 0.999, (0, 31), [0, 0, 31, 31], 1.0),
]


@pytest.mark.parametrize("size, lam, centre, box, kept", CUTMIX)
def test_cutmix_gives_the_authors_boxes(size, lam, centre, box, kept, images):
    x, (top, bottom, left, right) = images(4, size), box
    mixed, mix = cutmix(x, same(lam), ROLL, torch.tensor([centre]))
    expected = x.clone()
    expected[:, :, top:bottom, left:right] = x[ROLL][:, :, top:bottom, left:right]
    assert torch.equal(mixed, expected)
    torch.testing.assert_close(mix.lam, same(kept))


@pytest.mark.parametrize("lam", [0.75, 0.3, 0.01])
@pytest.mark.parametrize("centre", [(4, 7), (0, 19), (11, 0)])
def test_cutmix_equals_torchvisions(lam, centre, images, monkeypatch):
    x, (row, column) = images(4, (12, 20)), centre
    draws = iter([torch.tensor([column]), torch.tensor([row])])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(draws))
    mixed, y = torchvisions(v2.CutMix(num_classes=4), x, lam)
    ours, mix = cutmix(x, same(lam), torch.arange(4).roll(1), torch.tensor([centre]))
    assert torch.equal(ours, mixed)
    torch.testing.assert_close(mix(torch.eye(4)), y)


@pytest.mark.parametrize("lam", [0.75, 1 - 0.625**2])
@pytest.mark.parametrize("centre", [(4, 7), (0, 15), (15, 0)])
def test_cutmix_equals_timms_for_even_sides(lam, centre, images, monkeypatch):
    """timm's boxes may have odd sides, the authors' have even ones."""
    x, draws = images(4), iter(centre)
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(draws))
    mixed, y = timms(x, lam, monkeypatch, mixup_alpha=0.0, cutmix_alpha=1.0)
    ours, mix = cutmix(x, same(lam), torch.arange(4).flip(0), torch.tensor([centre]))
    assert torch.equal(ours, mixed)
    torch.testing.assert_close(mix(torch.eye(4)), y)


@pytest.mark.parametrize("centre, low, high, lam", [((4, 4), 2, 6, 0.75), ((0, 0), 0, 2, 0.9375)])
def test_cutmix_gives_the_worked_boxes(images, centre, low, high, lam):
    """Worked by hand: 8x8 pixels, lam .75."""
    x = images(4, (8, 8))
    mixed, mix = cutmix(x, same(0.75), ROLL, torch.tensor([centre]))
    expected = x.clone()
    expected[:, :, low:high, low:high] = x[ROLL][:, :, low:high, low:high]
    assert torch.equal(mixed, expected) and mix.lam.tolist() == [lam] * 4


def test_cutmix_lam_is_the_share_of_the_own_pixels(images, rng):
    x, method = images(8, (15, 22)), load("cutmix", per_image=True)
    for _ in range(5):
        mixed, mix = method.mix(None, x, torch.eye(8), rng)
        own, other = (mixed == x).all(1), (mixed == x[mix.partner]).all(1)
        assert (own ^ other).all()
        torch.testing.assert_close(own.float().mean((1, 2)), mix.lam, atol=1e-7, rtol=0)


def kept_shares(alpha, size, rng):
    """lam of CutMix, for COUNT draws, by boxes alone."""
    method = load("cutmix", alpha=alpha, per_image=True)
    x = torch.empty(COUNT, 1, *size, device="meta")  # only its shape is used
    lam, _ = method.draw(x, alpha, rng)
    top, bottom, left, right = boxes(size, lam, points(size, COUNT, rng)).unbind(1)
    return 1 - (bottom - top) * (right - left) / math.prod(size)


def test_boxes_have_the_drawn_areas_before_and_after_clipping(rng):
    """At 32 px with alpha 1 a box has floor(32 r) pixels per side, r^2 uniform, minus one if odd."""
    side = torch.arange(32)
    odds = ((side + 1).double() ** 2 - side.double() ** 2) / 32**2
    whole = (side // 2 * 2).double()
    reach = side[:, None] // 2
    inside = ((side + reach).clamp(max=32) - (side - reach).clamp(min=0)).double()  # by side and position of the centre
    lam = load("cutmix", per_image=True).draw(torch.empty(COUNT, 1, 32, 32, device="meta"), 1.0, rng)[0]
    for centre, powers in (
        (torch.tensor([[16, 16]]), [(odds * whole**2).sum(), (odds * whole**4).sum()]),
        (points((32, 32), COUNT, rng), [(odds * inside.pow(k).mean(1) ** 2).sum() for k in (1, 2)]),
    ):
        top, bottom, left, right = boxes((32, 32), lam, centre).unbind(1)
        area = ((bottom - top) * (right - left)).double()
        for power, expected in enumerate(powers, 1):
            found = area**power
            assert abs(float(found.mean() - expected)) < SIGMAS * float(found.std()) / math.sqrt(COUNT)


@pytest.mark.parametrize("alpha, mean, untouched", [(1.0, 0.701, 0.004), (0.2, 0.725, 0.17)])
def test_cutmix_keeps_a_larger_share_than_drawn(alpha, mean, untouched, rng):
    """At 32 px, from many draws; the numbers are rounded to half a unit of their last digit."""
    lam = kept_shares(alpha, (32, 32), rng).double()
    assert abs(float(lam.mean()) - mean) < SIGMAS * float(lam.std()) / math.sqrt(COUNT) + 0.0005
    last_digit = 0.0005 if untouched < 0.01 else 0.005
    sigma = math.sqrt(untouched * (1 - untouched) / COUNT)
    assert abs(float((lam == 1).double().mean()) - untouched) < SIGMAS * sigma + last_digit


def test_cutmix_boxes_reach_every_corner(rng):
    method, seen = load("cutmix", per_image=True), torch.zeros(1, 1, 6, 6)
    for _ in range(20):
        seen = seen + (1 - method.mix(None, torch.rand(16, 1, 6, 6, generator=rng), torch.eye(16), rng)[1].mask).sum(0)
    assert (seen > 0).all()


def test_boxes_per_row_have_different_positions(rng):
    """kornia issue 4712: all rows had the same position."""
    x = torch.rand(32, 1, 32, 32, generator=rng)
    mask = load("cutmix", per_image=True).mix(None, x, torch.eye(32), rng)[1].mask
    assert len(mask.flatten(1).unique(dim=0)) > 24


# ResizeMix. JayQine/ResizeMix, run_apis/trainer.py at 45441ff, Trainer.train on pattern((3, 2, 8, 16)) with scale
# 0.375, the pairing [1, 2, 0] and centres (4, 3), (0, 8) and (7, 15) in place of its draws: top left corner of each
# patch, and its first row in the first channel. Its patch is resized by nearest neighbour.

RESIZEMIX = [
    ((3, 0), [0.462991, -0.221123, -0.986476, -0.52462, 0.724749, -0.363954]),
    ((0, 5), [-0.924171, 0.991101, 0.251356, -0.801099, 0.621532, 0.960191]),
    ((5, 10), [0.841471, -0.951602, -0.075151, 0.894791, -0.750987, -0.895188]),
]


def test_resizemix_gives_the_authors_patches():
    x, low = pattern((3, 2, 8, 16)), torch.tensor([low for low, _ in RESIZEMIX])
    place = (low + 0.5) / torch.tensor([8 - 3 + 1, 16 - 6 + 1])
    mixed, mix = resizemix(x, torch.tensor([0.375]), torch.tensor([1, 2, 0]), place, "nearest")
    torch.testing.assert_close(mix.lam, same(0.859375, 3))
    for i, ((top, left), row) in enumerate(RESIZEMIX):
        torch.testing.assert_close(mixed[i, 0, top, left : left + 6], torch.tensor(row), atol=2e-6, rtol=0)
        patch = torch.zeros(8, 16, dtype=torch.bool)
        patch[top : top + 3, left : left + 6] = True
        assert torch.equal(mixed[i, :, ~patch], x[i, :, ~patch]) and torch.equal(mix.mask[i, 0] == 0, patch)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_resizemix_gives_the_worked_patch(images, interpolation):
    """Worked by hand: 8x8 pixels, scale .5, a 4x4 patch and lam .75."""
    x = images(4, (8, 8))
    mixed, mix = resizemix(x, same(0.5), ROLL, torch.tensor([[0.99, 0.0]]), interpolation)
    small = F.interpolate(x[ROLL], size=(4, 4), mode=interpolation)
    assert torch.equal(mixed[:, :, 4:, :4], small)
    assert torch.equal(mixed[:, :, :4], x[:, :, :4]) and torch.equal(mixed[:, :, :, 4:], x[:, :, :, 4:])
    assert mix.lam.tolist() == [0.75] * 4 and mix.mask.mean() == 0.75


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(16, 16), (15, 22)])
def test_a_patch_per_row_gives_the_same_as_a_shared_patch(images, rng, interpolation, size):
    x = images(4, size)
    for _ in range(10):
        scale = 0.1 + 0.7 * torch.rand(4, generator=rng)
        place = torch.rand(4, 2, generator=rng)
        own, mix = resizemix(x, scale, ROLL, place, interpolation)
        for i in range(4):
            shared, mix_of_shared = resizemix(x, scale[i : i + 1], ROLL, place[i : i + 1], interpolation)
            torch.testing.assert_close(own[i], shared[i], atol=1e-5, rtol=0)
            assert mix.lam[i] == mix_of_shared.lam[0]


def test_the_whole_patch_is_inside_the_image(rng):
    corners = patches((15, 22), 0.1 + 0.9 * torch.rand(2000, generator=rng), torch.rand(2000, 2, generator=rng))
    top, bottom, left, right = corners.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= 15).all() and (right <= 22).all()
    assert (bottom > top).all() and (right > left).all()


def test_patches_touch_every_border(rng):
    top, bottom, left, right = patches((8, 8), same(0.5, 500), torch.rand(500, 2, generator=rng)).unbind(1)
    assert (top.min(), bottom.max(), left.min(), right.max()) == (0, 8, 0, 8)


def test_a_scale_near_zero_still_pastes_one_pixel(images):
    mix = resizemix(images(4, (8, 8)), same(0.01), ROLL, torch.zeros(1, 2))[1]
    assert mix.lam.tolist() == [1 - 1 / 64] * 4


def test_resizemix_stays_within_its_scope(rng):
    for alpha in (None, 0.2, 1.0):
        scales = load("resizemix", alpha=alpha, scope=(0.3, 0.6)).scales(2000, rng)
        assert ((scales >= 0.3) & (scales <= 0.6)).all()


def test_resizemix_by_default_draws_scales_uniformly(rng):
    scales = load("resizemix").scales(COUNT, rng)
    assert abs(float(scales.mean()) - 0.45) < SIGMAS * 0.7 / math.sqrt(12 * COUNT)


def test_resizemix_with_alpha_zero_mixes_nothing_or_is_rejected(images, rng):
    """The message for a bad alpha says: 0 (no mixing)."""
    try:
        method = load("resizemix", alpha=0.0)
    except ValueError:
        return
    assert torch.equal(method.mix(None, images(), torch.eye(6), rng)[0], images())


@pytest.mark.parametrize("scope", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.5), (math.nan, 0.5)])
def test_an_invalid_scope_is_rejected(scope):
    with pytest.raises(ValueError, match="scope"):
        load("resizemix", scope=scope)


# torch.compile

CALLS = {
    "mixup": lambda x, lam, point: mixup(x, lam, ROLL),
    "cutmix": lambda x, lam, point: cutmix(x, lam, ROLL, (point * 16).long()),
    "resizemix": lambda x, lam, point: resizemix(x, lam, ROLL, point),
    "resizemix nearest": lambda x, lam, point: resizemix(x, lam, ROLL, point, "nearest"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("rows", ["shared", "own"])
def test_compiling_gives_one_graph_and_the_same_result(name, rows, images, rng):
    torch.compiler.reset()
    compiled = torch.compile(CALLS[name], backend="eager", fullgraph=True)
    for _ in range(3):
        count = 4 if rows == "own" else 1
        lam, point = 0.1 + 0.8 * torch.rand(count, generator=rng), torch.rand(count, 2, generator=rng)
        mixed, mix = CALLS[name](images(4), lam.expand(4), point.expand(4, 2))
        again, mix_again = compiled(images(4), lam.expand(4), point.expand(4, 2))
        torch.testing.assert_close(again, mixed, atol=1e-5, rtol=0)
        assert torch.equal(mix.weight, mix_again.weight) and torch.equal(mix.index, mix_again.index)


def test_compiling_does_not_compile_again_for_another_box(images, rng):
    torch.compiler.reset()
    graphs = []

    def count(graph, example):
        graphs.append(graph)
        return graph

    compiled = torch.compile(CALLS["cutmix"], backend=count, fullgraph=True)
    for _ in range(4):
        compiled(images(4), torch.rand(4, generator=rng), torch.rand(4, 2, generator=rng))
    assert len(graphs) == 1
