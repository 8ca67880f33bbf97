"""Decoupled Mixup: a loss term per mixed class that excludes the other mixed classes."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from hf_mixup import Method, Mix, Net, load
from hf_mixup.methods.decoupledmix import decoupled_terms, rescaled
from hf_mixup.methods.mixup import mixup
from hf_mixup.ops.losses import binary_cross_entropy, soft_cross_entropy

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.5, -0.3, 1.2, 0.1]])
LABELS = torch.tensor([0, 1])
PAIR = torch.tensor([1, 0])


def one_hot(labels=LABELS):
    return F.one_hot(labels, 4).float()


def terms(lam=0.7, logits=LOGITS, labels=LABELS):
    return decoupled_terms(logits, one_hot(labels), Mix.pair(PAIR, torch.tensor([lam, lam])))


class Table(torch.nn.Module):
    """A network that returns fixed logits."""

    def __init__(self, logits=LOGITS):
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, x):
        return self.logits[: len(x)]


@dataclass(eq=False)
class Fixed(Method):
    """Mixup with lam and partners as given."""

    lam: float | torch.Tensor = 0.5
    partner: torch.Tensor = PAIR

    def mix_batch(self, net, x, y, rng):
        return mixup(x, torch.as_tensor(self.lam).expand(len(x)), self.partner)


def step(labels=LABELS, logits=LOGITS, lam=0.7, **changes):
    """Losses of a step whose base mixes with `lam`, one number or one per row."""
    method = load("decoupledmix", base=Fixed(lam=lam), **changes)
    return method(Net(Table(logits)), torch.zeros(2, 3, 4, 4), one_hot(labels), None)


def test_the_worked_example():
    """Worked by hand: z = (2, 1, 0, -1), classes 0 and 1, lam .7."""
    mix = Mix.pair(PAIR, torch.tensor([0.7, 0.7]))
    cross_entropy = soft_cross_entropy(LOGITS, mix(one_hot()))[0]
    own, other = terms()[0]
    torch.testing.assert_close(cross_entropy, torch.tensor(0.74019), atol=6e-6, rtol=0)
    torch.testing.assert_close(own, torch.tensor(0.16985), atol=6e-6, rtol=0)
    torch.testing.assert_close(other, torch.tensor(0.40761), atol=6e-6, rtol=0)
    assert float(cross_entropy + 0.1 * (own + other)) == pytest.approx(0.79793, abs=6e-6)


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


def of_the_authors(lam, labels, loss=soft_cross_entropy, **changes):
    """The total loss of four rows, each mixed with the next one."""
    base = Fixed(lam=lam, partner=torch.tensor([1, 2, 3, 0]))
    method, net = load("decoupledmix", base=base, **changes), Net(Table(2 * pattern((4, 5), 1.3)), loss=loss)
    return sum(method(net, torch.zeros(4, 3, 4, 4), torch.eye(5)[labels], None).values()).item()


@pytest.mark.parametrize(
    "changes, at_3, at_7",
    [
        ({}, 2.600571, 2.717823),
        ({"mode": "less"}, 2.497357, 2.596781),
        ({"mode": "more"}, 2.479528, 2.61461),
        ({"scale": "pow", "scale_power": 0.5}, 2.528967, 2.651371),
        ({"mode": "less", "scale": "exp", "scale_power": 0.5}, 2.431227, 2.540391),
        ({"mode": "less", "scale": "pow", "scale_power": 2.0, "scale_threshold": 0.6}, 2.406575, 2.519371),
        ({"eta": 0.0}, 2.376315, 2.493567),
    ],
)
def test_the_loss_matches_the_authors(changes, at_3, at_7):
    """Westlake-AI/openmixup at 37e1372, models/heads/cls_mixup_head.py: ClsMixupHead.loss with its CrossEntropyLoss, of
    use_soft and use_mix_decouple, eta 0.1 and lam 0.3 and 0.7; one pair has one class."""
    for lam, expected in ((0.3, at_3), (0.7, at_7)):
        assert of_the_authors(lam, [0, 1, 2, 2], **changes) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "scale, power, threshold, expected",
    [
        ("none", 1.0, 1.0, 4.571202),
        ("pow", 0.5, 1.0, 4.591335),
        ("pow", 2.0, 0.6, 4.563375),
        ("exp", 0.5, 1.0, 4.591656),
    ],
)
def test_the_two_hot_loss_matches_the_authors(scale, power, threshold, expected):
    """As above, with two_hot, use_sigmoid and lam 0.3; without a scale both classes are ones."""
    changes = {"scale": scale, "scale_power": power, "scale_threshold": threshold, "two_hot": True}
    found = of_the_authors(0.3, [0, 1, 2, 3], lambda *pair: binary_cross_entropy(*pair, total=True), **changes)
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_step_adds_the_terms_of_the_worked_example():
    losses = step(labels=torch.tensor([0, 1]), logits=LOGITS[[0, 0]], eta=0.1)
    # row 1 has the classes in the opposite order: its terms are the same
    assert float(losses["decoupled"]) == pytest.approx(0.1 * (0.16985 + 0.40761), abs=2e-6)


@pytest.mark.parametrize(
    "lam, scale, power, threshold, expected",
    [
        (0.04, "pow", 0.5, 1.0, 0.2),
        (0.25, "pow", 0.5, 1.0, 0.5),
        (0.81, "pow", 0.5, 1.0, 0.9),
        (0.1, "pow", 2.0, 0.5, 0.04),
        (0.4, "pow", 2.0, 0.5, 0.64),
        (0.5, "pow", 2.0, 0.5, 1.0),
        (0.9, "pow", 2.0, 0.5, 1.0),
        (0.25, "exp", 0.5, 1.0, 0.3905),
        (0.5, "exp", 0.5, 1.0, 0.6667),
        (0.3, "none", 2.0, 1.0, 1.0),
        (0.3, "pow", 0.0, 1.0, 1.0),
    ],
)
def test_the_worked_scales(lam, scale, power, threshold, expected):
    """Values worked by hand."""
    assert float(rescaled(torch.tensor(lam), scale, power, threshold)) == pytest.approx(expected, abs=5e-5)


def test_a_term_does_not_depend_on_the_logit_of_the_other_class():
    """d_a is independent of z_b, and its gradient there is exactly zero."""
    logits = LOGITS.clone().requires_grad_()
    own, other = terms(logits=logits)[0]
    [gradient] = torch.autograd.grad(own, logits, retain_graph=True)
    assert gradient[0, 1] == 0 and gradient[0, 0] < 0 and gradient[0, 2] > 0
    [gradient] = torch.autograd.grad(other, logits)
    assert gradient[0, 0] == 0 and gradient[0, 1] < 0
    raised = LOGITS.clone()
    raised[0, 1] += 100
    assert terms(logits=raised)[0, 0] == terms()[0, 0]


def test_a_term_is_the_cross_entropy_without_the_other_class():
    expected = F.cross_entropy(LOGITS[0, [0, 2, 3]], torch.tensor(0))
    torch.testing.assert_close(terms()[0, 0], expected)


def test_terms_are_never_negative(rng):
    logits, labels = 9 * torch.randn(50, 4, generator=rng), torch.randint(4, (50,), generator=rng)
    mix = Mix.pair(torch.arange(50).roll(1), torch.rand(50, generator=rng))
    assert (decoupled_terms(logits, one_hot(labels), mix) >= 0).all()


def test_a_pair_of_one_class_has_the_plain_loss():
    same = torch.tensor([2, 2])
    losses = step(labels=same)
    assert losses["decoupled"] == 0
    torch.testing.assert_close(losses["mix"], F.cross_entropy(LOGITS, same))


def test_a_lam_of_one_half_includes_both_images():
    """The authors' code identifies the classes by their shares and omits lam = .5."""
    torch.testing.assert_close(terms(0.5), terms(0.7))
    assert step(lam=0.5)["decoupled"] > 0


