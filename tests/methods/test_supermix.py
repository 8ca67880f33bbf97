"""SuperMix: masks are optimised until a teacher predicts all mixed classes."""

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import load
from hf_mixup.methods.supermix import blur_matrix, predicts_all, supermix, to_shares

CLASSES = 6
IMAGES = (torch.arange(4 * 3 * 12 * 12).float() ** 2 / 7).sin().view(4, 3, 12, 12)
WEIGHT = (torch.arange(CLASSES * 27).float() ** 2 / 5).cos().view(CLASSES, 27)


def supervisor(x):
    """Logits (B, 6); the four images are of classes 0, 4, 0, 5."""
    return 12 * F.adaptive_avg_pool2d(x.tanh(), 3).flatten(1) @ WEIGHT.T


def ring(images):
    return torch.stack([torch.arange(4).roll(-k) for k in range(images)], 1)


# alldbi/SuperMix, supermix.py at d63d25a: mix_batch(supervisor, IMAGES, K, mask_w=side, sigma_grad=sigma, max_iter=...,
# toler=0) with lambda_s 25 and these shares. It returns successful images, here with their row: the sum of
# the pixels, and the spread (standard deviation) of the first mask.
AUTHORS = [
    ([0.4, 0.6], 1, 16, 4, {0: (19.093389, 0.178633), 1: (-0.392797, 0.136351), 2: (10.079325, 0.170404)}),
    ([0.5, 0.5], 2, 8, 3, {0: (17.635050, 0.252554)}),
    ([0.3, 0.3, 0.4], 1, 6, 6, {1: (2.499571, 0.213377), 3: (10.571552, 0.248186)}),
]


@pytest.mark.parametrize("shares, sigma, side, iterations, expected", AUTHORS)
def test_images_and_masks_match_the_authors(shares, sigma, side, iterations, expected):
    options = {"side": side, "sigma": sigma, "iterations": iterations}
    mixed, mix = supermix(IMAGES, torch.tensor([shares] * 4), ring(len(shares)), supervisor, **options)
    for row, (total, spread) in expected.items():
        assert mixed[row].sum().item() == pytest.approx(total, abs=1e-4)
        assert mix.mask[row, 0].std().item() == pytest.approx(spread, abs=1e-5)
        assert mix.weight[row].tolist() == pytest.approx(shares)


def test_with_only_success_an_image_that_failed_is_not_changed():
    lam = torch.full((4, 2), 0.5)
    options = {"side": 8, "sigma": 2.0, "iterations": 3}
    mixed, mix = supermix(IMAGES, lam, ring(2), supervisor, **options)
    assert torch.equal(mixed[1:], IMAGES[1:]) and mix.weight.tolist() == [[0.5, 0.5]] + [[1, 0]] * 3
    assert (mix.mask[1:] == 1).all()
    forced, mix = supermix(IMAGES, lam, ring(2), supervisor, **options, only_success=False)
    assert torch.equal(mix.weight, lam) and not torch.equal(forced[1:], IMAGES[1:])
    assert torch.equal(forced[0], mixed[0])


def test_success_means_that_the_teacher_predicts_the_mixed_classes():
    lam = torch.full((4, 2), 0.5)
    mixed, mix = supermix(IMAGES, lam, ring(2), supervisor, iterations=20)
    classes = supervisor(IMAGES).argmax(1)[ring(2)]
    best = supervisor(mixed).topk(2).indices
    for row in range(4):
        assert mix.weight[row, 0] == 1 or sorted(best[row].tolist()) == sorted(classes[row].tolist())
    assert (mix.weight[:, 0] < 1).sum() > 2


def test_predicts_all_compares_target_classes_with_all_others():
    logits = torch.tensor([[3.0, 2, 1], [3, 1, 2], [1, 3, 2]])
    wanted = torch.tensor([[0.3, 0.7, 0], [0.3, 0.7, 0], [0, 1.0, 0]])
    assert predicts_all(logits, wanted).tolist() == [True, False, True]


def test_shares_sum_to_one_and_start_uniform(rng):
    assert (to_shares(torch.zeros(2, 4, 3, 3), (9, 12)) == 0.25).all()
    shares = to_shares(torch.randn(2, 3, 4, 4, generator=rng), (9, 12))
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 9, 12))


def test_the_blur_is_a_gaussian_over_five_standard_deviations():
    line = blur_matrix(12, 1.0, torch.device("cpu"))[6]
    bell = (-0.5 * torch.arange(-2.0, 3.0).square()).exp()
    torch.testing.assert_close(line[4:9], bell / bell.sum())
    assert line.count_nonzero() == 5
    assert torch.equal(blur_matrix(4, 0.0, torch.device("cpu")), torch.eye(4))


def test_three_images_can_be_mixed(make_net, images, one_hot, rng):
    net, method = make_net(), load("supermix", teacher=None, images=3, iterations=2, only_success=False).train()
    method.build(net)
    mixed, mix = method.mix(net, images(5), one_hot(5), rng)
    assert mix.index.shape == (5, 3) and mix.mask.shape == (5, 2, 16, 16) and mixed.isfinite().all()


def test_the_teacher_may_run_at_another_image_size(make_net, images, one_hot, rng):
    small = {"teacher": "test_resnet", "teacher_pretrained": False, "teacher_size": 32, "iterations": 1}
    net, method = make_net(), load("supermix", **small).train()
    method.build(net)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method(net, images(), one_hot(), rng)["mix"].backward()
    assert before and all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in method.parameters())


@pytest.mark.parametrize(
    "changes",
    [{"images": 1}, {"side": 0}, {"iterations": 0}, {"teacher_size": 0}, {"sigma": -1.0}, {"sparsity": float("nan")}]
    + [{"alpha": 0.0}],
)
def test_invalid_numbers_are_rejected(changes):
    with pytest.raises(ValueError, match=f"SuperMix's {next(iter(changes))} is"):
        load("supermix", **changes)
