"""Properties of StreamPlan, over many combinations of units, processes, batch sizes and blocks."""

import itertools

import numpy as np
import pytest

from hf_mixup.data import DataError, StreamPlan
from hf_mixup.data.streaming.order import row_seeds

SPLITS = [(40,), (7, 0, 21, 12), (1,) * 33, (100, 3, 5), (16, 16, 16, 16)]
CASES = list(itertools.product(SPLITS, (1, 2, 3), (1, 4, 8), (1, 6, 2048), (0, 5)))


def plans(rows, world, size, block, seed):
    return [StreamPlan(rows, size, seed, rank, world, block) for rank in range(world)]


def places(plan, epoch):
    """The row numbers of a rank in its order."""
    starts, seen = np.cumsum([0, *plan.rows]), []
    for number, pieces in enumerate(plan.blocks(epoch)):
        block = [int(starts[unit]) + row for unit, first, stop in pieces for row in range(first, stop)]
        seen += [block[place] for place in plan.shuffled(epoch, number, len(block))]
    return seen


@pytest.mark.parametrize("rows", SPLITS, ids=str)
def test_ranks_are_disjoint_and_equally_long_and_drop_less_than_a_global_batch(rows):
    total = sum(rows)
    for _, world, size, block, seed in (case for case in CASES if case[0] == rows):
        for epoch in (0, 1, 7):
            parts = [places(plan, epoch) for plan in plans(rows, world, size, block, seed)]
            seen = [row for part in parts for row in part]
            assert len(set(seen)) == len(seen) and set(seen) <= set(range(total))
            assert {len(part) for part in parts} == {total // (world * size) * size}
            assert total - len(seen) < world * size


@pytest.mark.parametrize("rows", SPLITS, ids=str)
def test_the_order_is_a_function_of_seed_and_epoch(rows):
    def order(seed, epoch):
        return places(StreamPlan(rows, 4, seed, block=16), epoch)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("rows", [(41,), (20, 21)], ids=str)
def test_different_rows_are_dropped_in_each_epoch(rows):
    missed = [set(range(41)) - set(places(StreamPlan(rows, 8, 0), epoch)) for epoch in range(60)]
    assert {len(rows) for rows in missed} == {1} and len(set.union(*missed)) > 25


def test_a_block_is_shuffled_and_covers_few_units():
    plan = StreamPlan((10,) * 50, 5, 0, block=100)
    blocks = plan.blocks(0)
    assert [sum(stop - first for _, first, stop in pieces) for pieces in blocks] == [100] * 5
    assert all(len(pieces) <= 11 for pieces in blocks)
    assert sorted(plan.shuffled(0, 0, 100)) == list(range(100)) != plan.shuffled(0, 0, 100)
    assert plan.shuffled(0, 0, 100) != plan.shuffled(0, 1, 100) != plan.shuffled(1, 1, 100)


def test_every_row_is_equally_often_the_first_one():
    first = np.bincount([places(StreamPlan((5, 20, 15), 4, seed, block=8), 0)[0] for seed in range(800)], minlength=40)
    assert (
        len(first) == 40 and 20 * (first - 20.0).var() / 20 < 60
    )  # a probability of 1/40 each: a variance of about 20


def test_seeds_of_rows_depend_on_seed_epoch_and_row_alone():
    rows = np.arange(1000)
    seeds = row_seeds(0, 0, rows)
    assert row_seeds(0, 0, rows[::-1]) == seeds[::-1] and [row_seeds(0, 0, rows[5:6])[0]] == seeds[5:6]
    assert len({*seeds, *row_seeds(0, 1, rows), *row_seeds(1, 0, rows)}) == 3000
    assert 0 <= min(seeds) and max(seeds) < 2**62
    assert abs(np.mean(seeds) / 2**61 - 1) < 0.1


def test_the_error_for_a_too_small_split_gives_the_numbers():
    with pytest.raises(DataError, match="15 rows do not fill one batch of 8 on each of 2 .* at most 7"):
        StreamPlan((10, 5), 8, 0, world=2)
    with pytest.raises(DataError, match="block=0"):
        StreamPlan((10, 5), 8, 0, block=0)
