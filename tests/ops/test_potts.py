"""Low-energy labels, compared with enumeration on small grids and exact dynamic programming on larger ones."""

from itertools import product

import pytest
import torch

from hf_mixup.ops.potts import checkerboard, labelling, one_hot


def problems(count, size, labels, rng, weight=0.3):
    """Unary costs (B, S, L) of saliency with few peaks, and pairwise costs; the last label is half of the first two."""
    unary = -(torch.rand(count, size[0] * size[1], labels, generator=rng) ** 3)
    unary[:, :, -1] = unary[:, :, :2].mean(2) - 0.01
    clash = 1 - torch.eye(labels)
    clash[-1, :2] = clash[:2, -1] = 0.25
    return unary, clash.expand(count, -1, -1), weight, size


def energy(labels, unary, clash, weight, size):
    """(...) energy of integer labels (..., S) of one grid of costs (S, L)."""
    grid = labels.unflatten(-1, size)
    own = unary[torch.arange(len(unary)), labels].sum(-1)
    below = clash[grid[..., 1:, :], grid[..., :-1, :]].sum((-1, -2))
    return own + weight * (below + clash[grid[..., 1:], grid[..., :-1]].sum((-1, -2)))


def least(unary, clash, weight, size):
    """The minimum energy of one grid, by dynamic programming over cells; the state is the last cell of each column."""
    labels, width = unary.shape[1], size[1]
    best = torch.zeros((labels,) * width)
    for cell, own in enumerate(unary):
        row, column = divmod(cell, width)
        best = best.movedim(column, -1)
        above = (best[..., None] + weight * clash * (row > 0)).amin(-2)
        best = (above + own).movedim(-1, column)
        if column:
            shape = [labels if axis in (column - 1, column) else 1 for axis in range(width)]
            best = best + weight * clash.reshape(shape)
    return best.min()


def gaps(batch):
    """(B,) distance of labels from the minimum energy, relative to that of random labels."""
    unary, clash, weight, size = batch
    found = labelling(*batch).argmax(-1)
    chance = torch.randint(unary.shape[2], (50, unary.shape[1]), generator=torch.Generator().manual_seed(1))
    result = []
    for own, unlike, label in zip(unary, clash, found):
        low, mean = least(own, unlike, weight, size), energy(chance, own, unlike, weight, size).mean()
        result.append((energy(label, own, unlike, weight, size) - low) / (mean - low))
    return torch.stack(result)


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (2, 4), (4, 1), (3, 3)])
def test_the_reference_solution_is_exact(size, rng):
    unary, clash, weight, _ = problems(3, size, 3, rng)
    every = torch.tensor(list(product(range(3), repeat=size[0] * size[1])))
    for own, unlike in zip(unary, clash):
        found = energy(every, own, unlike, weight, size).min()
        torch.testing.assert_close(least(own, unlike, weight, size), found)


@pytest.mark.parametrize("weight", [0.04, 0.08, 0.2])
@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 4)])
def test_labels_are_nearly_optimal(size, weight, rng):
    gap = gaps(problems(40, size, 6, rng, weight))
    assert gap.min() > -1e-5
    assert gap.mean() < 0.01 and gap.max() < 0.1 and (gap < 1e-5).float().mean() > 0.7, gap


@pytest.mark.parametrize("weight", [0.0, 1e-6])
def test_with_weight_zero_each_cell_has_its_cheapest_label(weight, rng):
    unary, clash, _, size = problems(4, (4, 4), 5, rng)
    assert torch.equal(labelling(unary, clash, weight, size), one_hot(unary))


def test_no_constant_labelling_has_less_energy(rng):
    for weight in (0.1, 0.5, 2.0):
        batch = problems(8, (4, 4), 7, rng, weight)
        for own, unlike, label in zip(batch[0], batch[1], labelling(*batch).argmax(-1)):
            constant = torch.arange(7)[:, None].expand(-1, 16)
            assert (
                energy(label, own, unlike, weight, (4, 4)) <= energy(constant, own, unlike, weight, (4, 4)).min() + 1e-5
            )


def test_the_solution_of_a_grid_does_not_depend_on_the_batch(rng):
    unary, clash, weight, size = problems(5, (4, 6), 4, rng)
    found = labelling(unary, clash, weight, size)
    assert found.shape == unary.shape and (found.sum(-1) == 1).all()
    assert torch.equal(labelling(unary[2:3], clash[2:3], weight, size), found[2:3])


def test_costs_are_not_modified(rng):
    unary, clash, weight, size = problems(2, (3, 3), 4, rng)
    before = unary.clone(), clash.clone()
    labelling(unary, clash, weight, size)
    assert torch.equal(unary, before[0]) and torch.equal(clash, before[1])


def test_neighbours_have_opposite_colours():
    white, near = checkerboard((3, 4), torch.device("cpu"))
    white = white[:, 0].float()
    assert near.sum() == 2 * (2 * 4 + 3 * 3) and torch.equal(near, near.T)
    assert white @ near @ white == 0 and (1 - white) @ near @ (1 - white) == 0
