"""Co-Mixup: the authors' numbers, and properties stated in the paper."""

from itertools import product

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.comixup import ban_duplicates, comixup, compatibility, solve, split_rows

# The authors' code (github.com/snu-mllab/Co-Mixup at 2a76816, with gco-wrapper 3.0.9) made the golden numbers:
#   match.get_onehot_matrix(-WORTH, NEAR, 3, idx=START, beta=.32, gamma=1, eta=0, thres=.83, niter=4, device="cpu")
#   match.mix_input(those shares, IMAGES, eye(3)), match.resolve_label(USES) and utils.distance(PLACES, "l1").
WORTH = ("4003050410213000", "1182000001540529", "5000803090610402")
NEAR = torch.tensor([[0.9, 0.0125, 0.05], [0.0125, 0.9, 0.0125], [0.05, 0.0125, 0.9]])
# twice the shares: of each output, of each image, in each of 4x4 cells
TWICE = (
    ("0001020200002000", "0221000001120222", "2000202021100000"),
    ("0002020200002000", "0020000000010012", "2200202022210210"),
    ("2202020201012000", "0020000000010012", "0000202021200210"),
)
TARGETS = ((0.21875, 0.46875, 0.3125), (0.25, 0.1875, 0.5625), (0.4375, 0.1875, 0.375))
# the first pixel of each cell of the first channel
CORNERS = (
    (0.30525, -0.24495, 0.1438, 0.63799, 0.10398, 0.36077, 0.25665, 0.93142)
    + (-0.00245, -0.33212, -0.13412, 0.2239, -0.76571, -0.88717, -0.6597, -0.07804),
    (0.30525, 0.4463, 0.1438, 0.79483, 0.10398, 0.36077, 0.25665, 0.93142)
    + (-0.00245, 0.07543, 0.09171, 0.14034, -0.76571, -0.02162, -0.36704, -0.07804),
    (0.0, 0.67412, 0.1438, 0.79483, 0.10398, 0.36077, 0.25665, 0.93142)
    + (-0.00245, 0.04406, 0.09171, 0.56754, -0.76571, -0.02162, -0.36704, -0.07804),
)
USES = ("1011", "1010", "1011", "1010", "0011", "1010")
BANNED = ("1000", "1000", "0010", "1010", "0000", "0010")


def digits(rows):
    """Strings of digits as a tensor."""
    return torch.tensor([[float(digit) for digit in row] for row in rows])


def costs(saliency):
    """(1, 1, S, m) costs of the cells of images with saliency (m, S)."""
    return -(saliency / saliency.sum(1, keepdim=True)).T[None, None]


def golden_shares():
    start = (torch.arange(48) * 7 // 3 % 3).view(1, 3, 16)
    return solve(costs(digits(WORTH)), NEAR[None], start, split_rows(3, 20).valid)


def test_labels_match_the_authors():
    twice = torch.stack([digits(output) for output in TWICE])
    torch.testing.assert_close(golden_shares()[0].mT * 2, twice)


def test_images_and_targets_match_the_authors():
    pixel = torch.arange(3 * 3 * 8 * 8, dtype=torch.float64).view(3, 3, 8, 8)
    x = ((pixel * 0.37).sin() * (pixel * 0.011).cos()).float()
    mixed, mix = comixup(x, golden_shares(), split_rows(3, 20))
    torch.testing.assert_close(mixed[:, 0, ::2, ::2].flatten(1), torch.tensor(CORNERS), atol=1e-5, rtol=0)
    torch.testing.assert_close(mix(torch.eye(3)), torch.tensor(TARGETS))


def test_banned_duplicates_match_the_authors():
    assert torch.equal(ban_duplicates(digits(USES)[None] > 0)[0], digits(BANNED))


def test_distances_match_the_authors():
    """Three peaks of 8x8 pixels, with their first pixel at (3, 4), (10, 2) and (7, 7)."""
    saliency = torch.zeros(3, 24, 24)
    for image, (row, column) in enumerate(((3, 4), (10, 2), (7, 7))):
        saliency[image, row : row + 8, column : column + 8] = 1
    near = compatibility(saliency, split_rows(3, 20), omega=1.0)
    torch.testing.assert_close(near[0], torch.tensor([[0.0, 9, 7], [9, 0, 8], [7, 8, 0]]) * 3 / 48)


# Objectives, with a threshold, of the labels that the same call gave for `peaked(m)`, by match.obj_fn_thres
@pytest.mark.parametrize(("size", "theirs"), [(8, -13.1644), (12, -22.8995)])
def test_the_authors_labels_have_no_lower_objective(size, theirs):
    place = torch.arange(size * 16, dtype=torch.float64).view(size, 16)
    cost = costs((place * 1.7).sin().square().pow(6).float())
    start = (torch.arange(size * 16) * 7 // 3 % size).view(1, size, 16)
    shares = solve(cost, torch.eye(size)[None], start, split_rows(size, 20).valid)
    assert objective(shares, cost, 0.32, 1.0, 0.83) <= theirs + 1e-3


def objective(shares, cost, beta, gamma, threshold):
    """(...) objective of the labels (..., m, S, m) of a group: cells, neighbours, and images used too often."""
    cells = shares.shape[-2]
    side = int(cells**0.5)
    grid = shares.unflatten(-2, (side, side))
    seams = sum(grid.diff(dim=axis).square().sum((-4, -3, -2, -1)) for axis in (-3, -2))
    own = shares.sum(-2)
    others = own.sum(-2, keepdim=True) - own
    crowd = (own * others * (others > threshold * cells)).sum((-1, -2))
    return (shares * cost[0]).sum((-1, -2, -3)) + beta / cells / 2 * seams + gamma / cells * crowd


@pytest.mark.parametrize("gamma", [0.2, 1.0])
@pytest.mark.parametrize("beta", [0.1, 0.32])
def test_the_labelling_of_a_whole_group_is_nearly_optimal(beta, gamma, rng):
    """Compared with all labellings of two outputs of two images with 2x2 cells."""
    every = torch.nn.functional.one_hot(torch.tensor(list(product(range(2), repeat=8))), 2).float().view(-1, 2, 4, 2)
    gaps = []
    for _ in range(30):
        cost = costs(torch.rand(2, 4, generator=rng) ** 2)
        start = torch.randint(2, (1, 2, 4), generator=rng)
        shares = solve(cost, torch.eye(2)[None], start, split_rows(2, 2).valid, beta=beta, gamma=gamma, threshold=0.0)
        all_of_them = objective(every, cost, beta, gamma, 0.0)
        found = objective(shares, cost, beta, gamma, 0.0)[0]
        gaps.append((found - all_of_them.min()) / (all_of_them.mean() - all_of_them.min()))
    gaps = torch.stack(gaps)
    assert gaps.mean() < 0.1 and (gaps < 1e-5).float().mean() > 0.8, gaps


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(100, 20, [20] * 5), (6, 20, [6]), (7, 3, [2, 2, 3]), (2, 2, [2])]
)
def test_groups_have_nearly_equal_sizes(count, most, sizes):
    groups = split_rows(count, most)
    assert groups.valid.sum(1).tolist() == sizes and groups.rows.max() < count
    assert torch.equal(groups.rows[groups.valid], torch.arange(count))


