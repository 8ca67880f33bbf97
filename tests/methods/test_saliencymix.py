"""SaliencyMix: OpenCV's map, the box around its peak, and torch.compile."""

import math

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.saliencymix import saliencymix
from hf_mixup.ops.masks import boxes
from hf_mixup.ops.saliency import downsample, fine_grained, grey, peak, spectral_residual

ROLL = torch.tensor([1, 2, 3, 0])
DETECTORS = ["fine_grained", "spectral"]

# OpenCV 5.0.0 (contrib), cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(grey uint8 image), times 255:
# row 7 of the map, the sum and the place of the first maximum.
NOISE_ROW_7 = [84, 37, 49, 122, 139, 70, 47, 140, 198, 136, 59, 79, 121, 90, 21, 43, 95, 57, 14, 24]
NOISE_ROW_7 += [24, 0, 7, 64, 160, 184, 77, 99, 204, 113, 36, 55, 31, 103, 79, 47, 84, 150, 163, 155]
WAVES_ROW_7 = [37, 30, 12, 5, 25, 47, 70, 92, 113, 134, 153, 169, 186, 198, 207, 215, 220, 220, 218, 214]
WAVES_ROW_7 += [204, 193, 179, 162, 144, 123, 102, 79, 56, 33, 10, 8, 27, 46, 63, 77, 89, 96, 103, 103]


def noise():
    i = torch.arange(800)
    return ((i * i * 7 + i * 13) % 251).view(1, 20, 40).float()


def waves():
    i = torch.arange(800, dtype=torch.float64)
    return (127 + 80 * (i / 7).sin() + 40 * (i / 80).cos()).floor().view(1, 20, 40).float()


@pytest.mark.parametrize(
    "image, row, total, first", [(noise, NOISE_ROW_7, 58924, 639), (waves, WAVES_ROW_7, 87309, 13)]
)
def test_the_fine_grained_map_is_opencvs(image, row, total, first):
    saliency = fine_grained(image())[0]
    assert saliency[7].tolist() == row
    assert (int(saliency.sum()), int(saliency.argmax())) == (total, first)


# afm-shahab-uddin/SaliencyMix, SaliencyMix_CIFAR/saliencymix.py at 9ee02b8, saliency_bbox(image, lam) with that OpenCV
# and integer grey images: rows and columns of the box, and the lam of the line after its call.
@pytest.mark.parametrize(
    "image, lam, box, kept",
    [
        (noise, 0.3, [7, 20, 23, 40], 0.72375),
        (noise, 0.75, [10, 20, 29, 40], 0.8625),
        (waves, 0.3, [0, 8, 0, 29], 0.71),
        (waves, 0.75, [0, 5, 3, 23], 0.875),
    ],
)
def test_the_box_matches_the_authors(image, lam, box, kept, images):
    x, (top, bottom, left, right) = images(2, (20, 40)), box
    x[1] = image() / 255  # the first row's partner has the box
    saliency = load("saliencymix", mean=(0.0,) * 3, std=(1.0,) * 3).saliency
    mixed, mix = saliencymix(x, torch.full((2,), lam), torch.tensor([1, 0]), saliency, shared=True)
    expected = x.clone()
    expected[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
    assert torch.equal(mixed, expected)
    torch.testing.assert_close(mix.lam, torch.full((2,), kept))


def test_the_fine_grained_map_of_a_batch_is_that_of_each_image(images):
    light = grey(images(5, (24, 37)))
    assert torch.equal(fine_grained(light), torch.cat([fine_grained(one[None]) for one in light]))


@pytest.mark.parametrize("size", [(32, 32), (48, 70)])
def test_a_bright_square_in_noise_is_where_the_spectral_map_peaks(size, rng):
    """The fine-grained map does not find it: darker and brighter pixels have the same weight."""
    x = 0.2 * torch.rand(100, 3, *size, generator=rng)
    corner = torch.stack([torch.randint(side - 5, (100,), generator=rng) for side in size], 1)
    for image, (top, left) in zip(x, corner.tolist(), strict=True):
        image[:, top : top + 6, left : left + 6] += 0.7
    centre = peak(load("saliencymix", detector="spectral").saliency(x), size)
    slack = 3  # its cells cover two or three pixels of the larger images
    assert ((centre >= corner - slack) & (centre < corner + 6 + slack)).all(1).float().mean() > 0.95


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_blank_image_has_a_finite_map(detector, dtype):
    assert load("saliencymix", detector=detector).saliency(torch.zeros(2, 3, 20, 20, dtype=dtype)).isfinite().all()


def test_grey_is_the_luma_in_levels_0_to_255():
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]).T[None, :, None]
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    normalised = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert grey(x)[0, 0].tolist() == grey(normalised, mean, std)[0, 0].tolist() == [76, 150, 29, 255, 0]


def test_without_mean_and_std_the_map_does_not_depend_on_the_range(images):
    x = images(4)
    assert torch.equal(grey(x), grey(8 * x - 4))
    assert torch.equal(grey((255 * x).to(torch.uint8)), grey((255 * x).to(torch.uint8).double() / 64))


