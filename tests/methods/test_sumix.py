"""SUMix: labels by similarity, and an uncertainty loss."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.sumix import distances, sumix
from hf_mixup.mix import Mix
from hf_mixup.net.net import Outputs

KINDS = ("cnn", "vit")


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


LAM = [0.219225, 0.235874, 0.549866, 0.34577, 0.101884, 0.293679]
LOSSES = {True: 3.194976, False: 3.204526}  # including the uncertainty loss, by `normalise`
MIXED_LOSS = 2.398400
Y = torch.eye(5)[[0, 1, 2, 3, 4, 0]]
WEIGHT, BIAS = pattern((5, 4), 0.7), pattern((5,), 0.3)


def pairs(lam=0.3):
    return Mix.pair(torch.arange(6).roll(-1), torch.full((6,), lam))


def outputs(features):
    return Outputs(features @ WEIGHT.T + BIAS, features, features)


CLEAN, MIXED = outputs(2 * pattern((6, 4), 2.3)), outputs(2 * pattern((6, 4), 1.7))


class Fixed:
    """The parts of a network that SUMix uses, with fixed outputs."""

    num_features, num_classes, classifier = 4, 5, torch.nn.Linear(4, 5)

    def __init__(self):
        self.given = [CLEAN, MIXED]

    def outputs(self, x):
        return self.given.pop(0)

    def loss(self, logits, y, reduction="mean"):
        rows = -(y * logits.log_softmax(-1)).sum(-1)
        return rows if reduction == "none" else rows.mean()


class Pairs(torch.nn.Module):
    needs_forward, needs_net = False, False

    def build(self, net):
        pass

    def mix(self, net, x, y, rng):
        return x, pairs()


def authors_setting(images, normalise=True, **changes):
    method = load("sumix", temperature=6.0, normalise=normalise, **changes)
    method.base = Pairs()
    method.build(Fixed())
    if normalise:
        method.uncertainty.weight.data, method.uncertainty.bias.data = pattern((5, 4), 1.3), pattern((5,), 0.4)
    return method.train()(Fixed(), images(), Y, None)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_losses_match_the_authors(normalise, images):
    """JinXins/SUMix at 0469ec2, models/heads/cls_mixup_head.py: ClsUncertainMixupHead(in_channels=4, num_classes=5,
    is_norm=normalise, gama=0.5).IN_loss for these features through forward_head, the labels (y, y[1, 2, 3, 4, 5, 0],
    0.3), with gama 0.5 and 0; there the temperature is the batch's 6, and both means are taken before they are
    multiplied."""
    losses = authors_setting(images, normalise, batch_mean=True)
    assert losses["mix"].item() == pytest.approx(MIXED_LOSS, abs=1e-5)
    assert sum(losses.values()).item() == pytest.approx(LOSSES[normalise], abs=1e-5)


def test_lam_matches_the_authors():
    """As above: the local `lam_a` of IN_loss after it was divided by the sum."""
    mix = sumix(distances(CLEAN.logits, MIXED.logits, Y, pairs(), 6.0), Y, pairs())
    torch.testing.assert_close(mix.lam, torch.tensor(LAM), atol=2e-6, rtol=0)
    torch.testing.assert_close(mix.weight.sum(1), torch.ones(6))


def test_each_row_is_weighted_by_its_own_lam(images):
    losses = authors_setting(images)
    lam, rows = torch.tensor(LAM), -MIXED.logits.log_softmax(-1)
    expected = lam * (Y * rows).sum(1) + (1 - lam) * (Y.roll(-1, 0) * rows).sum(1)
    torch.testing.assert_close(losses["mix"], expected.mean(), atol=1e-5, rtol=0)
    assert abs(losses["mix"] - MIXED_LOSS) > 1e-3


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_lam_of_0_or_1_does_not_change(lam):
    for temperature in (0.0, 6.0, 1e4):
        distance = distances(CLEAN.logits, MIXED.logits, Y, pairs(), temperature)
        assert torch.equal(sumix(distance, Y, pairs(lam)).lam, torch.full((6,), lam))


def test_equally_similar_images_keep_their_lam():
    mix = sumix(torch.full((6, 2, 5), 3.0), Y, pairs(0.3))
    torch.testing.assert_close(mix.lam, torch.full((6,), 0.3))
    assert torch.equal(mix.index, pairs().index)


def test_the_more_similar_image_gets_the_larger_share():
    distance = torch.zeros(6, 2, 5)
    distance[:, 1] = 1.0
    lam = sumix(distance, Y, pairs(0.3)).lam
    torch.testing.assert_close(lam, torch.full((6,), 0.3 / (0.3 + 0.7 * 0.367879)))


def test_large_temperatures_give_finite_weights():
    distance = distances(CLEAN.logits, MIXED.logits, Y, pairs(), 1e5)
    assert sumix(distance, Y, pairs()).weight.isfinite().all()


def test_the_class_of_the_other_image_is_excluded_from_the_probabilities():
    """The clean image's probability of the other class is ignored."""
    changed = CLEAN.logits.clone()
    before = distances(changed, MIXED.logits, Y, pairs(), 6.0)
    probability = changed.softmax(-1)
    assert before.shape == (6, 2, 5)
    for k, other in ((0, Y.roll(-1, 0)), (1, Y)):
        image = probability if k == 0 else probability.roll(-1, 0)
        image = image.masked_fill(other > 0, 0)
        raw = (MIXED.logits.softmax(-1) - image).softmax(-1)
        torch.testing.assert_close(before[:, k], 6 * raw / raw.norm(dim=1, keepdim=True))


