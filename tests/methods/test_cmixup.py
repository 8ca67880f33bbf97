"""C-Mixup: partners have similar targets, with the authors' probabilities."""

import math

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.cmixup import near_partners

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs
STEPS = 4000

# huaxiuyao/C-Mixup, src/algorithm.py at 0b88fb3, get_mixup_sample_rate with scikit-learn's KernelDensity(bandwidth=0.6)
# on the targets below, rounded to five digits.
TARGETS = torch.tensor([0.0, 0.3, 1.0, 2.5, 0.35])
RATES = [
    [0.33607, 0.29658, 0.0838, 6e-05, 0.28349],
    [0.26059, 0.29528, 0.14951, 0.00036, 0.29426],
    [0.10585, 0.21494, 0.4245, 0.01865, 0.23606],
    [0.00016, 0.00115, 0.04197, 0.95517, 0.00156],
    [0.24826, 0.29329, 0.16366, 0.00048, 0.29431],
]


def rates(y, bandwidth):
    """(B, B) frequency of each partner of each row, for draws on a regular grid from 0 to 1."""
    partner = torch.stack([near_partners(y, torch.full((len(y),), (i + 0.5) / STEPS), bandwidth) for i in range(STEPS)])
    return torch.stack([row.bincount(minlength=len(y)) for row in partner.T]) / STEPS


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_partner_probabilities_match_the_authors(shape):
    torch.testing.assert_close(rates(TARGETS.view(shape), 0.6), torch.tensor(RATES), atol=1 / STEPS + 1e-5, rtol=0)


def test_targets_of_several_numbers_use_the_euclidean_distance():
    y = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    far = math.exp(-0.5 * (5 / 4) ** 2)
    expected = torch.tensor([1, far, 1]) / (2 + far)
    torch.testing.assert_close(rates(y, 4.0)[0], expected, atol=1 / STEPS + 1e-5, rtol=0)


def test_a_large_bandwidth_draws_all_rows_with_equal_probability():
    for bandwidth in (1e6, math.inf):
        torch.testing.assert_close(rates(TARGETS, bandwidth), torch.full((5, 5), 0.2), atol=2 / STEPS, rtol=0)


@pytest.mark.parametrize("bandwidth", [1e-30, 1e-3])
def test_a_small_bandwidth_only_draws_equal_targets(bandwidth, rng):
    y = torch.tensor([1.0, 2.0, 1.0, 3.0, 2.0, 1.0])
    for _ in range(50):
        partner = near_partners(y, torch.rand(6, generator=rng), bandwidth)
        assert torch.equal(y[partner], y)


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-24])
def test_draws_near_0_and_1_give_rows_of_the_batch(chance):
    partner = near_partners(TARGETS, torch.full((5,), chance), 1e-4)
    assert torch.equal(partner, torch.arange(5))


def test_images_and_numbers_are_mixed_in_the_same_way(images, rng):
    """Image i is filled with its target."""
    y = torch.linspace(0, 1, 8)
    x = y[:, None, None, None].expand(-1, 3, 4, 4)
    mixed, mix = load("cmixup", bandwidth=0.5).mix(None, x, y, rng)
    torch.testing.assert_close(mixed[:, 0, 0, 0], mix(y))


def test_partners_have_similar_targets(rng):
    y = torch.linspace(0, 1, 200)[torch.randperm(200, generator=rng)]
    mix = load("cmixup", bandwidth=0.05).mix(None, torch.zeros(200, 1, 2, 2), y, rng)[1]
    apart = (y[mix.partner] - y).square().mean().sqrt()
    assert 0.03 < apart < 0.06  # 0.05, less at the ends of the range


def test_each_row_draws_its_own_partner(rng):
    """With equal targets all rows are equally likely: of 200, a share of 1 - 1/e is drawn, with a sigma of 4.4 rows."""
    partner = load("cmixup").mix(None, torch.zeros(200, 1, 1, 1), torch.zeros(200), rng)[1].partner
    assert abs(len(partner.unique()) - 200 * (1 - math.exp(-1))) < SIGMAS * 4.4


def test_lam_is_beta_2_2(rng):
    method = load("cmixup", per_image=True)
    draws = torch.cat(
        [method.mix(None, torch.zeros(50, 1, 1, 1), torch.zeros(50), rng)[1].lam.double() for _ in range(200)]
    )
    assert abs(float(draws.mean()) - 0.5) < SIGMAS * math.sqrt(0.05 / len(draws))
    # its fourth central moment is 3/560
    assert abs(float(draws.var()) - 0.05) < SIGMAS * math.sqrt((3 / 560 - 0.05**2) / len(draws))


def test_the_pairing_cannot_be_changed():
    with pytest.raises(ValueError, match="Choose one of: label"):
        load("cmixup", pairing="shift")


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan])
def test_an_invalid_bandwidth_is_rejected(bandwidth):
    with pytest.raises(ValueError, match="CMixup's bandwidth is"):
        load("cmixup", bandwidth=bandwidth)


def test_compiling_gives_one_graph_and_the_same_result(rng):
    torch.compiler.reset()
    compiled = torch.compile(near_partners, backend="eager", fullgraph=True)
    for _ in range(3):
        chance = torch.rand(5, generator=rng)
        assert torch.equal(compiled(TARGETS, chance, 0.6), near_partners(TARGETS, chance, 0.6))
