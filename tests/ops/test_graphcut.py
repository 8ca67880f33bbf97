"""Minimum-energy labels, compared with enumeration on small grids and an exact minimum cut on larger ones."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from hf_mixup.ops.graphcut import minimise

LEVELS = pytest.mark.parametrize("levels", [2, 3])


def energy(labels, unary, down, right):
    """(...) energy of labels (..., h, w) of one grid."""
    levels = len(unary)
    share = labels.double() / (levels - 1)
    own = sum((unary[level].double() * (labels == level)).sum((-2, -1)) for level in range(levels))
    below = (down.double().clamp(min=0) * share.diff(dim=-2).square()).sum((-2, -1))
    return own + below + (right.double().clamp(min=0) * share.diff(dim=-1).square()).sum((-2, -1))


def grids(count, height, width, levels, rng, strength=1.0):
    """Random costs, convex in the level, and edge weights, some of them negative."""
    ends = torch.randn(count, 2, height, width, generator=rng)
    unary = ends if levels == 2 else torch.stack([ends[:, 0], ends.mean(1) - 0.2, ends[:, 1]], 1)
    down = torch.rand(count, height - 1, width, generator=rng) * strength - 0.1
    right = torch.rand(count, height, width - 1, generator=rng) * strength - 0.1
    return unary, down, right


def arcs(levels, unary, down, right):
    """(from, to, capacity) of the graph whose minimum cut is the optimal labelling (Ishikawa, 2003)."""
    height, width = unary.shape[1:]
    cuts = levels - 1
    source, sink, forever = height * width * cuts, height * width * cuts + 1, 1e3
    for row, column in product(range(height), range(width)):
        cell = (row * width + column) * cuts
        chain = [source, *range(cell, cell + cuts), sink]
        costs = unary[:, row, column] - unary[:, row, column].min()
        for level in range(levels):
            yield chain[level], chain[level + 1], costs[level]
        for level in range(1, cuts):
            yield chain[level + 1], chain[level], forever
        for other, weight in (
            (cell + width * cuts, down[row, column] if row + 1 < height else 0),
            (cell + cuts, right[row, column] if column + 1 < width else 0),
        ):
            for one, two in ((cell, other), (other, cell)):
                for level in range(cuts):
                    yield one + level, two + level, max(weight, 0) / cuts**2
                if cuts == 2:
                    yield one + 1, two, 2 * max(weight, 0) / cuts**2


def minimal_cut(unary, down, right):
    """(h, w) minimum-energy labels of one grid, by integer maximum flow."""
    levels, height, width = unary.shape
    tail, head, capacity = zip(*(arc for arc in arcs(levels, *(t.numpy() for t in (unary, down, right))) if arc[2] > 0))
    size = height * width * (levels - 1) + 2
    graph = csr_matrix(((np.array(capacity) * 1e6).round().astype(np.int32), (tail, head)), shape=(size, size))
    left = (graph - maximum_flow(graph, size - 2, size - 1).flow).tocsr()
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    shown = np.zeros(size, int)
    shown[breadth_first_order(left, size - 2, return_predecessors=False)] = 1
    return torch.from_numpy(shown[:-2].reshape(height, width, levels - 1).sum(2))


def best_of_all(unary, down, right):
    levels, height, width = unary.shape
    every = torch.tensor(list(product(range(levels), repeat=height * width))).view(-1, height, width)
    return energy(every, unary, down, right).min()


@LEVELS
@pytest.mark.parametrize("size", [(1, 2), (2, 2), (3, 3), (2, 4), (4, 1)])
def test_the_labelling_of_a_small_grid_is_optimal(levels, size, rng):
    batch = grids(8, *size, levels, rng)
    for labels, *grid in zip(minimise(*batch), *batch):
        torch.testing.assert_close(energy(labels, *grid), best_of_all(*grid))


@LEVELS
@pytest.mark.parametrize("size", [(4, 4), (8, 8), (5, 12), (12, 5)])
def test_the_cut_is_optimal_if_one_side_is_short(levels, size, rng):
    batch = grids(6, *size, levels, rng)
    for labels, *grid in zip(minimise(*batch), *batch):
        torch.testing.assert_close(energy(labels, *grid), energy(minimal_cut(*grid), *grid), atol=1e-4, rtol=0)


@LEVELS
@pytest.mark.parametrize("strength", [1.0, 4.0])
@pytest.mark.parametrize("size", [(16, 16), (9, 17)])
def test_large_grids_are_nearly_optimal(levels, strength, size, rng):
    """The distance to the minimum is small relative to that of random labels."""
    batch = grids(4, *size, levels, rng, strength)
    gaps = []
    for labels, *grid in zip(minimise(*batch), *batch):
        least = energy(minimal_cut(*grid), *grid)
        chance = energy(torch.randint(levels, (50, *size), generator=rng), *grid).mean()
        gaps.append((energy(labels, *grid) - least) / (chance - least))
    gaps = torch.stack(gaps)
    assert gaps.max() < 0.02 and gaps.mean() < 0.005, gaps


@LEVELS
@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_no_constant_labelling_has_less_energy(levels, side, rng):
    batch = grids(16, side, side, levels, rng, strength=4.0)
    for labels, *grid in zip(minimise(*batch), *batch):
        for level in range(levels):
            assert energy(labels, *grid) <= energy(torch.full_like(labels, level), *grid) + 1e-5


@pytest.mark.parametrize("side", [3, 16])
def test_the_solution_of_a_grid_does_not_depend_on_the_batch(side, rng):
    batch = grids(7, side, side, 3, rng)
    order = torch.randperm(7, generator=rng)
    labels = minimise(*batch)
    assert torch.equal(minimise(*(part[order] for part in batch)), labels[order])
    assert torch.equal(minimise(*(part[2:3] for part in batch)), labels[2:3])


def test_costs_are_not_modified(rng):
    batch = grids(2, 4, 4, 3, rng)
    before = [part.clone() for part in batch]
    minimise(*batch)
    assert all(torch.equal(part, was) for part, was in zip(batch, before))


def test_more_than_three_levels_are_rejected(rng):
    with pytest.raises(ValueError, match="costs of 4 levels"):
        minimise(torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, 2), torch.zeros(1, 2, 1))
