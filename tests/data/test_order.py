"""Properties of StreamPlan, over many combinations of units, processes, batch sizes and memory."""

import itertools

import numpy as np
import pytest

from hf_mixup.data import DataError, StreamPlan
from hf_mixup.data.streaming.order import piece_bytes, row_seeds
from hf_mixup.data.streaming.units import UnitSizes

SPLITS = [(40,), (7, 0, 21, 12), (1,) * 33, (100, 3, 5), (16, 16, 16, 16)]
KINDS = [
    {"sequential": sequential, "mixed": mixed, "resident": resident}
    for sequential, mixed, resident in itertools.product((False, True), repeat=3)
]
SHARES = list(itertools.product((1, 2, 3), (1, 4, 8), (1, 700, 2**20), (0, 5)))
ROW = 100  # bytes


def plan(rows, size, seed=0, rank=0, world=1, memory=2**20, sequential=False, mixed=False, resident=False):
    units = UnitSizes(tuple(rows), tuple(ROW * count for count in rows), sequential, mixed)
    return StreamPlan(units, size, seed, rank, world, memory, resident)


def batches(plan, epoch, skipped=0, left=None):
    """The row numbers of each batch of a rank; every row was read before it is drawn, and read only once."""
    reads, draws = plan.epoch(epoch, skipped, left)
    read, done, found = [], 0, []
    for needed, drawn in draws:
        for one in reads[done:needed]:
            assert (np.diff(one.rows) > 0).all()
            read += (one.rows + plan.first_rows[one.unit]).tolist()
        done = needed
        assert set(drawn.tolist()) <= set(read)
        found.append(drawn.tolist())
    assert done == len(reads) and len(set(read)) == len(read)
    return found


