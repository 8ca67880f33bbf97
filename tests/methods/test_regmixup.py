"""RegMixup: the clean and the mixed loss, from one pass."""

import pytest
import torch
from torch import nn

from hf_mixup import Net, load
from hf_mixup.methods.mixup import mixup
from hf_mixup.ops.losses import soft_cross_entropy

ROLL = torch.tensor([1, 2, 0])


class Seen(nn.Module):
    """Returns images of three numbers as logits, and records its inputs."""

    def __init__(self):
        super().__init__()
        self.last, self.shown = nn.Linear(3, 3, bias=False), []
        nn.init.eye_(self.last.weight)

    def forward(self, x):
        self.shown.append(x.detach())
        return self.last(x.flatten(1))


@pytest.fixture
def net():
    return Net(Seen()).train()


def batch():
    x = torch.tensor([[2.0, 0, 1], [0, 1, 0.5], [-1, 3, 1]]).view(3, 3, 1, 1)
    return x, torch.eye(3)


class Fixed:
    """Fixed draws: lam 0.3 and the next row."""

    def __call__(self, net, x, y, rng):
        return mixup(x, torch.full((3,), 0.3), ROLL)


def test_the_losses_match_the_authors(net, rng, monkeypatch):
    """FrancescoPinto/RegMixup, models/regmixup.py at fd78465: regmixup_criterion(F.cross_entropy, logits of the
    concatenation, ...) with lam 0.3; it takes the mean of both halves, half of the paper's sum."""
    method = load("regmixup").train()
    monkeypatch.setattr(method.base, "mix", Fixed())
    losses = method(net, *batch(), rng)
    torch.testing.assert_close(sum(losses.values()) / 2, torch.tensor(1.1093599796295166))


def test_one_pass_has_the_clean_batch_followed_by_the_mixed_batch(net, rng):
    x, y = batch()
    method = load("regmixup").train()
    method(net, x, y, rng)
    [shown] = net.model.shown
    assert torch.equal(shown[:3], x) and not torch.equal(shown[3:], x)


def test_eta_is_the_weight_of_the_mixed_loss(net, seeded):
    once, twice = (load("regmixup", eta=eta)(net, *batch(), seeded(1)) for eta in (1.0, 2.0))
    torch.testing.assert_close(twice["mix"], 2 * once["mix"])
    assert torch.equal(twice["clean"], once["clean"])
    none = load("regmixup", eta=0.0)(net, *batch(), seeded(1))
    x, y = batch()
    torch.testing.assert_close(sum(none.values()), soft_cross_entropy(x.flatten(1), y).mean())


def test_skipped_rows_contribute_once(net, rng):
    x, y = batch()
    losses = load("regmixup", per_image=True, prob=0.0)(net, x, y, rng)
    assert losses["mix"] == 0
    torch.testing.assert_close(losses["clean"], soft_cross_entropy(x.flatten(1), y).mean())


def test_the_base_is_mixup_with_the_papers_alpha():
    method = load("regmixup")
    assert (method.base.name, method.base.alpha, method.eta) == ("mixup", 20.0, 1.0)


def test_any_method_that_mixes_pixels_can_be_the_base(net, images, one_hot, make_net, rng):
    losses = load("regmixup", base={"name": "cutmix"})(make_net(), images(), one_hot(), rng)
    assert all(loss.isfinite() for loss in losses.values())
    with pytest.raises(ValueError, match="only mixes pixels; decoupledmix does more"):
        load("regmixup", base={"name": "decoupledmix"})


@pytest.mark.parametrize("eta", [-1.0, float("nan")])
def test_an_invalid_eta_is_rejected(eta):
    with pytest.raises(ValueError, match="RegMixup's eta is"):
        load("regmixup", eta=eta)
