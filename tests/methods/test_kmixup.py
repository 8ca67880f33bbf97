"""k-Mixup: groups of images assigned to other groups with the least sum of squared distances."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.kmixup import matched_partners
from hf_mixup.methods.mixup import mixup

# AnmingGu/kmixup-cifar10, train.py at ed2ecfd: mixup_data(WAVES, arange(10), 1.0, 4) with lam 0.3, the permutation
# ORDER and a network whose layer 0 is the image. They minimise the sum of distances; here it is the same assignment.
WAVES = (torch.arange(10 * 3 * 4 * 5).float() ** 2).sin().view(10, 3, 4, 5)
ORDER = torch.tensor([4, 0, 7, 2, 8, 9, 5, 1, 6, 3])
THEIR_PARTNERS = [0, 4, 2, 7, 1, 5, 8, 9, 6, 3]
THEIR_SUMS = [-1.926582, -3.547838, -1.629344, -1.194877, -0.291178, 3.561120, 2.254855, -3.264668, 3.089469, 1.502316]


def test_partners_and_images_match_the_authors():
    partner = matched_partners(WAVES, ORDER, 4)
    assert partner.tolist() == THEIR_PARTNERS
    mixed, _ = mixup(WAVES, torch.full((10,), 0.3), partner)
    torch.testing.assert_close(mixed.flatten(1).sum(1), torch.tensor(THEIR_SUMS), atol=1e-5, rtol=0)


def test_squared_distances_are_minimised():
    """Distances 0 and 5, or 2.6 twice: the first has the smaller sum, the second the smaller sum of squares."""
    x = torch.tensor([[0.0, 0.0], [-2.5, 0.714], [0.0, 0.0], [2.5, 0.714]])[:, :, None, None]
    assert matched_partners(x, torch.tensor([2, 3, 0, 1]), 2)[:2].tolist() == [3, 2]


@pytest.mark.parametrize("count", [2, 5, 8, 9])
def test_partners_are_a_permutation_of_groups_and_the_rest(count, images, rng):
    x, order = images(count), torch.randperm(count, generator=rng)
    partner = matched_partners(x, order, 4)
    for start in range(0, count, 4):
        assert sorted(partner[start : start + 4].tolist()) == sorted(order[start : start + 4].tolist())


def test_groups_of_one_are_mixup_with_a_permutation(images, rng):
    order = torch.randperm(7, generator=rng)
    assert torch.equal(matched_partners(images(7), order, 1), order)


def test_assigned_partners_are_closer_than_random_ones(images, one_hot, seeded):
    x = images(32)
    for seed in range(5):
        partner = load("kmixup").train().mix(None, x, one_hot(32), seeded(seed))[1].partner
        order = torch.randperm(32, generator=seeded(seed))
        matched, any_other = ((x - x[rows]).square().sum() for rows in (partner, order))
        assert matched < any_other


@pytest.mark.parametrize("k", [0, -4])
def test_an_invalid_k_is_rejected(k):
    with pytest.raises(ValueError, match="KMixup's k is"):
        load("kmixup", k=k)
