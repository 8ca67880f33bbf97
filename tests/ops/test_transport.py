"""Block transport: the plan, and the composed images."""

import pytest
import torch

from hf_mixup.ops.transport import compose, grid_distances, plan


def saliencies(count, side, rng, peak=8):
    """Random maps that sum to one; a higher `peak` concentrates them in fewer blocks."""
    worth = torch.rand(count, side, side, generator=rng) ** peak
    return worth / worth.sum((1, 2), keepdim=True)


def plain_plan(worth, wanted, price):
    """The plan of one image in plain Python, claim by claim."""
    side = len(worth)
    cost = grid_distances(side, worth.device) * price - worth.flatten()[:, None] * wanted.flatten()
    for _ in range(side):
        claims = {}
        for block, place in enumerate(cost.argmin(1).tolist()):
            claims.setdefault(place, []).append(block)
        winners = {place: min(blocks, key=lambda block: cost[block, place]) for place, blocks in claims.items()}
        for place, blocks in claims.items():
            for block in blocks:
                cost[block, place] += block != winners[place]
    return torch.tensor([winners.get(place, -1) for place in range(side**2)])


@pytest.mark.parametrize("side", [2, 4, 8])
@pytest.mark.parametrize("price", [0.05, 0.8])
def test_the_plan_equals_a_plain_python_implementation(side, price, rng):
    worth = saliencies(12, side, rng)
    wanted = torch.rand(12, side, side, generator=rng) < torch.rand(12, 1, 1, generator=rng)
    found = plan(worth, wanted, price)
    for one, *image in zip(found, worth, wanted):
        assert torch.equal(one, plain_plan(*image, price))


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_a_block_moves_once_and_every_visible_place_is_filled(side, rng):
    worth = saliencies(24, side, rng)
    wanted = torch.rand(24, side, side, generator=rng) < torch.rand(24, 1, 1, generator=rng)
    for one, shows in zip(plan(worth, wanted, 0.8), wanted.flatten(1)):
        moved = one[one >= 0]
        assert len(moved.unique()) == len(moved)
        assert (one[shows] >= 0).all()


def test_a_salient_block_moves_to_the_nearest_visible_place():
    worth = torch.full((1, 4, 4), 0.01)
    worth[0, 1, 3] = 0.85
    wanted = torch.zeros(1, 4, 4, dtype=torch.bool)
    wanted[:, :, :2] = True
    moved = plan(worth, wanted, 0.8).view(4, 4)
    assert moved[1, 1] == 1 * 4 + 3
    stays = torch.arange(16).view(4, 4)
    assert torch.equal(moved[:, 0], stays[:, 0]) and torch.equal(moved[2:, :2], stays[2:, :2])


def test_no_block_moves_if_all_or_no_places_are_visible(rng):
    worth = saliencies(3, 4, rng)
    for wanted in (torch.ones(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)):
        assert torch.equal(plan(worth, wanted, 0.8), torch.arange(16).expand(3, -1))


def test_a_high_price_keeps_all_blocks_in_place(rng):
    wanted = torch.rand(5, 4, 4, generator=rng) < 0.5
    moved = plan(saliencies(5, 4, rng), wanted, 1e3)
    assert torch.equal(moved, torch.arange(16).expand(5, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("size", [(8, 8), (12, 20)])
def test_blocks_are_composed_from_the_given_sources(dtype, size, images, rng):
    x = images(5, size, dtype=dtype)
    partner, mask = torch.tensor([3, 0, 4, 1, 2]), torch.randint(3, (5, 4, 4), generator=rng) / 2
    own, other = torch.randint(16, (2, 5, 16), generator=rng)
    tall, wide = size[0] // 4, size[1] // 4
    mixed = compose(x, partner, mask, own, other)
    assert mixed.dtype == dtype and mixed.is_contiguous()

    def block(image, number):
        row, column = divmod(int(number), 4)
        return x[image, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide].float()

    for image in range(5):
        for place in range(16):
            share, row, column = mask[image].flatten()[place], *divmod(place, 4)
            expected = share * block(image, own[image, place]) + (1 - share) * block(
                partner[image], other[image, place]
            )
            got = mixed[image, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
            expected = expected.round().to(dtype) if dtype == torch.uint8 else expected.to(dtype)
            torch.testing.assert_close(got, expected)


def test_a_large_batch_is_composed_in_chunks_with_the_same_result(images, rng):
    x = images(9, (256, 256))
    partner, mask = torch.arange(9).roll(1), torch.randint(3, (9, 2, 2), generator=rng) / 2
    stay = torch.arange(4).expand(9, -1)
    share = mask.repeat_interleave(128, 1).repeat_interleave(128, 2)[:, None]
    torch.testing.assert_close(compose(x, partner, mask, stay, stay), share * x + (1 - share) * x[partner])
