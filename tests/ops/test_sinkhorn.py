"""Optimal transport plans: sums, limit for small eps, and stopping."""

import itertools

import pytest
import torch

from hf_mixup.ops.sinkhorn import sinkhorn


def costs(count=3, rows=4, columns=4, seed=0):
    return torch.rand(count, rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows, columns", [(4, 4), (3, 6), (1, 1)])
def test_rows_and_columns_of_a_plan_sum_to_their_weights(rows, columns):
    plan = sinkhorn(costs(rows=rows, columns=columns), 0.1, 500, 1e-6)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full((3, columns), 1 / columns))
    torch.testing.assert_close(plan.sum(2), torch.full((3, rows), 1 / rows), atol=1e-5, rtol=0)


def test_with_a_small_eps_the_plan_is_the_optimal_assignment():
    cost = costs()
    plan = sinkhorn(cost, 0.005, 2000, 1e-7) * 4
    for matrix, found in zip(cost, plan):
        best = min(itertools.permutations(range(4)), key=lambda order: sum(matrix[i, j] for i, j in enumerate(order)))
        assert found.argmax(1).tolist() == list(best)


def test_iterations_stop_for_the_whole_batch_when_the_mean_change_is_below_the_threshold():
    """The first plan converges at once, the second does not: both stop in the same round."""
    cost = torch.stack([torch.zeros(4, 4), 5 * costs(1)[0]])
    together = sinkhorn(cost, 0.1, 100, 0.1)
    rounds = next(n for n in range(1, 101) if torch.equal(sinkhorn(cost, 0.1, n, 0.0), together))
    assert 1 < rounds < 100
    assert torch.equal(sinkhorn(cost, 0.1, 100, 0.1), sinkhorn(cost, 0.1, rounds, 0.1))


def test_stopping_early_gives_the_same_as_all_rounds(monkeypatch):
    """On a GPU all rounds run, the later ones without effect."""

    cost = 5 * costs()
    stopped = sinkhorn(cost)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: True)  # as if nothing had converged
    torch.testing.assert_close(sinkhorn(cost), stopped, atol=0, rtol=0)


def test_large_costs_give_finite_plans():
    """Squared distances of features are thousands; divided by `eps` they overflow in half precision."""
    plan = sinkhorn(1e4 * costs())
    torch.testing.assert_close(plan.sum((1, 2)), torch.ones(3), atol=1e-2, rtol=0)


def test_half_precision_costs_are_computed_in_float32():
    assert sinkhorn(costs().bfloat16()).dtype == torch.float32


def test_no_gradient_flows_through_the_plan():
    assert not sinkhorn(costs().requires_grad_()).requires_grad
