"""Masks are one where the row's own image is visible; blending is exact there."""

import pytest
import torch

from hf_mixup.ops.masks import blend, blend_with, box_mask, boxes, is_shared, paste, share_outside, unsqueeze_like

ROLL = torch.tensor([1, 2, 0])
CPU = torch.device("cpu")


def box(lam, centre, size=(8, 8)):
    return boxes(size, torch.tensor([lam]), torch.tensor([centre]))[0].tolist()


def test_the_worked_boxes_of_cutmix():
    """Worked by hand: half-open rows and columns."""
    assert box(0.75, (4, 4)) == [2, 6, 2, 6]
    assert box(0.75, (0, 0)) == [0, 2, 0, 2]


def test_a_box_keeps_the_shape_of_the_image():
    assert box(0.75, (8, 16), (16, 32)) == [4, 12, 8, 24]


def test_a_box_stays_inside_the_image():
    lam, centre = torch.zeros(4), torch.tensor([[0, 0], [7, 0], [0, 9], [7, 9]])
    corners = boxes((8, 10), lam, centre)
    assert (corners >= 0).all() and (corners[:, 1] <= 8).all() and (corners[:, 3] <= 10).all()
    assert box(0.0, (4, 4)) == [0, 8, 0, 8]


def test_a_shared_box_equals_the_box_of_each_row(rng):
    for _ in range(50):
        lam, centre = torch.rand(1, generator=rng), torch.randint(12, (1, 2), generator=rng)
        assert torch.equal(boxes((12, 17), lam, centre), boxes((12, 17), lam.repeat(3), centre.repeat(3, 1))[:1])


def test_lam_one_is_an_empty_box():
    top, bottom, left, right = box(1.0, (3, 3))
    assert top == bottom and left == right


def test_a_mask_is_zero_in_its_box_and_one_outside():
    mask = box_mask(torch.tensor([[1, 3, 0, 2], [0, 0, 0, 0]]), (4, 3), CPU)
    assert mask.shape == (2, 1, 4, 3)
    assert mask[0, 0].tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert (mask[1] == 1).all()


def test_a_shared_box_has_one_mask():
    assert box_mask(torch.tensor([[1, 3, 0, 2]]).expand(5, 4), (4, 3), CPU).shape == (1, 1, 4, 3)


def test_expanded_draws_are_shared():
    assert is_shared(torch.tensor([[1, 2]])) and is_shared(torch.tensor([[1, 2]]).expand(3, 2))
    assert not is_shared(torch.tensor([[1, 2], [1, 2]]))
    assert not is_shared(torch.zeros(1, 2, device="meta"))  # reading it on a GPU would synchronise


@pytest.mark.parametrize("size", [(16, 16), (112, 96)])
def test_equal_boxes_give_the_same_as_one_shared_box(size, images):
    x, corners = images(3, size), torch.tensor([[2, 9, 1, 12]])
    assert torch.equal(paste(x, ROLL, corners), paste(x, ROLL, corners.repeat(3, 1)))


def test_share_outside_is_the_mean_of_the_mask(rng):
    lam, centre = torch.rand(50, generator=rng), torch.randint(12, (50, 2), generator=rng)
    corners = boxes((12, 17), lam, centre)
    assert torch.equal(share_outside(corners, (12, 17)), box_mask(corners, (12, 17), CPU).mean((1, 2, 3)))


def test_a_blend_is_exact_where_the_mask_is_zero_or_one(images):
    x = images(3)
    mask = (images(3, channels=1, seed=1) > 0.5).float()
    own = mask.bool().expand_as(x)
    mixed = blend(x, ROLL, mask)
    assert torch.equal(mixed[own], x[own]) and torch.equal(mixed[~own], x[ROLL][~own])


@pytest.mark.parametrize("value", [3e38, 1e-38, 65504.0])
def test_a_blend_of_extreme_values_is_exact_for_masks_of_0_and_1(value):
    x = torch.tensor([value, -1.0, 1.0])[:, None, None, None].expand(-1, 1, 2, 2)
    assert torch.equal(blend(x, ROLL, torch.ones(1, 1, 2, 2)), x)
    assert torch.equal(blend(x, ROLL, torch.zeros(1, 1, 2, 2)), x[ROLL])


def test_a_blend_is_the_weighted_mean(images):
    x, mask = images(3), images(3, channels=1, seed=1)
    torch.testing.assert_close(blend(x, ROLL, mask), mask * x + (1 - mask) * x[ROLL])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_blend_has_the_dtype_of_the_images(dtype, images):
    x, mask = images(3, dtype=dtype), images(3, channels=1, seed=1)
    mixed = blend(x, ROLL, mask)
    assert mixed.dtype == dtype
    wide = x.double()
    exact = mask.double() * wide + (1 - mask.double()) * wide[ROLL]
    # float32 error, then one rounding to the dtype
    assert (mixed.double() - exact).abs().max() <= 0.5 * torch.finfo(dtype).eps + 2e-7


def test_integer_images_are_rounded_not_truncated():
    x = torch.tensor([0, 3], dtype=torch.uint8)[:, None, None, None]
    mixed = blend(x, torch.tensor([1, 0]), torch.full((1, 1, 1, 1), 0.1))
    assert mixed.flatten().tolist() == [3, 0] and mixed.dtype == torch.uint8  # 2.7 and 0.3


def test_a_blend_does_not_modify_its_arguments(images):
    x, mask = images(3), images(3, channels=1, seed=1)
    before = x.clone()
    blend(x, ROLL, mask)
    paste(x, ROLL, torch.tensor([[0, 4, 0, 4]] * 3))
    assert torch.equal(x, before) and x._version == 0 and mask._version == 0


def test_a_blend_passes_gradient_to_images_and_mask(images):
    x, mask = images(3).requires_grad_(), images(3, channels=1, seed=1).requires_grad_()
    blend(x, ROLL, mask)[0].sum().backward()
    torch.testing.assert_close(x.grad[0], mask[0].detach().expand(3, -1, -1))
    torch.testing.assert_close(x.grad[1], 1 - mask[0].detach().expand(3, -1, -1))
    torch.testing.assert_close(mask.grad[0, 0], (x[0] - x[1]).detach().sum(0))


def test_blend_with_accepts_images_from_outside_the_batch(images):
    x, other = images(2), images(2, seed=5)
    torch.testing.assert_close(blend_with(x, other, torch.full((1, 1, 1, 1), 0.25)), 0.25 * x + 0.75 * other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_shared_box_gives_the_same_as_the_mask(dtype, images):
    x, corners = images(3, (6, 10), dtype=dtype), torch.tensor([[1, 4, 2, 9]] * 3)
    sliced = paste(x, ROLL, corners)
    assert torch.equal(sliced, blend(x, ROLL, box_mask(corners, (6, 10), CPU)))


def test_unsqueeze_like_broadcasts_over_all_but_the_batch_dimension(images):
    assert unsqueeze_like(torch.tensor([1.0, 2.0]), images(2)).shape == (2, 1, 1, 1)
    assert unsqueeze_like(torch.tensor([1.0, 2.0]), torch.zeros(2, 7)).shape == (2, 1)
