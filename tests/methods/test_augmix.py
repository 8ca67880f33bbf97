"""AugMix: images are mixed with chains of augmentations of themselves."""

import math

import pytest
import torch
from torch import Tensor
from transformers import TrainingArguments, ViTImageProcessor

from hf_mixup import BatchMixup, MixupTrainer, load
from hf_mixup.methods.augmix import (
    LEVELWISE,
    NO_OPERATION,
    OPERATIONS,
    affine_matrices,
    apply_operation_,
    augmix,
    draw_chains,
)
from hf_mixup.ops.losses import jensen_shannon

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SIDE = 24


def table(chains: list) -> tuple[Tensor, Tensor]:
    """`operation` and `severity` (3, 1, chains) of one image's chains, lists of names and signed severities."""
    operation, severity = torch.full((3, 1, len(chains)), NO_OPERATION), torch.ones(3, 1, len(chains))
    for k, chain in enumerate(chains):
        for step, (name, signed) in enumerate(chain):
            operation[step, 0, k], severity[step, 0, k] = OPERATIONS.index(name), signed
    return operation, severity


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


FIRST = [
    [("autocontrast", 1.0), ("rotate", 2.5), ("equalize", 1.0)],
    [("posterize", 2.7), ("shear_x", -1.3)],
    [("solarize", 2.2)],
]
SECOND = [
    [("translate_x", 2.9), ("shear_y", 2.1), ("rotate", -1.5)],
    [("translate_y", -2.6)],
    [("equalize", 0.5), ("solarize", 1.1), ("posterize", 0.3)],
]


@pytest.mark.parametrize(
    "chains, weight, share, expected",
    [
        (
            FIRST,
            [0.5, 0.3, 0.2],
            0.7,
            [-0.1913, -2.097, 0.2476, 0.0646, -0.8091, 0.4694, -0.5051, 0.4428, 0.4562, -2.1391, 1.3491, -0.1725]
            + [-0.5743, -1.7104, 0.1384, -0.3218, 0.0393, 0.413, -0.6644, 1.2535, 0.1199, -2.2452, 1.451, -0.696]
            + [-0.8924, -0.8732, 0.3237, -0.4198, 1.0532, 0.37, -0.5712, 1.8268, -0.1264, -1.9724, 1.293, -0.9093],
        ),
        (
            SECOND,
            [0.1, 0.6, 0.3],
            0.4,
            [-0.2285, -1.953, -0.0943, 0.5539, -1.2613, 1.0145, -0.3495, -0.3595, 0.2011, -1.2698, 0.5787, -0.8031]
            + [-0.2093, -1.5207, 0.2297, -0.0991, -0.5719, 0.4507, -1.0785, 0.3988, -0.5153, -1.7228, 0.6089, -1.4192]
            + [-0.6457, -0.7324, -0.1166, -0.6614, 0.336, -0.0916, -1.4004, 0.6552, -1.0391, -1.5136, 0.9564, -1.6025],
        ),
    ],
)
def test_the_result_matches_the_authors(chains, weight, share, expected):
    """Numbers from google-research/augmix (9b9824c), augment_and_mix.py: augment_and_mix(image, severity=3) for images
    of 24 pixels, its draws being these chains, Dirichlet `weight` and Beta `share`: every seventh row and ninth column.
    """
    x = torch.sin(torch.arange(3 * SIDE * SIDE) * 0.37 + 1).add(1).mul(90).add(20).round().view(1, 3, SIDE, SIDE) / 255
    view = augmix(normalised(x), torch.tensor([1 - share]), torch.tensor([weight]), *table(chains), MEAN, STD)
    torch.testing.assert_close(view[0, :, ::7, ::9].flatten(), torch.tensor(expected), atol=1e-4, rtol=0)


# The function


def test_an_image_without_operations_is_not_changed(images):
    x = (images() * 255).round() / 255
    chains = torch.full((1, 6, 3), NO_OPERATION), torch.ones(1, 6, 3)
    view = augmix(x, torch.zeros(6), torch.full((6, 3), 1 / 3), *chains, (0.0,) * 3, (1.0,) * 3)
    torch.testing.assert_close(view, x, atol=1e-6, rtol=0)


