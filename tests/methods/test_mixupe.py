"""MixupE: Mixup with a directional derivative term of the clean images."""

import math

import pytest
import torch
from torch import nn

from hf_mixup import Net, load
from hf_mixup.methods.mixup import mixup
from hf_mixup.methods.mixupe import agreement, directional

IMAGES = (torch.arange(4 * 3 * 2 * 2).float() ** 2 / 3).sin().view(4, 3, 2, 2)
LABELS = torch.eye(3)[torch.tensor([0, 1, 2, 0])]
WEIGHT = (torch.arange(36).float() ** 2 / 5).cos().view(3, 12)
NEXT = torch.tensor([1, 2, 3, 0])


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 3, bias=False)
        self.last.weight.data.copy_(WEIGHT)

    def forward(self, x):
        return self.last(x.flatten(1))


# oneHuster/MixupE, mixup.py at 64ba406: training_method(args, IMAGES, labels, the linear network, CrossEntropyLoss())
# with mixupe_version 3, lam 0.3 and the next image as partner. eta, threshold, alpha; the loss, the first column of the
# weight's gradient, and the gradient's norm.
AUTHORS = [
    (0.001, 1.0, 2.0, 1.363121, [0.034441, 0.014308, -0.048749], 0.593297),
    (0.5, 1.0, 2.0, 1.363121, [0.055970, 0.014185, -0.070155], 0.706732),
    (0.5, -0.2, 1.0, 1.363121, [0.059066, 0.007668, -0.066734], 0.677143),
    (2.0, 0.5, 1.0, 1.363121, [0.092557, 0.013975, -0.106532], 0.925691),
]


@pytest.mark.parametrize("eta, threshold, alpha, loss, column, length", AUTHORS)
def test_loss_and_gradient_match_the_authors(eta, threshold, alpha, loss, column, length, rng, monkeypatch):
    net, method = Net(Linear()).train(), load("mixupe", eta=eta, threshold=threshold, alpha=alpha).train()
    monkeypatch.setattr(method, "mix", lambda net, x, y, rng: mixup(x, torch.full((4,), 0.3), NEXT))
    total = sum(method(net, IMAGES, LABELS, rng).values())
    total.backward()
    slope = net.model.last.weight.grad
    assert total.item() == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(slope[:, 0], torch.tensor(column), atol=1e-5, rtol=0)
    assert slope.norm().item() == pytest.approx(length, abs=1e-5)


def test_agreement_is_large_where_the_label_is_the_highest():
    logits = torch.tensor([[2.0, 0, 0], [0, 2, 0]])
    share = math.exp(2) / (math.exp(2) + 2)
    expected = torch.tensor([2 * (1 - share), -2 * share])
    torch.testing.assert_close(agreement(logits, torch.eye(3)[[0, 0]]), expected)


def test_the_term_includes_agreements_below_the_threshold():
    given, counts = torch.tensor([0.5, -1.0, 2.0, -3.0]), torch.tensor([True, True, True, False])
    torch.testing.assert_close(directional(given, counts, 1.0, 2.0), torch.tensor(-2 / 5 * (0.5 - 1.0) / 4))
    torch.testing.assert_close(directional(given, counts, math.inf, 2.0), torch.tensor(-2 / 5 * (0.5 - 1 + 2) / 4))
    assert directional(given, counts, 1.0, 0.0) == 0


def test_without_eta_it_is_mixup(make_net, images, one_hot, seeded):
    net = make_net("vit")
    losses = load("mixupe", eta=0.0)(net, images(), one_hot(), seeded(1))
    plain = load("mixup", alpha=2.0)(net, images(), one_hot(), seeded(1))
    torch.testing.assert_close(losses["mix"], plain["mix"])
    assert losses["directional"] == 0


@pytest.mark.parametrize("changes", [{"eta": -1.0}, {"eta": math.inf}, {"threshold": math.nan}])
def test_invalid_numbers_are_rejected(changes):
    with pytest.raises(ValueError, match=f"MixupE's {next(iter(changes))} is"):
        load("mixupe", **changes)
