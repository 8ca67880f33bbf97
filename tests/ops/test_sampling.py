"""Draws have the documented distribution and use the given generator."""

import math

import pytest
import torch

from hf_mixup.ops.sampling import PAIRINGS, beta, dirichlet, generator, integers, on_device, partners, points, uniform

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs
COUNT = 20_000


def close(mean, expected, sigma, count=COUNT):
    return abs(float(mean) - expected) < SIGMAS * sigma / math.sqrt(count)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0, 8.0])
def test_beta_has_the_mean_and_variance_of_beta(alpha, rng):
    lam = beta(alpha, COUNT, rng)
    variance = 1 / (4 * (2 * alpha + 1))
    # the squared distance from the mean lies in [0, 1/4]: its sigma is at most 1/8
    assert close(lam.mean(), 0.5, math.sqrt(variance))
    assert close((lam.double() - 0.5).square().mean(), variance, 1 / 8)


def test_beta_of_one_is_uniform(rng):
    lam = beta(1.0, COUNT, rng)
    for quantile in (0.1, 0.5, 0.9):
        assert close((lam < quantile).float().mean(), quantile, math.sqrt(quantile * (1 - quantile)))


@pytest.mark.parametrize("alpha", [1e-30, 1e-6, 1e-3, 1e-2, 1e6])
def test_beta_of_any_alpha_is_a_number_from_zero_to_one(alpha, rng):
    lam = beta(alpha, COUNT, rng)
    assert ((lam >= 0) & (lam <= 1)).all()  # false for NaN
    assert close(lam.mean(), 0.5, 0.5)


def test_a_tiny_alpha_draws_0_or_1(rng):
    lam = beta(1e-6, 1000, rng)
    assert ((lam < 1e-3) | (lam > 1 - 1e-3)).float().mean() > 0.99


def test_alpha_zero_is_no_mixing(rng):
    assert beta(0.0, 4, rng).tolist() == [1, 1, 1, 1]


def test_draws_of_beta_are_independent(rng):
    lam = beta(1.0, COUNT, rng)
    products = (lam[1:] - 0.5) * (lam[:-1] - 0.5)
    assert close(products.mean(), 0.0, 1 / 12)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.5, 1.0, 1e3])
@pytest.mark.parametrize("parts", [1, 3])
def test_rows_of_dirichlet_are_non_negative_and_sum_to_one(alpha, parts, rng):
    shares = dirichlet(alpha, 1000, parts, rng)
    assert shares.shape == (1000, parts) and shares.dtype == torch.float32
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(1000))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_dirichlet_has_the_mean_and_variance_of_dirichlet(alpha, rng):
    shares = dirichlet(alpha, 20000, 3, rng)
    variance = 2 / 9 / (3 * alpha + 1)
    assert (shares.mean(0) - 1 / 3).abs().max() < 5 * (variance / 20000) ** 0.5
    torch.testing.assert_close(shares.var(0), torch.full((3,), variance), rtol=0.05, atol=0)


def test_dirichlet_of_alpha_zero_is_one_in_the_first_part(rng):
    assert dirichlet(0, 2, 3, rng).tolist() == [[1, 0, 0]] * 2


def test_uniform_stays_in_its_range(rng):
    drawn = uniform(0.1, 0.8, COUNT, rng)
    assert ((drawn >= 0.1) & (drawn < 0.8)).all() and drawn.dtype == torch.float32
    assert close(drawn.mean(), 0.45, 0.7 / math.sqrt(12))


@pytest.mark.parametrize("high", [7, torch.full((COUNT,), 7)])
def test_integers_are_uniform(high, rng):
    counts = integers(high, COUNT, rng).bincount(minlength=7)
    assert len(counts) == 7
    for count in counts:
        assert close(count / COUNT, 1 / 7, math.sqrt(6) / 7)


def test_each_draw_can_have_its_own_range(rng):
    high = torch.arange(1, 1001)
    drawn = integers(high, 1000, rng)
    assert (drawn >= 0).all() and (drawn < high).all()


def test_points_cover_every_pixel_and_stay_inside(rng):
    drawn = points((2, 3), 2000, rng)
    assert drawn.unique(dim=0).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("count", [2, 3, 7, 8])
def test_partners_are_a_permutation(pairing, count, rng):
    for _ in range(10):
        assert partners(count, pairing, rng).sort().values.tolist() == list(range(count))


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("count", [0, 1])
def test_a_single_row_is_its_own_partner(pairing, count, rng):
    assert partners(count, pairing, rng).tolist() == list(range(count))


@pytest.mark.parametrize("pairing", ["shift", "derangement"])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_shift_and_derangement_have_no_fixed_point(pairing, count, rng):
    for _ in range(50):
        assert (partners(count, pairing, rng) != torch.arange(count)).all()


def test_halves_and_flips_of_even_batches_have_no_fixed_point(rng):
    assert partners(4, "halves", rng).tolist() == [2, 3, 0, 1]
    assert partners(4, "flip", rng).tolist() == [3, 2, 1, 0]
    assert partners(5, "flip", rng).tolist() == [4, 3, 2, 1, 0]
    assert (partners(5, "halves", rng) != torch.arange(5)).all()


@pytest.mark.parametrize("pairing", ["shift", "permutation", "derangement"])
def test_partners_are_uniform_over_all_other_rows(pairing, rng):
    count, draws = 5, 4000
    first = torch.stack([partners(count, pairing, rng)[0] for _ in range(draws)]).bincount(minlength=count)
    candidates = range(count) if pairing == "permutation" else range(1, count)
    share = 1 / len(candidates)
    for row in candidates:
        assert close(first[row] / draws, share, math.sqrt(share * (1 - share)), draws)


def test_a_shift_is_the_same_for_all_rows(rng):
    partner = partners(6, "shift", rng)
    assert len(((partner - torch.arange(6)) % 6).unique()) == 1


def test_an_unknown_pairing_lists_the_known_ones(rng):
    with pytest.raises(ValueError, match="'random'.*shift, permutation"):
        partners(4, "random", rng)


def test_draws_do_not_use_the_global_generator(rng):
    before = torch.get_rng_state()
    beta(0.2, 4, rng), uniform(0, 1, 4, rng), integers(9, 4, rng), points((4, 4), 4, rng)
    [partners(5, pairing, rng) for pairing in PAIRINGS]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_is_a_function_of_its_key():
    assert torch.equal(torch.rand(3, generator=generator(1, 2)), torch.rand(3, generator=generator(1, 2)))


def test_similar_keys_give_independent_streams():
    keys = [(0,), (1,), (0, 1), (1, 0), (1, 1), (0, 0, 1)]
    draws = torch.stack([torch.rand(2000, generator=generator(*key)) for key in keys])
    correlation = draws.corrcoef() - torch.eye(len(keys))
    assert correlation.abs().max() < SIGMAS / math.sqrt(2000)  # sigma of the correlation of independent draws


def test_a_device_generator_is_seeded_by_the_cpu_generator(seeded):
    cpu = torch.device("cpu")
    first, again, other = (torch.rand(3, generator=on_device(seeded(seed), cpu)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("alpha", [1e-30, 1e-3, 1e6])
def test_dirichlet_of_any_alpha_sums_to_one(alpha, rng):
    share = dirichlet(alpha, 1000, 5, rng)
    assert (share >= 0).all()  # false for NaN
    torch.testing.assert_close(share.sum(1), torch.ones(1000))
