"""GuidedMixup: pixels are mixed, and partners chosen, by saliency."""

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.guidedmixup import blur, greedy_cycle, guidedmixup, normalise_saliency, spectral_saliency


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


# 3neutronstar/GuidedMixup, FGVC/Implementor/guidedmixup.py at 73494e1, GuidedMixupLearner._train with its own blur,
# norm and greedy pairing, with the maps below as saliency: partners, their lam, and the first row of the
# images' second channel.
PARTNERS, LAM = [3, 2, 0, 1], [0.464967, 0.487338, 0.518394, 0.530355]
ROWS = [0.540992, -0.762677, -0.339539, 0.853789, 0.105252, -0.883031, 0.134285, 0.847976]
ROWS += [0.59389, -0.858089, -0.372216, 0.954416, 0.12461, -0.986772, 0.131083, 0.952946]
ROWS += [0.445179, -0.886996, -0.214237, 0.943107, -0.035385, -0.933815, 0.281358, 0.860627]
ROWS += [0.687677, -0.735356, -0.496147, 0.865548, 0.266864, -0.936431, -0.020095, 0.941907]


def test_the_result_matches_the_authors_for_the_same_maps():
    x, maps = pattern((4, 3, 8, 8), 1.7), pattern((4, 8, 8), 0.05).square() ** 8 + 0.01
    seen = normalise_saliency(maps)
    partner = greedy_cycle(seen)
    mixed, mix = guidedmixup(x, seen, partner)
    assert partner.tolist() == PARTNERS
    torch.testing.assert_close(mix.lam, torch.tensor(LAM), atol=2e-6, rtol=0)
    torch.testing.assert_close(mixed[:, 1, 0].flatten(), torch.tensor(ROWS), atol=2e-6, rtol=0)


def saliency(rng, count=6):
    return normalise_saliency(torch.rand(count, 16, 16, generator=rng))


def steps_of(partner):
    """The rows in the order of the cycle, starting at row 0."""
    order = [0]
    while int(partner[order[-1]]) != 0:
        order.append(int(partner[order[-1]]))
    return order


def test_equal_saliency_gives_equal_shares(images, rng):
    x = images(4)
    same = saliency(rng, 1).expand(4, -1, -1)
    mixed, mix = guidedmixup(x, same, torch.tensor([1, 2, 3, 0]))
    assert (mix.mask == 0.5).all() and (mix.weight == 0.5).all()
    torch.testing.assert_close(mixed, (x + x.roll(-1, 0)) / 2)


def test_pixels_are_weighted_by_saliency(images):
    x, seen = images(2), torch.zeros(2, 16, 16)
    seen[0, :, :8], seen[1, :, :8] = 3.0, 1.0
    seen[1, :4, 8:] = 1.0
    mixed, mix = guidedmixup(x, seen, torch.tensor([1, 0]))
    assert (mix.mask[0, 0, :, :8] == 0.75).all() and (mix.mask[0, 0, :4, 8:] == 0).all()
    assert (mix.mask[0, 0, 4:, 8:] == 0.5).all()  # neither is salient
    assert mix.lam[0] == 0.75 / 2 + 0.5 * 0.75 / 2
    torch.testing.assert_close(mixed[0, :, :4, 8:], x[1, :, :4, 8:], atol=0, rtol=0)


def test_masks_of_a_pair_in_both_orders_sum_to_one(images, rng):
    seen = saliency(rng)
    there, back = torch.arange(6).roll(-2), torch.arange(6).roll(2)
    mask, other = (guidedmixup(images(), seen, partner)[1].mask for partner in (there, back))
    torch.testing.assert_close(mask + other.index_select(0, there), torch.ones(6, 1, 16, 16))


@pytest.mark.parametrize("count", [2, 3, 7, 16])
@pytest.mark.parametrize("turned", [False, True])
def test_partners_form_one_cycle(count, turned, rng):
    for _ in range(5):
        partner = greedy_cycle(saliency(rng, count), turned)
        assert sorted(steps_of(partner)) == list(range(count))


