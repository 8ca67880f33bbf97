"""RecursiveMix: the previous batch in a box, in images and targets, and the stored state."""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import load
from hf_mixup.methods.recursivemix import recursivemix
from hf_mixup.ops.losses import soft_cross_entropy
from hf_mixup.ops.resize import box_mean, paste_resized

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs


@pytest.fixture
def made(make_net):
    """`made(omega=0)`: the method in training mode, built for a small net, and that net."""

    def make(**changes):
        net = make_net()
        method = load("recursivemix", **changes)
        method.build(net)
        return method.train(), net

    return make


def kept(method):
    return method.images, method.targets, method.logits


def test_it_gives_the_authors_images_and_targets():
    """implus/RecursiveMix-pytorch, utils.py at ed381bf: recursive_mix(x, old_x, y, old_y, 0.5, "nearest"), with
    random.uniform giving 0.45 and np.random.randint column 4 (clipped by the border), then row 2."""
    x, old = torch.arange(72.0).view(2, 1, 6, 6), 1000 + torch.arange(108.0).view(3, 1, 6, 6)
    y = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    old_y = torch.tensor([[0.2, 0.3, 0.5], [0, 0, 1], [1, 0, 0]])
    corners = torch.tensor([[0, 4, 2, 6]])
    mixed, target, lam = recursivemix(x, y, old[:2], old_y[:2], corners)
    expected = x[0, 0].clone()
    expected[:4, 2:] = torch.tensor(
        [[1000.0, 1001, 1003, 1004], [1006, 1007, 1009, 1010], [1018, 1019, 1021, 1022], [1024, 1025, 1027, 1028]]
    )
    assert torch.equal(mixed[0, 0], expected)
    torch.testing.assert_close(lam, torch.tensor([0.5555555555555556]))
    torch.testing.assert_close(target, torch.tensor([[0.644444, 0.133333, 0.222222], [0, 0.555556, 0.444444]]))


def test_boxes_are_drawn_as_the_authors_draw_them(rng):
    """Sides of sqrt(U(0, 0.5)) of the image's, around a uniform point, clipped: computed for the same draws."""
    method = load("recursivemix", per_image=True)
    corners = method.boxes(torch.empty(4000, 1, 20, 30, device="meta"), rng)
    top, bottom, left, right = corners.unbind(1)
    assert (top.min(), bottom.max(), left.min(), right.max()) == (0, 20, 0, 30)
    inside = (top > 0) & (bottom < 20) & (left > 0) & (right < 30)
    assert (bottom - top)[inside].max() <= 14 and (right - left)[inside].max() <= 21  # sqrt(0.5) of 20 and 30
    x = torch.empty(20_000, 1, 200, 200, device="meta")  # only its shape is used
    whole = load("recursivemix", per_image=True, max_area=0.25).boxes(x, rng).double()
    side = 200 * torch.linspace(0, 0.25, 200_001, dtype=torch.float64).sqrt()
    # clipping a side s of 200 at a border takes s^2 / 800 from it on average
    expected = float((side - side.square() / 800).mean())
    height = whole[:, 1] - whole[:, 0]
    assert abs(float(height.mean()) - expected) < 1 + SIGMAS * float(height.std()) / math.sqrt(20_000)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("old_size", [(16, 16), (10, 24)])
def test_a_box_per_row_gives_the_same_as_a_shared_box(interpolation, old_size, images, rng):
    x, old = images(4, (15, 22)), images(4, old_size, seed=1)
    edges = [
        torch.stack([torch.randint(side + 1, (2,), generator=rng).sort().values for _ in range(4)]) for side in (15, 22)
    ]
    corners = torch.cat(edges, 1)
    corners[3, 1] = corners[3, 0]  # empty
    own = paste_resized(x, old, corners, interpolation)
    for i in range(4):
        top, bottom, left, right = corners[i].tolist()
        expected = x[i].clone()
        if bottom > top and right > left:
            small = F.interpolate(old[i : i + 1], size=(bottom - top, right - left), mode=interpolation)
            expected[:, top:bottom, left:right] = small[0]
        torch.testing.assert_close(own[i], expected, atol=1e-5, rtol=0)
        assert torch.equal(paste_resized(x, old, corners[i : i + 1], interpolation)[i], expected)