def test_the_augmentation_of_an_image_does_not_depend_on_the_batch(images, seeded):
    """A batch gives the same as its images one by one."""
    x, draws = images(8), draw_chains(8, seeded(1))
    together = augmix(x, *draws)
    for i in range(8):
        lam, weight, operation, severity = draws
        one = augmix(x[i : i + 1], lam[i : i + 1], weight[i : i + 1], operation[:, i : i + 1], severity[:, i : i + 1])
        torch.testing.assert_close(together[i : i + 1], one, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_changes_the_image_and_gives_integer_levels(name, images):
    x = (images(4, (20, 24)) * 200 + 20).round()
    before = x.clone()
    apply_operation_(x, torch.tensor([OPERATIONS.index(name), NO_OPERATION] * 2), torch.tensor([3.0, 3.0, -3.0, -3.0]))
    changed = (x != before).flatten(1).any(1)
    assert changed.tolist() == [True, False, True, False]
    assert torch.equal(x, x.round()) and x.min() >= 0 and x.max() <= 255


@pytest.mark.parametrize("name, place", [("translate_x", (0, 2)), ("translate_y", (1, 2))])
def test_translation_goes_both_ways_by_whole_pixels_relative_to_the_side(name, place):
    number = torch.full((2,), OPERATIONS.index(name))
    moved = affine_matrices(number, torch.tensor([3.0, -3.0]), (64, 32))
    side = (32, 64)[place[0]]
    assert moved[:, *place].tolist() == [side // 10, -(side // 10)]


@pytest.mark.parametrize("name", LEVELWISE)
def test_operations_without_movement_have_the_identity_matrix(name):
    still = affine_matrices(torch.tensor([OPERATIONS.index(name)]), torch.tensor([3.0]), (16, 12))
    assert torch.equal(still[0], torch.eye(3)[:2])


def test_higher_severity_rotates_more():
    number = torch.full((3,), OPERATIONS.index("rotate"))
    turned = affine_matrices(number, torch.tensor([1.0, 3.0, 10.0]), (16, 16))
    angle = torch.atan2(turned[:, 1, 0], turned[:, 0, 0]).rad2deg()
    torch.testing.assert_close(angle, torch.tensor([3.0, 9.0, 30.0]))


# Draws


def test_operations_directions_and_depths_are_uniform(seeded):
    lam, weight, operation, severity = draw_chains(4000, seeded(1), width=3, severity=3.0)
    assert operation.shape == severity.shape == (3, 4000, 3) and weight.shape == (4000, 3)
    depth = (operation != NO_OPERATION).sum(0)
    for found, kinds in ((depth, (1, 2, 3)), (operation[0], range(len(OPERATIONS)))):
        share = 1 / len(kinds)
        sigma = (share * (1 - share) / found.numel()) ** 0.5
        assert all(abs((found == kind).float().mean() - share) < 5 * sigma for kind in kinds)
    assert severity.abs().min() >= 0.1 and severity.abs().max() <= 3
    assert abs((severity > 0).float().mean() - 0.5) < 5 * 0.5 / severity.numel() ** 0.5
    assert abs(severity.abs().mean() - 1.55) < 5 * 2.9 / (12 * severity.numel()) ** 0.5
    assert abs(lam.mean() - 0.5) < 5 / (12 * 4000) ** 0.5


def test_a_fixed_depth_and_width_are_kept(seeded):
    _, weight, operation, _ = draw_chains(50, seeded(1), width=2, depth=4)
    assert weight.shape == (50, 2) and operation.shape == (4, 50, 2)
    assert (operation >= 0).all()


# Pixels


def test_the_trainer_sets_mean_and_std(tmp_path, resnet_model):
    processor = ViTImageProcessor(image_mean=list(MEAN), image_std=list(STD))
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    method = MixupTrainer(resnet_model(), arguments, processing_class=processor, method="augmix").step.method
    assert (list(method.mean), list(method.std)) == (list(MEAN), list(STD))


def test_images_of_the_full_range_give_the_same_with_and_without_statistics(images, one_hot, seeded):
    """Each image's range is then 0 to 1."""
    x = images()
    x[:, :, 0, 0], x[:, :, 1, 1] = 0, 1
    told = load("augmix", mean=(0.0,) * 3, std=(1.0,) * 3).mix(None, x, one_hot(), seeded(1))[0]
    torch.testing.assert_close(load("augmix").mix(None, x, one_hot(), seeded(1))[0], told, atol=1e-6, rtol=0)


def test_normalising_before_or_after_gives_the_same(images, one_hot, seeded):
    x = (images() * 255).round() / 255
    plain = load("augmix", mean=(0.0,) * 3, std=(1.0,) * 3).mix(None, x, one_hot(), seeded(1))[0]
    after = load("augmix", mean=MEAN, std=STD).mix(None, normalised(x), one_hot(), seeded(1))[0]
    torch.testing.assert_close(after, normalised(plain), atol=2e-5, rtol=0)


def test_integer_images_are_rounded(images, one_hot, seeded):
    x = images(dtype=torch.uint8)
    mixed, _ = load("augmix").mix(None, x, one_hot(), seeded(1))
    exact, _ = load("augmix", mean=(0.0,) * 3, std=(1.0,) * 3).mix(None, x / 255, one_hot(), seeded(1))
    assert mixed.dtype == torch.uint8
    assert (mixed - 255 * exact).abs().max() <= 0.5 + 1e-3


def test_uint8_batches_are_augmented_without_a_network(images):
    views, targets = BatchMixup("augmix", num_classes=5, seed=1, jsd_weight=0.0)(
        images(dtype=torch.uint8), torch.arange(6) % 5
    )
    assert views.dtype == torch.uint8 and not torch.equal(views, images(dtype=torch.uint8))
    assert torch.equal(targets, torch.eye(5)[torch.arange(6) % 5])


def test_with_a_divergence_collators_reject_the_method():
    assert load("augmix").needs_forward and not load("augmix", jsd_weight=0.0).needs_forward
    with pytest.raises(ValueError, match="requires a training step"):
        BatchMixup("augmix", num_classes=5)


# Targets and losses


def test_targets_are_not_changed(images, one_hot, rng):
    mixed, mix = load("augmix").mix(None, images(), one_hot(), rng)
    assert torch.equal(mix(one_hot()), one_hot())
    assert ((mixed != images()).flatten(1).sum(1) > 0).all()


def test_the_loss_is_that_of_the_image_and_the_divergence_of_three_views(make_net, images, one_hot, seeded):
    net = make_net("cnn")
    net.model.eval()
    x, y, method = images(), one_hot(), load("augmix", jsd_weight=3.0)
    losses = method(net, x, y, seeded(1))
    draws, kept = seeded(1), torch.zeros(6)
    logits = [net(x), *(net(method.view(x, kept, draws)) for _ in range(2))]
    torch.testing.assert_close(losses["clean"], net.loss(logits[0], y))
    torch.testing.assert_close(losses["jsd"], 3 * jensen_shannon(*logits).mean())
    assert losses["jsd"] > 0


def test_all_views_go_through_the_network_in_one_batch(make_net, images, one_hot, rng):
    net, sizes = make_net("cnn"), []
    net.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    load("augmix")(net, images(), one_hot(), rng)
    load("augmix", jsd_weight=0.0)(net, images(), one_hot(), rng)
    assert sizes == [18, 6]


def test_without_a_divergence_it_trains_on_one_view(make_net, images, one_hot, seeded):
    net = make_net("cnn")
    net.model.eval()
    method = load("augmix", jsd_weight=0.0)
    losses = method(net, images(), one_hot(), seeded(1))
    view, _ = method.mix(net, images(), one_hot(), seeded(1))
    torch.testing.assert_close(losses, {"mix": net.loss(net(view), one_hot())})


def test_prob_skips_batches(images, one_hot, rng):
    method, x = load("augmix", prob=0.5), images(2, (8, 8))
    spared = sum(torch.equal(method.mix(None, x, one_hot(2), rng)[0], x) for _ in range(200))
    assert abs(spared / 200 - 0.5) < 5 * math.sqrt(0.25 / 200)


@pytest.mark.parametrize("jsd_weight", [0.0, 12.0])
def test_prob_skips_rows(jsd_weight, make_net, images, one_hot, rng):
    given, net = [], make_net("cnn")
    net.model.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    x = images(40)
    load("augmix", prob=0.5, per_image=True, jsd_weight=jsd_weight)(net, x, one_hot(40), rng)
    views = given[0].chunk(3)[1:] if jsd_weight else given
    left = [(view == x).flatten(1).all(1) for view in views]
    assert 5 < left[0].sum() < 35 and all(torch.equal(left[0], other) for other in left)


def test_an_unlabelled_image_contributes_to_the_divergence(make_net, images, rng):
    losses = load("augmix")(make_net("cnn"), images(), torch.zeros(6, 5), rng)
    assert losses["clean"] == 0 and losses["jsd"] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"jsd_weight": -1.0},
        {"jsd_weight": math.nan},
        {"width": 0},
        {"depth": 0},
        {"depth": -2},
        {"severity": 0.0},
        {"severity": 11.0},
        {"mean": (0.5,)},
    ],
)
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong):
    [(key, value)] = wrong.items()
    with pytest.raises(ValueError, match=key) as error:
        load("augmix", **wrong)
    assert str(value) in str(error.value)


def test_mean_and_std_with_a_wrong_number_of_channels_are_rejected(images, one_hot, rng):
    with pytest.raises(ValueError, match="3 channels, but the images have 1"):
        load("augmix", mean=MEAN, std=STD).mix(None, images(channels=1), one_hot(), rng)


@pytest.mark.parametrize("std", [(0.0, 1.0, 1.0), (math.nan,) * 3, (-1.0,) * 3])
def test_invalid_mean_or_std_is_rejected(std):
    with pytest.raises(ValueError, match="std above 0"):
        load("augmix", mean=MEAN, std=std)


def test_compiling_gives_one_graph(images, seeded):
    compiled = torch.compile(augmix, backend="eager", fullgraph=True)
    for seed in range(3):
        chains = draw_chains(6, seeded(seed))
        torch.testing.assert_close(compiled(images(), *chains), augmix(images(), *chains))