@pytest.fixture
def built(make_net):
    def build(kind="cnn", **hyperparameters):
        net = make_net(kind)
        method = load("sumix", **{"base": {"name": "cutmix", "alpha": 1.0}} | hyperparameters)
        method.build(net)
        return net, method.train()

    return build


def gradients(losses, module):
    return torch.autograd.grad(losses, list(module.parameters()), retain_graph=True, allow_unused=True)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_uncertainty_loss_trains_the_uncertainty_layer(kind, built, images, one_hot, rng):
    net, method = built(kind)
    losses = method(net, images(), one_hot(), rng)
    assert all(gradient is None for gradient in gradients(losses["mix"], method.uncertainty))
    assert all(gradient.abs().sum() > 0 for gradient in gradients(losses["uncertainty"], method.uncertainty))
    # gradients flow through the features only: distances have no gradient
    features = [gradient is not None for gradient in gradients(losses["uncertainty"], net.model)]
    assert any(features) and not all(features)
    weight = torch.autograd.grad(losses["uncertainty"], net.classifier.weight, allow_unused=True)
    assert weight == (None,)


@pytest.mark.parametrize("kind", KINDS)
def test_without_normalise_the_logits_are_the_uncertainty(kind, built, images, one_hot, rng):
    net, method = built(kind, normalise=False)
    assert not list(method.parameters())
    losses = method(net, images(), one_hot(), rng)
    assert torch.autograd.grad(losses["uncertainty"], net.classifier.weight)[0].abs().sum() > 0


def test_images_and_initial_labels_are_those_of_the_base(built, images, one_hot, seeded):
    net, method = built()
    mixed, mix = method.mix(net, images(), one_hot(), seeded(1))
    plain, expected = load("cutmix", alpha=1.0).mix(net, images(), one_hot(), seeded(1))
    assert torch.equal(mixed, plain) and torch.equal(mix.weight, expected.weight)


def test_gamma_zero_has_no_uncertainty_loss(built, images, one_hot, rng):
    net, method = built(gamma=0.0)
    assert set(method(net, images(), one_hot(), rng)) == {"mix"}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_the_base_skips_have_the_plain_loss(kind, built, images, one_hot, rng):
    net, method = built(kind, base={"name": "cutmix", "prob": 0.0})
    net.model.eval()
    losses = method(net, images(), one_hot(), rng)
    assert set(losses) == {"mix"} and torch.equal(losses["mix"], net.loss(net(images()), one_hot()))


def test_the_state_can_be_saved_and_loaded(built, images, one_hot, seeded):
    net, method = built()
    method.uncertainty.weight.data.add_(1)
    _, other = built()
    other.load_state_dict(method.state_dict())
    assert set(method.state_dict()) == {"uncertainty.weight", "uncertainty.bias"}
    net.model.eval()
    losses = [one(net, images(), one_hot(), seeded(1))["uncertainty"] for one in (method, other)]
    assert torch.equal(*losses)


def test_a_base_with_its_own_loss_is_rejected():
    with pytest.raises(ValueError, match="decoupledmix"):
        load("sumix", base={"name": "decoupledmix"})


@pytest.mark.parametrize("wrong", [{"gamma": -1.0}, {"temperature": float("nan")}])
def test_invalid_hyperparameters_are_rejected_with_their_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        load("sumix", **wrong)