def test_the_mean_over_a_box_weights_cells_by_their_overlap(rng):
    maps, corners = torch.rand(3, 5, 4, 3, generator=rng), torch.tensor([[2, 13, 1, 5], [0, 16, 0, 12], [5, 5, 2, 4]])
    mean = box_mean(maps, corners, (16, 12))
    pixels = maps.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(mean[0], pixels[0, :, 2:13, 1:5].mean((1, 2)))
    torch.testing.assert_close(mean[1], maps[1].mean((1, 2)))
    assert (mean[2] == 0).all()


# Steps


def test_the_first_step_is_plain_and_stored(made, images, one_hot, rng):
    method, net = made()
    losses = method(net, images(), one_hot(), rng)
    assert list(losses) == ["mix"]
    torch.testing.assert_close(losses["mix"], net.loss(method.logits, one_hot()))
    assert torch.equal(method.images, images()) and torch.equal(method.targets, one_hot())


def test_the_stored_batch_is_a_copy_without_gradient(made, images, one_hot, rng):
    method, net = made()
    x, y = images(), one_hot()
    for _ in range(2):
        method(net, x, y, rng)
        x.zero_(), y.zero_()
        assert method.images.sum() > 0 and method.targets.sum() > 0
        assert not any(part.requires_grad for part in kept(method))


@pytest.mark.parametrize("per_image", [False, True])
def test_each_step_mixes_with_the_previous_batch(per_image, made, images, one_hot, seeded):
    method, net = made(per_image=per_image)
    method(net, images(), one_hot(), seeded(0))
    most = 0
    for seed in range(1, 7):
        before, targets = method.images, method.targets
        x, y = images(seed=seed), one_hot().roll(seed, 0)
        corners = method.boxes(x, seeded(seed))
        losses = method(net, x, y, seeded(seed))
        mixed, target, _ = recursivemix(x, y, before, targets, corners)
        assert torch.equal(method.images, mixed) and torch.equal(method.targets, target)
        torch.testing.assert_close(method.targets.sum(1), torch.ones(6))
        torch.testing.assert_close(losses["mix"], net.loss(method.logits, target))
        most = max(most, int((target > 0).sum(1).max()))
    assert most > 2  # more than two images: it is recursive


def test_the_box_loss_compares_with_the_previous_predictions(made, images, one_hot, seeded, rng):
    method, net = made(omega=0.3)
    method(net, images(), one_hot(), rng)
    before, corners = method.logits, method.boxes(images(), seeded(4))
    losses = method(net, images(seed=1), one_hot(), seeded(4))
    net.eval()
    net.train()
    seen = method.head(box_mean(net.outputs(method.images).tokens, corners, (16, 16)))
    top, bottom, left, right = corners[0].tolist()
    share = (bottom - top) * (right - left) / 256
    expected = 0.3 * share * soft_cross_entropy(seen, before.softmax(-1)).mean()
    torch.testing.assert_close(losses["box"], expected)
    losses["box"].backward()
    assert method.head.weight.grad.abs().sum() > 0
    assert next(net.parameters()).grad.abs().sum() > 0


def test_without_omega_there_is_no_head(made, images, one_hot, rng):
    method, net = made(omega=0.0)
    assert not list(method.parameters())
    for _ in range(2):
        assert list(method(net, images(), one_hot(), rng)) == ["mix"]


def test_the_head_is_trained_on_a_vit(make_net, images, one_hot, rng):
    method, net = load("recursivemix").train(), make_net("vit")
    method.build(net)
    method(net, images(), one_hot(), rng)
    sum(method(net, images(), one_hot(), rng).values()).backward()
    assert method.head.weight.grad.isfinite().all()


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("counts", [(6, 4, 6), (4, 6, 5), (2, 7, 3)])
def test_batches_of_different_sizes_can_follow_each_other(per_image, counts, made, images, one_hot, rng):
    method, net = made(per_image=per_image)
    for count in counts:
        losses = method(net, images(count), one_hot(count), rng)
        assert len(method.images) == count and all(loss.isfinite() for loss in losses.values())


