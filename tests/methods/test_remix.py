"""Remix: the rare class of a pair gets the label if its share is large enough."""

import pytest
import torch

from hf_mixup import Mix, load
from hf_mixup.methods.remix import remix


def reference(lam, own, other, kappa, tau):
    """The paper's equation for lam of the label, for one pair."""
    if own / other >= kappa and lam < tau:
        return 0.0
    if own / other <= 1 / kappa and 1 - lam < tau:
        return 1.0
    return lam


@pytest.mark.parametrize("kappa, tau", [(3.0, 0.5), (1.0, 0.3), (10.0, 0.9)])
def test_shares_are_those_of_the_formula(kappa, tau, rng):
    size = torch.tensor([5.0, 15, 500, 16, 1, 4, 60, 60])
    for partner in (torch.arange(8).roll(1), torch.arange(8).roll(3)):
        lam = torch.rand(8, generator=rng)
        mix = remix(Mix.pair(partner, lam), size, kappa, tau)
        pairs = zip(lam.tolist(), size.tolist(), size[partner].tolist(), strict=True)
        assert mix.lam.tolist() == [reference(*pair, kappa, tau) for pair in pairs]
        assert torch.equal(mix.weight[:, 1], 1 - mix.lam) and torch.equal(mix.partner, partner)


@pytest.mark.parametrize(
    "sizes, lam, expected",
    [((30, 10), 0.4, 0.0), ((30, 10), 0.6, 0.6), ((29, 10), 0.4, 0.4), ((10, 30), 0.6, 1.0), ((10, 30), 0.4, 0.4)],
)
def test_a_worked_example(sizes, lam, expected):
    mix = remix(Mix.pair(torch.tensor([1, 0]), torch.full((2,), lam)), torch.tensor(sizes).float(), 3.0, 0.5)
    assert mix.lam[0].item() == pytest.approx(expected)


def test_a_row_without_a_class_keeps_its_lam():
    mix = remix(Mix.pair(torch.tensor([1, 0]), torch.tensor([0.4, 0.6])), torch.tensor([0.0, 90.0]), 3.0, 0.5)
    torch.testing.assert_close(mix.lam, torch.tensor([0.4, 0.6]))


def test_images_and_mask_are_those_of_the_base(images, one_hot, seeded):
    counts, base = [100.0, 50, 20, 5, 1], {"name": "cutmix", "alpha": 1.0}
    for seed in range(4):
        plain, before = load(base).train().mix(None, images(), one_hot(), seeded(seed))
        mixed, mix = load("remix", base=base, counts=counts).train().mix(None, images(), one_hot(), seeded(seed))
        assert torch.equal(mixed, plain) and torch.equal(mix.mask, before.mask)
        assert torch.equal(mix.weight, remix(before, one_hot() @ torch.tensor(counts), 3.0, 0.5).weight)


def test_class_counts_are_updated_with_each_batch(images, one_hot, rng):
    method = load("remix").train()
    method.mix(None, images(6), one_hot(6), rng)
    method.mix(None, images(3), one_hot(3), rng)
    assert method.seen.tolist() == [3, 2, 2, 1, 1]
    method.eval().mix(None, images(6), one_hot(6), rng)
    assert method.seen.tolist() == [3, 2, 2, 1, 1]


def test_class_counts_are_in_the_state(make_net, images, one_hot, rng):
    net, method, again = make_net(), load("remix").train(), load("remix")
    for one in (method, again):
        one.build(net)
    method.mix(net, images(6), one_hot(6), rng)
    again.load_state_dict(method.state_dict())
    assert again.seen.tolist() == [2, 1, 1, 1, 1]


def test_given_counts_are_not_updated(images, one_hot, rng):
    method = load("remix", counts=[9.0, 8, 7, 6, 5]).train()
    method.mix(None, images(6), one_hot(6), rng)
    assert method.seen.tolist() == [9, 8, 7, 6, 5]
    with pytest.raises(ValueError, match="counts of 5 classes, but targets have 4"):
        method.mix(None, images(6), one_hot(6, 4), rng)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"kappa": 0.5}, "Remix's kappa is 0.5"),
        ({"tau": 1.5}, "Remix's tau is 1.5"),
        ({"counts": []}, "Remix's counts are"),
        ({"counts": [1.0, -1.0]}, "Remix's counts are"),
        ({"base": {"name": "decoupledmix"}}, "only mixes pixels; decoupledmix does more"),
        ({"base": {"name": "snapmix"}}, "snapmix has free weights"),
    ],
)
def test_invalid_arguments_are_rejected(changes, words):
    with pytest.raises(ValueError, match=words):
        load("remix", **changes)


def test_column_0_need_not_be_the_row_itself():
    sizes, index = torch.tensor([90.0, 90, 10]), torch.tensor([[1, 2], [2, 0], [0, 1]])
    mix = remix(Mix(index, torch.tensor([[0.4, 0.6]] * 3)), sizes, 3.0, 0.5)
    assert mix.lam.tolist() == pytest.approx([0.0, 0.4, 0.4])
    mix = remix(Mix(index, torch.tensor([[0.6, 0.4]] * 3)), sizes, 3.0, 0.5)
    assert mix.lam.tolist() == pytest.approx([0.6, 1.0, 0.6])