def test_each_row_has_its_own_classes_and_lam():
    losses = step(lam=torch.tensor([0.2, 0.9]), mode="less")
    both = terms()
    # row 0 has less of its own image, row 1 less of its partner's
    expected = 0.1 * (both[0, 0] + both[1, 1]) / 2
    torch.testing.assert_close(losses["decoupled"], expected)


@pytest.mark.parametrize("lam", [0.2, 0.5, 0.8])
def test_modes_less_and_more_sum_to_both(lam):
    parts = [step(lam=lam, mode=mode)["decoupled"] for mode in ("less", "more", "both")]
    torch.testing.assert_close(parts[0] + parts[1], parts[2])
    assert min(parts) > 0


def test_weights_are_each_images_share():
    """With f(lam) = lam each term is weighted by its image's share, whatever the order of classes."""
    losses = step(lam=torch.tensor([0.3, 0.6]), scale="pow", scale_power=1.0)
    shares = torch.tensor([[0.3, 0.7], [0.6, 0.4]])
    torch.testing.assert_close(losses["decoupled"], 0.1 * (shares * terms()).sum(1).mean())


def test_eta_zero_is_the_soft_cross_entropy():
    losses = step(eta=0.0)
    mix = Mix.pair(PAIR, torch.tensor([0.7, 0.7]))
    assert losses["decoupled"] == 0
    torch.testing.assert_close(losses["mix"], soft_cross_entropy(LOGITS, mix(one_hot())).mean())