def noise(count, size, rng):
    return torch.rand(count, 3, *size, generator=rng), torch.rand(count, *size, generator=rng) ** 6


@pytest.mark.parametrize("grid", [2, 4, 5])
@pytest.mark.parametrize("count", [4, 7, 9])
def test_cells_have_one_image_or_halves_of_two_of_the_same_group(count, grid, rng):
    x, saliency = noise(count, (16, 20), rng)
    method, groups = load("comixup", grids=[grid], part=4), split_rows(count, 4)
    shares = method.shares(saliency, groups, rng)[groups.valid]
    assert set(shares.unique().tolist()) <= {0.0, 0.5, 1.0} and (shares.sum(-1) == 1).all()
    mixed, mix = comixup(x, method.shares(saliency, groups, rng), groups)
    part_of = (torch.arange(count)[:, None] >= groups.rows[:, 0]).sum(1)
    shown = mix.weight > 0
    assert (part_of[mix.index] == part_of[:, None])[shown].all()
    if grid != 5:  # its cells have different sizes
        assert (mix.weight.diff(dim=1) <= 0).all()  # the most used image first
    torch.testing.assert_close(mix.weight.sum(1), torch.ones(count))
    assert mixed.shape == x.shape


def test_groups_are_independent(rng):
    """The result of the first group does not depend on the second."""
    saliency = torch.rand(8, 16, 16, generator=rng) ** 6
    other = saliency.clone()
    other[4:] = other[4:].flip(2)
    method, groups = load("comixup", part=4), split_rows(8, 4)
    shares, again = (method.shares(maps, groups, torch.Generator().manual_seed(3)) for maps in (saliency, other))
    assert torch.equal(shares[0], again[0]) and not torch.equal(shares[1], again[1])


def test_all_images_are_used(rng):
    """The paper's motivation for the penalty: without it, all outputs use the same few images."""
    saliency = torch.rand(20, 32, 32, generator=rng) ** 6
    saliency[0] += 3 * (torch.arange(32) == 4)  # more peaked than all others
    use = {}
    for gamma in (0.0, 1.0):
        shares = load("comixup", gamma=gamma).shares(saliency, split_rows(20, 20), torch.Generator().manual_seed(0))
        use[gamma] = shares.sum((1, 2))[0] / 16
    assert use[1.0].min() > 0.5 and use[1.0].max() < 1.6, use[1.0]
    assert use[0.0].max() > 5, use[0.0]


def test_without_the_clean_loss_a_step_is_the_mixed_loss(make_net, images, one_hot, seeded):
    net, x, y = make_net("cnn"), images(), one_hot()
    net.model.eval()
    whole = load("comixup", beta=0.05).train()
    bare = load("comixup", beta=0.05, clean_weight=0.0).train()
    assert whole.needs_forward and not bare.needs_forward
    losses = whole(net, x, y, seeded(1))
    torch.testing.assert_close(losses["clean"], net.loss(net(x), y))
    torch.testing.assert_close(losses["mix"], bare(net, x, y, seeded(1))["mix"])


@pytest.mark.parametrize(
    "wrong",
    [{"part": 1}, {"sweeps": 0}, {"grids": []}, {"beta": -1.0}]
    + [{"alpha": 0.0}, {"omega": 1.1}, {"clean_weight": float("nan")}],
)
def test_invalid_hyperparameters_are_rejected(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        load("comixup", **wrong)
