"""Assignments have the same cost as scipy's."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from hf_mixup.ops.assignment import assign


def tables(kind, side, rng):
    cost = torch.rand(12, side, side, generator=rng)
    return {"any": cost, "ties": (3 * cost).floor(), "negative": cost - 0.5, "equal": torch.ones_like(cost)}[kind]


@pytest.mark.parametrize("kind", ["any", "ties", "negative", "equal"])
@pytest.mark.parametrize("side", [1, 2, 3, 8, 16])
def test_an_assignment_has_the_same_cost_as_scipys(kind, side, rng):
    cost = tables(kind, side, rng)
    column = assign(cost)
    assert torch.equal(column.sort(1).values, torch.arange(side).expand(12, -1))
    for table, found in zip(cost.double().numpy(), column.numpy(), strict=True):
        rows, best = linear_sum_assignment(table)
        assert table[rows, found].sum() == pytest.approx(table[rows, best].sum(), abs=1e-9)


def test_a_worked_example():
    cost = torch.tensor([[[4.0, 1, 3], [2, 0, 5], [3, 2, 2]]])
    assert assign(cost).tolist() == [[1, 0, 2]]


def test_no_value_is_read_on_the_host(watch, rng):
    cost = torch.rand(3, 5, 5, generator=rng)
    with watch(cost):
        assign(cost)