@pytest.mark.parametrize("turned, order", [(False, [0, 3, 1, 2]), (True, [3, 0, 2, 1])])
def test_the_cycle_continues_with_the_most_distant_remaining_image(turned, order):
    """Points 0, 2, 3 and 10: 0 and 10 are most distant; then from 10 to 2, since 0 is used, or from 0 to 3."""
    place = torch.tensor([0.0, 2.0, 3.0, 10.0])[:, None, None]
    partner = greedy_cycle(place, turned)
    expected = torch.empty(4, dtype=torch.long)
    expected[torch.tensor(order)] = torch.tensor(order).roll(-1)
    assert torch.equal(partner, expected)


def test_equal_images_still_form_one_cycle():
    assert sorted(steps_of(greedy_cycle(torch.ones(5, 4, 4)))) == list(range(5))


def test_greedy_partners_are_more_distant_than_neighbours(rng):
    def length(seen, partner):
        return (seen - seen[partner]).flatten(1).norm(dim=1).sum()

    batches = [saliency(rng, 8) for _ in range(20)]
    greedy = sum(length(seen, greedy_cycle(seen)) for seen in batches)
    assert greedy > sum(length(seen, torch.arange(8).roll(-1)) for seen in batches)


def test_saliency_is_normalised_to_a_sum_of_one(rng):
    seen = normalise_saliency(torch.rand(3, 9, 15, generator=rng))
    torch.testing.assert_close(seen.sum((1, 2)), torch.ones(3))
    assert (normalise_saliency(torch.zeros(2, 4, 4)) == 1 / 16).all()


def test_the_blur_is_a_seven_pixel_gaussian_of_width_three():
    point = torch.zeros(1, 15, 15)
    point[0, 7, 7] = 1
    got = blur(point)[0]
    assert (got[:4] == 0).all() and (got[4:11, 4:11] > 0).all()
    torch.testing.assert_close(got[7, 10] / got[7, 7], torch.tensor(-0.5).exp())
    torch.testing.assert_close(got.sum(), torch.tensor(1.0))


def test_an_outlier_is_salient(rng):
    x = 0.2 * torch.rand(1, 3, 32, 32, generator=rng)
    x[..., 20:24, 6:10] = 1
    seen = normalise_saliency(spectral_saliency(x))[0]
    assert seen[16:28, 2:14].sum() > 2 * 12 * 12 / 32**2


def test_large_images_get_a_map_of_their_size(images):
    assert spectral_saliency(images(2, (140, 260))).shape == (2, 140, 260)


@pytest.mark.parametrize("detector, prob", [("sr", 0.5), ("ap", 0.8)])
def test_the_default_prob_is_the_authors(detector, prob):
    method = load("guidedmixup", detector=detector)
    assert method.prob == prob and method.needs_net is (detector == "ap")
    assert load("guidedmixup", detector=detector, prob=0.3).prob == 0.3


def test_the_detector_can_be_the_loss_gradient(make_net, images, one_hot, rng):
    net, x, y = make_net(), images(), one_hot()
    mixed, mix = load("guidedmixup", detector="ap", prob=1.0).mix(net, x, y, rng)
    seen = normalise_saliency(net.saliency(x, y))
    expected, _ = guidedmixup(x, seen, mix.partner)
    torch.testing.assert_close(mixed, expected)
    assert any(torch.equal(mix.partner, greedy_cycle(seen, turned)) for turned in (False, True))


def test_an_unknown_detector_and_a_drawn_pairing_are_rejected():
    with pytest.raises(ValueError, match="detector 'fft'.*sr, ap"):
        load("guidedmixup", detector="fft")
    with pytest.raises(ValueError, match="pairing 'shift'.*greedy"):
        load("guidedmixup", pairing="shift")
