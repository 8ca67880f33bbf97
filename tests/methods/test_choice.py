"""Choice: one of several methods per batch."""

import math

import numpy as np
import pytest
import timm.data
import torch

from hf_mixup import available, load

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs
MIXUP, CUTMIX, ERM = {"name": "mixup", "alpha": 0.8}, {"name": "cutmix", "alpha": 1.0}, {"name": "erm"}


def test_the_default_is_deits():
    values = load("choice").hyperparameters()
    assert [(method["name"], method["alpha"]) for method in values["methods"]] == [("cutmix", 1.0), ("mixup", 0.8)]
    assert values["weights"] == [1.0, 1.0]


def test_the_default_mixes_as_timms_recipe(images, monkeypatch):
    """DeiT was trained with timm's Mixup: compare both methods, with the same draws."""
    alphas, lam, centre, seen = [], 0.75, (3, 12), set()  # the box has even sides, timm's may be odd
    monkeypatch.setattr("hf_mixup.methods._base.beta", lambda alpha, *_: alphas.append(alpha) or torch.tensor([lam]))
    monkeypatch.setattr("hf_mixup.methods.cutmix.points", lambda *_: torch.tensor([centre]))
    monkeypatch.setattr(np.random, "beta", lambda alpha, *_: alphas.append(alpha) or lam)
    theirs = timm.data.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5, label_smoothing=0.0, num_classes=6)
    ours, x = load("choice", pairing="flip"), images()
    for seed in range(10):
        name = ours.choose(torch.Generator().manual_seed(seed)).name
        draws, switch = iter(centre), iter([0.0, 0.0 if name == "cutmix" else 0.99])
        monkeypatch.setattr(np.random, "rand", lambda: next(switch))  # noqa: B023 it is called within the loop
        monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(draws))  # noqa: B023
        expected, targets = theirs(x.clone(), torch.arange(6))
        mixed, mix = ours.mix(None, x, torch.eye(6), torch.Generator().manual_seed(seed))
        torch.testing.assert_close(mixed, expected)
        torch.testing.assert_close(mix(torch.eye(6)), targets)
        seen.add((name, *alphas[-2:]))
    assert seen == {("cutmix", 1.0, 1.0), ("mixup", 0.8, 0.8)}


@pytest.mark.parametrize("weights, share", [([0.5, 0.5], 0.5), ([3, 1], 0.75), ([0.1, 0.9], 0.1)])
def test_methods_are_chosen_with_probability_proportional_to_their_weights(weights, share, rng):
    draws, method = 2000, load("choice", methods=[CUTMIX, MIXUP], weights=weights)
    chosen = sum(method.choose(rng).name == "cutmix" for _ in range(draws)) / draws
    assert abs(chosen - share) < SIGMAS * math.sqrt(share * (1 - share) / draws)


@pytest.mark.parametrize("only", range(3))
def test_a_single_positive_weight_always_chooses_that_method(only, images, one_hot, rng):
    methods, x, y = [MIXUP, CUTMIX, ERM], images(), one_hot()
    choice = load("choice", methods=methods, weights=[float(i == only) for i in range(3)])
    for _ in range(5):
        state = rng.get_state()
        choice.choose(rng)
        alone = load(methods[only]).mix(None, x, y, rng)
        after = rng.get_state()
        rng.set_state(state)
        mixed, mix = choice.mix(None, x, y, rng)
        assert torch.equal(mixed, alone[0]) and torch.equal(mix(y), alone[1](y))
        assert torch.equal(rng.get_state(), after)


def test_not_mixing_is_erm(images, one_hot, rng):
    mixed, mix = load("choice", methods=[ERM]).mix(None, images(), one_hot(), rng)
    assert torch.equal(mixed, images()) and torch.equal(mix(one_hot()), one_hot())


def test_the_chosen_methods_own_forward_runs(make_net, images, one_hot, rng):
    net, base = make_net("vit"), {"name": "decoupledmix", "base": MIXUP}
    losses = load("choice", methods=[base])(net, images(), one_hot(), rng)
    assert sorted(losses) == ["decoupled", "mix"]


def test_the_choice_is_the_same_on_all_ranks(rng, seeded):
    """Two ranks have different generators and one common one; different choices would block DDP."""
    first, second = load("choice"), load("choice")
    first.common_rng, second.common_rng = seeded(1), seeded(1)
    chosen = [(first.choose(seeded(10 + i)).name, second.choose(seeded(20 + i)).name) for i in range(20)]
    assert all(one == other for one, other in chosen) and len(set(chosen)) == 2


def test_a_choice_needs_a_network_if_one_of_its_methods_does():
    assert not load("choice").needs_net and not load("choice").needs_forward
    assert load("choice", methods=[CUTMIX, {"name": "transmix"}]).needs_net
    decoupled = load("choice", methods=[{"name": "decoupledmix"}])
    assert decoupled.needs_forward and not decoupled.needs_net


def test_nested_methods_inherit_pairing_and_per_image_unless_set(images, one_hot, rng):
    choice = load("choice", methods=[MIXUP, CUTMIX | {"pairing": "halves"}], pairing="flip", per_image=True)
    assert [method.pairing for method in choice.methods] == ["flip", "halves"]
    assert all(method.per_image for method in choice.methods)


def test_eval_mode_reaches_the_methods():
    choice = load("choice").eval()
    assert not any(method.training for method in choice.methods)
    assert all(method.training for method in choice.train().methods)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_invalid_weights_are_rejected(weights):
    with pytest.raises(ValueError, match="(?i)weights"):
        load("choice", methods=[MIXUP, CUTMIX], weights=weights)


def test_an_empty_choice_is_rejected():
    with pytest.raises(ValueError, match="0 methods"):
        load("choice", methods=[])


def test_a_misspelt_nested_method_suggests_the_nearest_name():
    with pytest.raises(ValueError, match="'cutmx'.*Did you mean 'cutmix'"):
        load("choice", methods=[{"name": "cutmx"}])


def test_a_nested_method_without_a_name_is_rejected():
    with pytest.raises(ValueError, match='requires a "name"'):
        load("choice", methods=[{"alpha": 1.0}])


def test_choices_can_be_nested(images, one_hot, rng):
    outer = load("choice", methods=[{"name": "choice", "methods": [MIXUP]}, CUTMIX])
    assert load({"name": "choice", **outer.hyperparameters()}).hyperparameters() == outer.hyperparameters()
    assert outer.mix(None, images(), one_hot(), rng)[0].shape == images().shape


def test_the_same_generator_makes_the_same_choices(seeded):
    choice = load("choice")
    once, again = ([choice.choose(generator).name for _ in range(10)] for generator in (seeded(1), seeded(1)))
    assert once == again


def test_the_directory_is_the_registry():
    assert "choice" in available() and not any(name.startswith("_") for name in available())
