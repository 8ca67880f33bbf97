"""Mix: targets are mixed with the indices and weights of the rows."""

import dataclasses
import pickle

import pytest
import torch

from hf_mixup import Mix

PAIR = Mix.pair(torch.tensor([1, 2, 0]), torch.tensor([0.75, 0.5, 1.0]))


def test_a_pair_has_the_row_in_column_0_and_its_partner_in_column_1():
    assert PAIR.index.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert PAIR.weight.tolist() == [[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]]
    assert PAIR.lam.tolist() == [0.75, 0.5, 1.0] and PAIR.partner.tolist() == [1, 2, 0]


def test_one_hot_targets_become_the_shares_of_the_classes():
    assert PAIR(torch.eye(3)).tolist() == [[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1]]


def test_numbers_are_averaged():
    assert PAIR(torch.tensor([0.0, 4.0, 8.0])).tolist() == [1.0, 6.0, 8.0]


def test_targets_of_any_shape_are_mixed_row_by_row():
    y = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PAIR(y)[0], 0.75 * y[0] + 0.25 * y[1])


def test_three_images_can_share_a_row():
    mix = Mix(torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 0.25, 0.25]]))
    assert mix(torch.tensor([4.0, 8.0, 16.0])).tolist() == [8.0]


def test_mixing_twice_is_mixing_the_targets_twice():
    y = torch.eye(3)
    assert torch.equal(PAIR(PAIR(y)), PAIR(torch.eye(3)) @ PAIR(torch.eye(3)))


def test_mix_none_keeps_the_targets():
    y = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    mix = Mix.none(torch.zeros(4, 3, 8, 8))
    assert torch.equal(mix(y), y) and mix.lam.tolist() == [1, 1, 1, 1]


def test_one_lam_is_shared_by_all_rows():
    assert Mix.pair(torch.tensor([1, 0]), torch.tensor([0.25])).weight.tolist() == [[0.25, 0.75]] * 2


@pytest.mark.parametrize("lam", torch.rand(50, generator=torch.Generator().manual_seed(0)).tolist() + [1e-9, 1 - 1e-7])
def test_mixing_two_rows_of_one_class_gives_exactly_that_class(lam):
    y = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert torch.equal(Mix.pair(torch.tensor([1, 0]), torch.tensor([lam]))(y), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_targets_are_mixed_in_float32(dtype):
    mix = Mix.pair(torch.tensor([1, 0]), torch.tensor([0.7001, 0.2999]))
    assert mix(torch.eye(2, dtype=dtype)).dtype == torch.float32
    assert torch.equal(mix(torch.eye(2, dtype=dtype)), mix.weight.gather(1, mix.index.argsort(1)))


def test_float64_targets_stay_float64():
    assert PAIR(torch.eye(3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_class_indices_raise_an_error_that_suggests_one_hot(dtype):
    """Binary labels mixed as integers are always 0: agaldran/balanced_mixup issue 1."""
    with pytest.raises(TypeError, match=rf"{dtype}.*one_hot"):
        PAIR(torch.tensor([0, 1, 1]).to(dtype))


def test_targets_are_not_modified():
    y = torch.eye(3)
    PAIR(y)
    assert y._version == 0 and torch.equal(y, torch.eye(3))


def test_gradient_reaches_both_rows():
    y = torch.zeros(3, requires_grad=True)
    PAIR(y)[0].backward()
    assert y.grad.tolist() == [0.75, 0.25, 0]


def test_lam_keeps_its_gradient():
    lam = torch.tensor([0.5, 0.5], requires_grad=True)
    Mix.pair(torch.tensor([1, 0]), lam)(torch.tensor([3.0, 1.0]))[0].backward()
    assert lam.grad.tolist() == [2.0, 0.0]


def test_a_mix_is_immutable():
    for name in ("index", "weight", "mask", "lam", "partner", "other"):
        with pytest.raises(AttributeError):
            setattr(PAIR, name, torch.ones(3, 2))


def test_the_parts_of_a_pair_are_built_once():
    calls = []
    mix = Mix.pair(torch.tensor([1, 0]), torch.tensor([0.25]), lambda: calls.append(1) or torch.ones(1, 1, 2, 2))
    assert not calls
    assert mix.mask is mix.mask and mix.index is mix.index and mix.weight is mix.weight
    assert len(calls) == 1


def test_mixing_targets_is_multiplication_with_the_mixed_identity():
    """`mix(eye)` is the target of a contrastive batch, and mixing is linear."""
    y = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(PAIR(torch.eye(3)) @ y, PAIR(y))


def test_a_pair_can_be_replaced_and_pickled():
    weight = torch.tensor([[1.0, 0.0]] * 3)
    changed = dataclasses.replace(PAIR, weight=weight)
    assert torch.equal(changed.index, PAIR.index) and torch.equal(changed(torch.eye(3)), torch.eye(3))
    again = pickle.loads(pickle.dumps(PAIR))
    assert torch.equal(again.weight, PAIR.weight) and again.mask is None


def test_a_pair_compiles_to_one_graph(rng):
    def shares(lam, y):
        mix = Mix.pair(torch.tensor([1, 2, 0]), lam)
        return mix(y), mix.weight, mix.index, Mix(mix.index, mix.weight)(y)

    lam, y = torch.rand(3, generator=rng), torch.rand(3, 4, generator=rng)
    compiled = torch.compile(shares, backend="eager", fullgraph=True)
    for found, wanted in zip(compiled(lam, y), shares(lam, y), strict=True):
        torch.testing.assert_close(found, wanted)