def test_each_of_three_images_excludes_two_classes():
    y = one_hot(torch.tensor([0, 1, 2]))
    mix = Mix(torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.3, 0.2]]))
    found = decoupled_terms(LOGITS[:1], y, mix)[0]
    for k in range(3):
        torch.testing.assert_close(found[k], F.cross_entropy(LOGITS[0, [k, 3]], torch.tensor(0)))


def test_an_image_with_weight_zero_has_no_term():
    """At lam = 1 (an empty box, a row that `prob` skips) the partner's class is not visible."""
    assert step(lam=1.0)["decoupled"] == 0
    torch.testing.assert_close(step(lam=1.0)["mix"], F.cross_entropy(LOGITS, LABELS))


def test_an_image_without_a_class_has_no_term():
    y = one_hot()
    y[1] = 0
    mix = Mix.pair(PAIR, torch.tensor([0.7, 0.7]))
    assert decoupled_terms(LOGITS, y, mix).tolist() == [[0, 0], [0, 0]]


def test_two_hot_targets_are_the_scaled_shares():
    given = []

    def remember(logits, y):
        given.append(y)
        return logits.sum(1)

    base = Fixed(lam=torch.tensor([0.25, 0.81]))
    method = load("decoupledmix", base=base, two_hot=True, scale="pow", scale_power=0.5)
    losses = method(Net(Table(), loss=remember), torch.zeros(2, 3, 4, 4), one_hot(), None)
    assert list(losses) == ["mix"]
    torch.testing.assert_close(given[0], torch.tensor([[0.5, 0.75**0.5, 0, 0], [0.19**0.5, 0.9, 0, 0]]))


def test_extreme_logits_give_finite_gradients():
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 0.0, 0.0]], requires_grad=True)
    terms(logits=logits).sum().backward()
    assert logits.grad.isfinite().all()


def test_with_two_classes_the_term_is_zero():
    """There is no third class to compare with."""
    logits = torch.tensor([[1.0, 2.0], [3.0, 1.0]], requires_grad=True)
    found = decoupled_terms(logits, torch.eye(2), Mix.pair(PAIR, torch.tensor([0.7, 0.7])))
    found.sum().backward()
    assert found.abs().max() == 0 and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "changes", [{"mode": "most"}, {"scale": "log"}, {"scale": "exp", "scale_power": 1.0}, {"scale_threshold": 0.0}]
)
def test_invalid_settings_are_rejected(changes):
    with pytest.raises(ValueError):
        load("decoupledmix", **changes)


@pytest.mark.parametrize("key", ["eta", "threshold", "scale_power", "scale_threshold"])
def test_nan_and_infinity_are_rejected(key):
    with pytest.raises(ValueError, match=key):
        load("decoupledmix", **{key: float("nan")})


def test_a_threshold_of_zero_gives_no_nan():
    """lam / 0 is not a number at lam = 0."""
    try:
        method = load("decoupledmix", scale="pow", scale_threshold=0.0)
    except ValueError:
        return
    assert method.rescale(torch.tensor([0.0, 0.5, 1.0])).tolist() == [1, 1, 1]


def test_a_base_with_its_own_loss_is_rejected():
    with pytest.raises(ValueError, match="manifoldmix"):
        load("decoupledmix", base={"name": "manifoldmix"})