def test_downsample_is_average_pooling(images):
    x = images(2, (64, 20))
    small = downsample(x, 32)
    assert small.shape == (2, 3, 32, 20)
    torch.testing.assert_close(small, (x[:, :, ::2] + x[:, :, 1::2]) / 2)


def test_the_peak_is_the_first_maximum():
    saliency = torch.zeros(2, 4, 6)
    saliency[0, 1, 2] = saliency[0, 3, 1] = saliency[1, 3, 5] = 1
    assert peak(saliency, (4, 6)).tolist() == [[1, 2], [3, 5]]
    assert peak(saliency, (40, 12)).tolist() == [[15, 5], [35, 11]]


def test_the_spectral_residual_does_not_depend_on_brightness_and_contrast(images):
    light = grey(images(3, (24, 30)))
    once, brighter = spectral_residual(light), spectral_residual(40 + 0.5 * light)
    assert torch.equal(once.flatten(1).argmax(1), brighter.flatten(1).argmax(1))


# The method


def at(row, column):
    """A detector with its peak at a given pixel of each image."""

    def saliency(x):
        seen = torch.zeros(len(x), *x.shape[-2:])
        seen[:, row, column] = 1
        return seen

    return saliency


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("centre, low, high, lam", [((4, 4), 2, 6, 0.75), ((0, 0), 0, 2, 0.9375)])
def test_saliencymix_is_cutmix_around_the_peak(shared, centre, low, high, lam, images):
    """The worked boxes of CutMix: 8x8 pixels, lam .75."""
    x = images(4, (8, 8))
    mixed, mix = saliencymix(x, torch.full((4,), 0.75), ROLL, at(*centre), shared)
    expected = x.clone()
    expected[:, :, low:high, low:high] = x[ROLL][:, :, low:high, low:high]
    assert torch.equal(mixed, expected) and mix.lam.tolist() == [lam] * 4


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("per_image", [False, True])
def test_the_box_lies_around_the_peak_of_the_partner(detector, per_image, images, rng):
    x, method = images(8, (32, 40)), load("saliencymix", detector=detector, per_image=per_image)
    centre = peak(method.saliency(x), (32, 40))
    for _ in range(6):
        mix = method.mix(None, x, torch.eye(8), rng)[1]
        hole = 1 - mix.mask.expand(8, -1, -1, -1)[:, 0]
        for row in range(8) if per_image else range(1):
            top, left = centre[mix.partner[row]].tolist()
            assert hole[row, top, left] == (mix.lam[row] < 1)


def test_without_per_image_saliency_is_computed_for_one_image(rng, images):
    counted = []
    method = load("saliencymix")

    def count(x):
        counted.append(len(x))
        return at(3, 3)(x)

    saliencymix(images(), torch.full((6,), 0.5), torch.arange(6).roll(1), count, shared=True)
    saliencymix(images(), torch.full((6,), 0.5), torch.arange(6).roll(1), count)
    assert counted == [1, 6]
    assert len(method.mix(None, images(), torch.eye(6), rng)[1].mask) == 1


def test_boxes_have_the_area_of_cutmix(images, rng):
    """The peak is at the centre, so that no box is clipped."""
    lam = torch.rand(6, generator=rng)
    mix = saliencymix(images(6, (33, 20)), lam, torch.arange(6).roll(1), at(16, 10))[1]
    top, bottom, left, right = boxes((33, 20), lam, torch.tensor([[16, 10]])).unbind(1)
    torch.testing.assert_close(mix.lam, 1 - (bottom - top) * (right - left) / (33 * 20))


@pytest.mark.parametrize("wrong", [{"detector": "fine"}, {"mean": (0.5,)}, {"mean": (0.5, 0.5), "std": (1.0,)}])
def test_an_invalid_detector_is_rejected(wrong):
    with pytest.raises(ValueError, match="SaliencyMix"):
        load("saliencymix", **wrong)


def test_mean_and_std_with_a_wrong_number_of_channels_are_rejected(images, rng):
    method = load("saliencymix", mean=(0.5, 0.5), std=(1.0, 1.0))
    with pytest.raises(ValueError, match="2 channels, but the images have 3"):
        method.mix(None, images(), torch.eye(6), rng)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("shared", [False, True])
def test_compiling_gives_one_graph_and_the_same_result(detector, shared, images, rng):
    torch.compiler.reset()
    saliency = load("saliencymix", detector=detector).saliency

    def call(x, lam):
        return saliencymix(x, lam, ROLL, saliency, shared)

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    for seed in range(3):
        x, lam = images(4, (24, 40), seed=seed), torch.rand(1 if shared else 4, generator=rng).expand(4)
        mixed, mix = call(x, lam)
        again, mix_again = compiled(x, lam)
        assert torch.equal(again, mixed) and torch.equal(mix.weight, mix_again.weight)
        assert math.isclose(float(mix.lam[0]), float(mix_again.lam[0]))
