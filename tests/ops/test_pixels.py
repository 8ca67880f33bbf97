"""Image operations compared with Pillow, image by image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hf_mixup.ops.pixels import (
    affine,
    autocontrast,
    black_and_white,
    equalize,
    from_levels,
    posterize,
    solarize,
    to_levels,
)

SIZE = (30, 22)  # not square, and with more pixels than levels


@pytest.fixture
def x(seeded) -> torch.Tensor:
    """Four images of integer levels, none with the full range."""
    noise = 40 * torch.randn(4, 3, *SIZE, generator=seeded(1))
    return (noise + torch.tensor([60.0, 100, 128, 190])[:, None, None, None]).clamp(4, 240).round()


def pillow(x, change) -> torch.Tensor:
    """`change(image, i)` of each Pillow image."""
    images = [Image.fromarray(one.permute(1, 2, 0).byte().numpy()) for one in x]
    changed = [torch.from_numpy(np.array(change(image, i))) for i, image in enumerate(images)]
    return torch.stack(changed).permute(0, 3, 1, 2).float()


def assert_alike(ours, theirs, off=0.0):
    """Equal, except for a share `off` of pixels that may differ by one level."""
    assert (ours - theirs).abs().max() <= (1 if off else 0)
    assert (ours != theirs).float().mean() <= off


def test_autocontrast_matches_pillow(x):
    assert_alike(autocontrast(x), pillow(x, lambda image, _: ImageOps.autocontrast(image)), off=0.02)


def test_autocontrast_stretches_to_0_and_255(x):
    stretched = autocontrast(x)
    assert (stretched.amin((2, 3)) == 0).all() and (stretched.amax((2, 3)) == 255).all()


def test_equalize_matches_pillow(x):
    assert_alike(equalize(x), pillow(x, lambda image, _: ImageOps.equalize(image)))


@pytest.mark.parametrize("change", [autocontrast, equalize])
def test_a_constant_image_is_not_changed(change):
    x = torch.full((2, 3, *SIZE), 77.0)
    assert torch.equal(change(x), x)


def test_an_image_with_few_pixels_is_not_equalized(seeded):
    x = torch.randint(256, (2, 3, 15, 17), generator=seeded(1)).float()
    assert torch.equal(equalize(x), x)
    assert_alike(equalize(x), pillow(x, lambda image, _: ImageOps.equalize(image)))


def test_posterize_matches_pillow_with_bits_per_image(x):
    bits = torch.tensor([1, 3, 4, 8])
    assert_alike(posterize(x, bits), pillow(x, lambda image, i: ImageOps.posterize(image, int(bits[i]))))


def test_solarize_matches_pillow_with_a_threshold_per_image(x):
    threshold = torch.tensor([0, 100, 180, 256])
    assert_alike(solarize(x, threshold), pillow(x, lambda image, i: ImageOps.solarize(image, int(threshold[i]))))


@pytest.mark.parametrize("degrees", [(0, 5, -9, 30), (1, -1, 15, -30)])
def test_rotation_matches_pillow(x, degrees):
    middle = torch.tensor([SIZE[1] / 2, SIZE[0] / 2], dtype=torch.float64)
    turns = []
    for angle in degrees:
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        turns.append(torch.cat([turn, (middle - turn @ middle)[:, None]], 1))
    theirs = pillow(x, lambda image, i: image.rotate(degrees[i], resample=Image.BILINEAR))
    assert_alike(affine(x, torch.stack(turns).float()), theirs, off=0.01)


def test_shear_and_translation_match_pillow(x):
    matrix = torch.tensor([[1, 0.07, 0, 0, 1, 0], [1, 0, 0, -0.3, 1, 0], [1, 0, 3, 0, 1, 0], [1, 0, 0, 0, 1, -5.0]])

    def change(image, i):
        return image.transform(image.size, Image.AFFINE, matrix[i].tolist(), resample=Image.BILINEAR)

    assert_alike(affine(x, matrix.view(4, 2, 3)), pillow(x, change), off=0.02)


def test_pixels_from_outside_the_image_are_black(x):
    away = torch.tensor([[1.0, 0, 5], [0, 1, 0]]).expand(4, -1, -1)
    moved = affine(x, away)
    assert torch.equal(moved[..., :-5], x[..., 5:]) and (moved[..., -5:] == 0).all()


def test_levels_of_normalised_images_are_the_original_pixel_values(x):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    normal = (x / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    ends = black_and_white(normal, mean, std)
    assert torch.equal(to_levels(normal, *ends), x)
    torch.testing.assert_close(from_levels(x, *ends), normal, atol=1e-5, rtol=0)


def test_without_statistics_levels_span_each_images_range(x):
    shifted = x * torch.tensor([0.1, 1.0, 3.0, 0.01])[:, None, None, None] - 2
    ends = black_and_white(shifted, None, None)
    levels = to_levels(shifted, *ends)
    assert (levels.amin((1, 2, 3)) == 0).all() and (levels.amax((1, 2, 3)) == 255).all()
    half_a_level = (ends[1] - ends[0]) / 510
    assert ((from_levels(levels, *ends) - shifted).abs() <= 1.01 * half_a_level).all()


def test_integer_images_are_their_own_levels(x):
    ends = black_and_white(x.byte(), None, None)
    assert torch.equal(to_levels(x.byte(), *ends), x)


def test_a_constant_image_has_finite_levels():
    x = torch.full((1, 3, 4, 4), 0.3)
    ends = black_and_white(x, None, None)
    assert torch.equal(from_levels(to_levels(x, *ends), *ends), x)
