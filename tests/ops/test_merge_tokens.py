"""Token merging matches the authors', and every token is in one mean."""

import pytest
import torch

from hf_mixup.ops.token_merging import match, max_merges, merge, schedule

# The authors' code (github.com/Westlake-AI/openmixup at 37e1372, openmixup/models/utils/merge.py) made the golden
# numbers: parse_r(blocks, (check_parse_r(blocks, total, 196, -.5), -.5), total);
SCHEDULES = {
    (12, 98): [8, 12, 11, 10, 10, 9, 8, 7, 7, 6, 5, 5],
    (12, 49): [12, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2],
    (8, 98): [16, 17, 15, 13, 12, 10, 8, 7],
    (6, 32): [7, 7, 6, 5, 4, 3],
    (3, 8): [3, 3, 2],
}
# bipartite_soft_matching(features, 4, True, False), then with 3 on `others`, merge_source_map, merge_wavg of `values`:
FIRST = [
    [0, 5, 11, 6, 1, 7, 2, 8, 11, 9, 3, 10, 4, 11, 6, 12, 7],
    [0, 5, 11, 6, 1, 7, 2, 8, 6, 9, 3, 10, 4, 11, 6, 12, 7],
]
SOURCE = [
    [0, 6, 9, 2, 4, 7, 1, 3, 9, 8, 5, 5, 9, 9, 2, 6, 7],
    [0, 6, 9, 2, 4, 7, 1, 3, 2, 8, 5, 5, 9, 9, 2, 6, 7],
]
SIZES = [[1.0, 1, 2, 1, 1, 2, 2, 2, 1, 4], [1.0, 1, 3, 1, 1, 2, 2, 2, 1, 3]]
MEANS = [
    [1.0, -0.46068, -0.22472, 0.73139, 0.203, -0.07318, -0.6711, 0.41032, 0.99774, -0.1123],
    [-0.88878, 0.00265, 0.62722, -0.33748, -0.62921, -0.00526, 0.4632, 0.02952, -0.85597, -0.25744],
]


def wave(shape, step, function=torch.sin):
    """Features from a formula."""
    count = torch.Size(shape).numel()
    return function(torch.arange(count, dtype=torch.float64) * step).view(shape).float()


@pytest.mark.parametrize(("blocks", "total"), SCHEDULES)
def test_schedules_match_the_authors(blocks, total):
    assert schedule(blocks, total) == SCHEDULES[blocks, total]


def test_two_merges_match_the_authors():
    values = wave((2, 17, 4), 0.7, torch.cos)[..., :1]
    first = match(wave((2, 17, 4), 1.3), 4, 1)
    assert first.tolist() == FIRST
    values, sizes = merge(values, torch.ones(2, 17), first, 4)
    second = match(wave((2, 13, 4), 0.9), 3, 1)
    assert second.gather(1, first).tolist() == SOURCE
    values, sizes = merge(values, sizes, second, 3)
    assert sizes.tolist() == SIZES
    torch.testing.assert_close(values[..., 0], torch.tensor(MEANS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("total", [0, 1, 48, 195])
@pytest.mark.parametrize("blocks", [1, 3, 12, 24])
def test_a_schedule_sums_to_its_total(blocks, total):
    assert sum(schedule(blocks, total)) == total


@pytest.mark.parametrize("kept", [1, 2, 3, 5])
@pytest.mark.parametrize("tokens", [8, 17, 18])
def test_every_index_is_used_and_prefix_tokens_are_not_merged(tokens, kept, rng):
    features = torch.randn(4, tokens, 6, generator=rng)
    for count in range(max_merges(tokens, kept) + 1):
        place = match(features, count, kept)
        counts = torch.stack([row.bincount(minlength=tokens - count) for row in place])
        assert (counts >= 1).all() and counts.shape[1] == tokens - count
        assert (place[:, :kept] == torch.arange(kept)).all() and (counts[:, :kept] == 1).all()


def test_equal_tokens_merge_first(rng):
    features = torch.randn(1, 9, 16, generator=rng)
    features[:, 6] = 2 * features[:, 3]  # the same direction
    place = match(features, 1, 1)
    assert place[0, 6] == place[0, 3] and place[0].unique().numel() == 8


def test_merged_tokens_are_means_of_the_original_tokens(rng):
    tokens, weight = torch.randn(3, 12, 2, generator=rng), torch.ones(3, 12)
    place = match(torch.randn(3, 12, 4, generator=rng), 5, 1)
    means, sums = merge(tokens, weight, place, 5)
    torch.testing.assert_close((means * sums[..., None]).sum(1), tokens.sum(1))
    torch.testing.assert_close(sums.sum(1), torch.full((3,), 12.0))
