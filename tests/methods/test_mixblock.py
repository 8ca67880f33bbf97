"""AutoMix's mask generator: the authors' numbers, sizes, dtypes, and the mask loss."""

import pytest
import torch

from hf_mixup.methods._mixblock import MixBlock, hinge


def pattern(shape, frequency):
    return torch.sin(torch.arange(torch.Size(shape).numel()) * frequency + 1.0).reshape(shape)


GOLDEN = {  # the second row of pixels of three masks
    "nearest": [0.018221, 0.018221, 0.425747, 0.425747, 0.023089, 0.023089]
    + [0.00586, 0.00586, 0.649575, 0.649575, 0.883863, 0.883863]
    + [0.931648, 0.931648, 0.027578, 0.027578, 0.920017, 0.920017],
    "bilinear": [0.024455, 0.156221, 0.909904, 0.931386, 0.310136, 0.075626]
    + [0.009791, 0.018429, 0.063404, 0.339968, 0.892126, 0.970707]
    + [0.981654, 0.865795, 0.085735, 0.085592, 0.865156, 0.981522],
}
LOSSES = {"nearest": (0.0, 0.3171), "bilinear": (0.1035, 0.1965)}


@pytest.mark.parametrize("upsample, lam_channel", [("nearest", False), ("bilinear", True)])
def test_the_generator_matches_the_authors(upsample, lam_channel):
    """Westlake-AI/openmixup at 37e1372, heads/pmix_block.py: PixelMixBlock(4, unsampling_mode=upsample,
    lam_concat=lam_channel) with these weights, called with (z, 0.3, [1, 2, 0], 2): `out["mask"][:, 0, 1]`, its mmcv
    convolutions replaced by nn.Conv2d; and mask_loss(out["mask"], lam) for lam 0.3 and 0.8, "L1" with margin 0.1."""
    block = MixBlock(4, lam_channel, upsample)
    for parameter, frequency in zip(block.parameters(), (0.7, 0.3, 1.1, 0.9)):
        parameter.data = pattern(parameter.shape, frequency)
    mask = block(2 * pattern((3, 4, 2, 3), 2.3), torch.tensor(0.3), torch.tensor([1, 2, 0]), (4, 6))
    torch.testing.assert_close(mask[:, 0, 1].flatten(), torch.tensor(GOLDEN[upsample]), atol=2e-6, rtol=0)
    for lam, expected in zip((0.3, 0.8), LOSSES[upsample]):
        assert hinge(mask, torch.tensor([lam]), 0.1).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_maps_need_not_divide_the_image_nor_be_square(upsample):
    z = torch.randn(3, 8, 3, 5)
    mask = MixBlock(8, True, upsample)(z, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1, 2, 0]), (17, 31))
    assert mask.shape == (3, 1, 17, 31) and mask.dtype == torch.float32


def test_the_generator_computes_in_float32_under_autocast():
    block, z = MixBlock(8), torch.randn(2, 8, 4, 4)
    arguments = torch.tensor(0.5), torch.tensor([1, 0]), (8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mask = block(z.bfloat16(), *arguments)
    assert torch.equal(mask, block(z.bfloat16().float(), *arguments))


def test_the_hinge_loss_uses_one_lam_per_batch_or_per_row():
    mask = torch.tensor([0.2, 0.8]).reshape(2, 1, 1, 1).expand(2, 1, 3, 3)
    assert hinge(mask, torch.tensor([0.5]), 0.1).item() == pytest.approx(0.0, abs=1e-7)
    assert hinge(mask, torch.tensor([0.2]), 0.1).item() == pytest.approx(0.2)
    assert hinge(mask, torch.tensor([0.2, 0.2]), 0.1).item() == pytest.approx(0.25)