def rows_of(plan, epoch):
    return list(itertools.chain(*batches(plan, epoch)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(name for name, on in kind.items() if on) or "plain")
@pytest.mark.parametrize("rows", SPLITS, ids=str)
def test_ranks_are_disjoint_and_equally_long_and_drop_less_than_a_global_batch(rows, kind):
    total = sum(rows)
    for world, size, memory, seed in SHARES:
        for epoch in (0, 1):
            parts = [rows_of(plan(rows, size, seed, rank, world, memory, **kind), epoch) for rank in range(world)]
            seen = list(itertools.chain(*parts))
            assert len(set(seen)) == len(seen) and set(seen) <= set(range(total))
            assert {len(part) for part in parts} == {total // (world * size) * size}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(name for name, on in kind.items() if on) or "plain")
def test_an_epoch_continues_after_any_batch_with_the_same_rows(kind):
    for rows, (world, size, memory, seed) in itertools.product(SPLITS, SHARES):
        one = plan(rows, size, seed, world - 1, world, memory, **kind)
        for epoch in (0, 1):
            whole = batches(one, epoch)
            for skipped in {0, 1, len(whole) // 2, len(whole)}:
                assert batches(one, epoch, skipped) == whole[skipped:]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(name for name, on in kind.items() if on) or "plain")
def test_rows_that_were_not_drawn_are_shared_by_another_number_of_ranks(kind):
    rows, size = (7, 0, 21, 12, 30), 4
    for epoch, (before, after), done in itertools.product((0, 1), ((1, 3), (3, 1), (2, 2)), (0, 2, 4)):
        old = [batches(plan(rows, size, 0, rank, before, 700, **kind), epoch)[:done] for rank in range(before)]
        left = np.setdiff1d(np.arange(70), [row for part in old for batch in part for row in batch])
        new = [batches(plan(rows, size, 0, rank, after, 700, **kind), epoch, 0, left) for rank in range(after)]
        seen = [row for part in new for batch in part for row in batch]
        assert len(set(seen)) == len(seen) == len(left) // (after * size) * after * size
        assert set(seen) <= set(left.tolist())


@pytest.mark.parametrize("rows", SPLITS, ids=str)
def test_the_order_is_a_function_of_seed_and_epoch(rows):
    for resident in (False, True):
        orders = [
            tuple(rows_of(plan(rows, 4, seed, resident=resident), epoch)) for seed in (0, 1, 0) for epoch in (0, 1)
        ]
        assert orders[:2] == orders[4:] and len(set(orders)) == 4


@pytest.mark.parametrize("rows", [(41,), (20, 21)], ids=str)
def test_different_rows_are_dropped_in_each_epoch(rows):
    missed = [set(range(41)) - set(rows_of(plan(rows, 8), epoch)) for epoch in range(60)]
    assert {len(rows) for rows in missed} == {1} and len(set.union(*missed)) > 25


def test_the_memory_limits_what_is_held():
    one = plan((10,) * 50, 5, memory=120 * ROW)
    reads, draws = one.epoch(0)
    for batch, (needed, _) in enumerate(draws):
        held = sum(len(read.rows) for read in reads[:needed]) - 5 * batch
        assert held <= 120 and (held > 110 or needed == len(reads))


def test_mixed_units_are_drawn_from_before_the_memory_is_full():
    for mixed, rows in ((False, 200), (True, 20)):
        needed, _ = next(plan((10,) * 50, 5, memory=200 * ROW, mixed=mixed).epoch(0)[1])
        assert needed in (rows / 10, rows / 10 + 1)  # the first unit may be read from its middle on
    one = plan((10,) * 500, 5, memory=200 * ROW, mixed=True)
    held = [10 * needed - 5 * batch for batch, (needed, _) in enumerate(one.epoch(0)[1])]
    assert 200 <= max(held) <= 210 and held[60] > 150


def test_a_resident_split_is_shuffled_across_all_units_from_the_second_epoch_on():
    one = plan((100,) * 10, 50, resident=True)
    assert all(len({row // 100 for row in batch}) > 7 for batch in batches(one, 1))
    reads, draws = one.epoch(1)
    assert len(reads) == 10 and next(draws)[0] > 7


def test_each_rank_of_a_resident_split_reads_every_unit_and_takes_its_share_of_each():
    for rank in range(2):
        reads, _ = plan((100,) * 10, 10, rank=rank, world=2, resident=True).epoch(0)
        assert sorted(read.unit for read in reads) == list(range(10))
        assert all(40 <= len(read.rows) <= 60 for read in reads)


def test_units_that_are_read_from_their_start_are_read_in_order_and_by_turns():
    reads, _ = plan((1000,) * 40, 5, memory=300 * ROW, sequential=True).epoch(0)
    last, opened = {}, []
    for read in reads:
        assert last.get(read.unit, -1) < read.rows[0]
        last[read.unit] = read.rows[-1]
        assert len(read.rows) * ROW <= piece_bytes(300 * ROW) + ROW
        opened.append(read.unit)
    assert len(set(opened[:60])) > 10 and len(set(opened[: len(opened) // 4])) <= 17


@pytest.mark.parametrize("classes, rows, size, bar", [(100, 130_000, 110_000, 0.85), (10, 50_000, 2_200, 0.95)])
def test_a_sorted_split_is_shuffled(classes, rows, size, bar):
    """14 GB in row groups of 100 rows, and a split that fits into the memory."""
    group = max(1, piece_bytes(2**30) // (100 * size)) * 100
    counts = [min(group, rows - first) for first in range(0, rows, group)]
    units = UnitSizes(tuple(counts), tuple(size * count for count in counts))
    drawn = [rows for _, rows in StreamPlan(units, 64, 0, resident=rows * size <= 2**30).epoch(0)[1]]
    label = np.arange(rows) * classes // rows
    expected = classes * (1 - (1 - 1 / classes) ** 64)
    assert np.mean([len(set(label[batch].tolist())) for batch in drawn]) >= bar * expected


@pytest.mark.parametrize("resident", [False, True])
def test_every_row_is_equally_often_dropped(resident):
    dropped = np.zeros(41)
    for seed in range(800):
        dropped[list(set(range(41)) - set(rows_of(plan((5, 21, 15), 8, seed, resident=resident), 0)))] += 1
    # a probability of 1/41 each: a variance of about 20
    assert dropped.sum() == 800 and dropped.var() < 45


def test_seeds_of_rows_depend_on_seed_epoch_and_row_alone():
    rows = np.arange(1000)
    seeds = row_seeds(0, 0, rows)
    assert row_seeds(0, 0, rows[::-1]) == seeds[::-1] and [row_seeds(0, 0, rows[5:6])[0]] == seeds[5:6]
    assert len({*seeds, *row_seeds(0, 1, rows), *row_seeds(1, 0, rows)}) == 3000
    assert 0 <= min(seeds) and max(seeds) < 2**62
    assert abs(np.mean(seeds) / 2**61 - 1) < 0.1


def test_the_error_for_a_too_small_split_gives_the_numbers():
    with pytest.raises(DataError, match="15 rows do not fill one batch of 8 on each of 2 .* at most 7"):
        plan((10, 5), 8, world=2)
    with pytest.raises(DataError, match="memory=0"):
        plan((10, 5), 8, memory=0)