def test_batches_of_different_image_sizes_can_follow_each_other(made, images, one_hot, rng):
    method, net = made()
    for size in ((16, 16), (24, 20), (12, 12)):
        losses = method(net, images(6, size), one_hot(), rng)
        assert method.images.shape[-2:] == size and all(loss.isfinite() for loss in losses.values())


def test_one_image_and_eval_mode_do_not_change_the_history(made, images, one_hot, rng):
    method, net = made()
    method(net, images(), one_hot(), rng)
    before = [part.clone() for part in kept(method)]
    net.eval()  # BatchNorm does not support a batch of one
    method(net, images(1), one_hot(1), rng)
    method.eval()
    method(net, images(seed=1), one_hot(), rng)
    assert all(torch.equal(*pair) for pair in zip(before, kept(method), strict=True))


def test_prob_skips_batches_and_rows(made, images, one_hot, rng):
    method, net = made(prob=0.0)
    for _ in range(2):
        assert list(method(net, images(), one_hot(), rng)) == ["mix"]
    assert torch.equal(method.images, images())
    method, net = made(prob=0.5, per_image=True, omega=0.0)
    x, y = images(40, seed=1), torch.eye(40)[:, :5]
    mixed = 0
    for _ in range(20):
        method(net, images(40), y, rng)
        method(net, x, y, rng)
        mixed += int((method.images != x).flatten(1).any(1).sum())
    # a few boxes are empty: at 16 px those with sides below two pixels
    assert 0.5 * (1 - 2 / 64) - SIGMAS * 0.5 / math.sqrt(800) < mixed / 800 < 0.5 + SIGMAS * 0.5 / math.sqrt(800)


@pytest.mark.parametrize("way", ["state", "pickle"])
def test_the_history_is_part_of_the_state(way, made, images, one_hot, seeded):
    method, net = made()
    for seed in range(2):
        method(net, images(5, seed=seed), one_hot(5), seeded(seed))
    if way == "pickle":
        again = pickle.loads(pickle.dumps(method))
    else:
        again, _ = made()
        again.load_state_dict(method.state_dict())
    net.eval()
    for one in (method, again):
        one.result = sum(one(net, images(5, seed=9), one_hot(5), seeded(9)).values())
    assert torch.equal(method.result, again.result)
    assert all(torch.equal(*pair) for pair in zip(kept(method), kept(again), strict=True))


def test_a_method_without_history_has_a_state(made):
    """Checkpoints read the state of a method without history."""
    method, _ = made(omega=0.0)
    assert set(method.state_dict()) == {"images", "targets", "logits"}
    again, _ = made(omega=0.0)
    again.load_state_dict(method.state_dict())


@pytest.mark.parametrize("wrong", [{"max_area": 1.5}, {"max_area": -0.1}, {"omega": -1.0}, {"interpolation": "cubic"}])
def test_invalid_arguments_are_rejected(wrong):
    [value] = wrong.values()
    with pytest.raises(ValueError, match=str(value)):
        load("recursivemix", **wrong)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("rows", [1, 4])
def test_compiling_gives_one_graph_and_the_same_result(interpolation, rows, images, one_hot, seeded):
    torch.compiler.reset()
    compiled = torch.compile(recursivemix, backend="eager", fullgraph=True)
    method = load("recursivemix", per_image=rows > 1)
    for seed in range(3):
        corners = method.boxes(images(4), seeded(seed)).expand(4, -1)
        call = images(4), one_hot(4), images(4, seed=2), one_hot(4).roll(1, 0), corners, interpolation
        for one, other in zip(recursivemix(*call), compiled(*call), strict=True):
            torch.testing.assert_close(one.expand_as(other), other, atol=1e-5, rtol=0)
