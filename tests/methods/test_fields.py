"""FMix, GridMix, SmoothMix, HMix and GMix: the authors' masks, exact shares, distributions, and torch.compile."""

import math

import pytest
import torch

from hf_mixup import load
from hf_mixup.methods.fmix import fmix
from hf_mixup.methods.gmix import gmix
from hf_mixup.methods.gridmix import cells, crops, gridmix
from hf_mixup.methods.hmix import hmix
from hf_mixup.methods.smoothmix import smoothmix
from hf_mixup.ops.fields import spectrum_size
from hf_mixup.ops.sampling import points

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs
COUNT = 20_000
ROLL = torch.tensor([1, 2, 3, 0])
PAIR = torch.tensor([1, 0])


def same(number, count=4):
    return torch.full((count,), number)


def ones_and_zeros(size):
    """An image of ones and one of zeros: the first mixed image equals its mask."""
    return torch.tensor([1.0, 0.0])[:, None, None, None].expand(-1, 1, *size)


def shown(rows, mark="#"):
    """Rows of text as a mask, one where there is the mark."""
    return torch.tensor([[float(letter == mark) for letter in row] for row in rows])


def sine_noise(size):
    """Deterministic noise of shape (real and imaginary part, rows, half of the columns)."""
    shape = spectrum_size(size, 3.0)
    return (1.7 * torch.arange(math.prod(shape), dtype=torch.float64)).sin().view(1, *shape).float()


# FMix. The authors' code: ecs-vlc/FMix, fmix.py at e5991dc. Amplitudes are get_spectrum's; the field is
# irfftn(spectrum[..., 0] + 1j * spectrum[..., 1]), where make_low_freq_image indexes rows, not the last axis; the
# mask is binarise_mask(field, 20 / pixels, size, max_soft).

FMIX_8X8 = ["#.....##", "#.....##", "#.....##", "#......#", "#......#", "#......#", "#......#", "#.....##"]
FMIX_9X6 = ["......", "##..##", "######", "######", "##..##", "......", "......", "......", "......"]
FMIX_9X6_SOFT = [
    [0, 0, 0, 0, 0, 0],
    [1, 0.5556, 0.3333, 0.4444, 1, 1],
    [1, 1, 1, 1, 1, 1],
    [1, 1, 0.8889, 1, 1, 1],
    [1, 0.6667, 0.1111, 0, 0.7778, 1],
    [0.2222, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
]


@pytest.mark.parametrize("rows", [FMIX_8X8, FMIX_9X6])
def test_fmix_gives_the_authors_masks(rows):
    mask = shown(rows)
    mixed, mix = fmix(ones_and_zeros(mask.shape), same(20 / mask.numel(), 2), PAIR, sine_noise(mask.shape))
    assert torch.equal(mixed[0, 0], mask) and torch.equal(mixed[1, 0], 1 - mask)
    assert torch.equal(mix.mask[0, 0], mask)
    torch.testing.assert_close(mix.lam, same(20 / mask.numel(), 2))


def test_soft_fmix_masks_match_the_authors():
    x, lam, noise = ones_and_zeros((9, 6)), same(20 / 54, 2), sine_noise((9, 6))
    mixed, mix = fmix(x, lam, PAIR, noise, max_soft=0.1)
    torch.testing.assert_close(mixed[0, 0], torch.tensor(FMIX_9X6_SOFT).float(), atol=5e-5, rtol=0)
    torch.testing.assert_close(mix.lam, lam)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (15, 22), (96, 80), (224, 224)])
@pytest.mark.parametrize("rows", [1, 6])
def test_an_fmix_mask_is_binary_and_has_the_drawn_share(size, rows, images, rng):
    pixels = math.prod(size)
    noise = torch.randn(rows, *spectrum_size(size, 3.0), generator=rng)
    lam = torch.rand(6, generator=rng)
    mask = fmix(images(6, size, channels=1), lam, torch.arange(6).roll(1), noise)[1].mask
    assert ((mask == 0) | (mask == 1)).all()
    assert ((mask.double().mean((1, 2, 3)) - lam).abs() <= 0.5 / pixels + 1e-9).all()


@pytest.mark.parametrize("lam, ones", [(0.0, 0), (0.5, 32), (1.0, 64)])
def test_fmix_masks_have_the_exact_number_of_pixels(lam, ones, images, rng):
    """Worked by hand: 8x8 pixels."""
    noise = torch.randn(4, *spectrum_size((8, 8), 3.0), generator=rng)
    mask = fmix(images(4, (8, 8)), same(lam), ROLL, noise)[1].mask
    assert (mask.sum((1, 2, 3)) == ones).all()


@pytest.mark.parametrize("max_soft", [0.1, 0.5])
def test_a_soft_fmix_mask_keeps_its_share(max_soft, images, rng):
    noise, lam = torch.randn(64, *spectrum_size((15, 22), 3.0), generator=rng), torch.rand(64, generator=rng)
    mask = fmix(images(64, (15, 22), 1), lam, torch.arange(64).roll(1), noise, max_soft=max_soft)[1].mask
    assert mask.min() == 0 and mask.max() == 1 and ((mask > 0) & (mask < 1)).any()
    assert ((mask.mean((1, 2, 3)) - lam).abs() <= 1 / 330).all()


@pytest.mark.parametrize("decay, low, high", [(3.0, 0.9, 1.0), (0.0, 0.45, 0.55)])
def test_fmix_masks_are_equally_smooth_in_both_directions(decay, low, high, images, rng):
    noise = torch.randn(200, *spectrum_size((32, 32), decay), generator=rng)
    x = torch.zeros(200, 1, 32, 32)
    mask = fmix(x, same(0.5, 200), torch.arange(200).roll(1), noise, decay)[1].mask
    across = (mask[..., 1:] == mask[..., :-1]).float().mean((1, 2, 3))
    down = (mask[..., 1:, :] == mask[..., :-1, :]).float().mean((1, 2, 3))
    assert low < across.mean() < high
    # means of 200 masks; the spectrum does not depend on the direction
    assert (across - down).mean().abs() < SIGMAS * (across - down).std() / math.sqrt(200) + 1e-6


def test_omitting_high_frequencies_changes_few_pixels(rng):
    """Compared with the whole spectrum of the same noise, by torch.fft."""
    size = 160, 200
    noise = torch.randn(8, *spectrum_size(size, 3.0), generator=rng)
    height, width = noise.shape[2:]
    whole = torch.zeros(8, 160, 101, dtype=torch.complex128)
    rows = torch.fft.fftfreq(height, 1 / height).long()
    whole[:, rows, :width] = torch.complex(noise[:, 0].double(), noise[:, 1].double())
    rest = whole == 0
    whole[rest] = torch.randn(int(rest.sum()), generator=rng, dtype=torch.complex128) * math.sqrt(2)
    frequency = (torch.fft.fftfreq(160)[:, None] ** 2 + torch.fft.rfftfreq(200) ** 2).sqrt().clamp(min=1 / 200)
    field = torch.fft.irfft2(whole * frequency.double() ** -3, size)
    mask = fmix(torch.zeros(8, 1, *size), same(0.5, 8), torch.arange(8).roll(1), noise)[1].mask[:, 0]
    median = field.flatten(1).sort(1, descending=True).values[:, field[0].numel() // 2 - 1]
    assert ((field >= median[:, None, None]) != mask.bool()).float().mean() < 0.005


def test_the_lam_of_fmix_is_beta_distributed(rng):
    x, method = torch.zeros(4000, 1, 8, 8), load("fmix", alpha=0.5, per_image=True)
    lam = method.mix(None, x, torch.zeros(4000, 2), rng)[1].lam.double()
    variance = 0.5**2 / 2  # of Beta(1/2, 1/2): 1/8
    assert abs(float(lam.mean()) - 0.5) < SIGMAS * math.sqrt(variance / 4000)
    # its fourth central moment is 3/128; half a pixel's rounding adds 1/(12 * 64^2)
    assert abs(float(lam.var()) - variance) < SIGMAS * math.sqrt((3 / 128 - variance**2) / 4000) + 1e-4


def test_fmix_masks_are_uniform_over_positions(rng):
    x = torch.zeros(4000, 1, 8, 8)
    mask = load("fmix", per_image=True).mix(None, x, torch.zeros(4000, 2), rng)[1].mask
    assert (mask.mean(0) - 0.5).abs().max() < SIGMAS * math.sqrt(0.25 / 4000)


# GridMix. Public code: IlyaDobrynin/GridMixup, gridmix_pytorch.py at 11b741f, GridMixupLoss._get_gridmask, with
# np.random.random returning the column, then the row of the crop. Its mask is one in the holes.

GRIDS = [
    (
        dict(area=0.6, aspect=0.9, lam=0.4, holes=3, hole_aspect=1.0, place=(0.75, 0.25)),
        """................ ................ .###.###.###.... .###.###.###.... .###.###.###.... ................
        .###.###.###.... .###.###.###.... .###.###.###.... ................ .###.###.###.... ................""",
        0.671875,
    ),
    (
        dict(area=0.9, aspect=0.8, lam=0.85, holes=2, hole_aspect=1.0, place=(0.0, 0.5)),
        """#....#.... .......... .......... .......... .......... #....#.... .......... .......... ..........
        ..........""",
        0.96,
    ),
    (
        dict(area=0.5, aspect=1.5, lam=0.1, holes=2, hole_aspect=0.8, place=(0.4, 0.9)),
        """.......###.###.. .......###.###.. ................ .......###.###.. .......###.###.. ................
        .......###.###.. .......###.###.. ................ .......###.###.. .......###.###.. ................""",
        0.75,
    ),
]


@pytest.mark.parametrize("draws, rows, lam", GRIDS)
def test_gridmix_gives_the_public_codes_grids(draws, rows, lam):
    holes = shown(rows.split())
    draws = {key: torch.tensor([value]) for key, value in draws.items()}
    mixed, mix = gridmix(ones_and_zeros(holes.shape), draws.pop("lam").expand(2), PAIR, **draws)
    assert torch.equal(mixed[0, 0], 1 - holes) and torch.equal(mixed[1, 0], holes)
    torch.testing.assert_close(mix.lam, same(lam, 2))


def drawn_grids(count, size, rng, **hyperparameters):
    method = load("gridmix", per_image=True, **hyperparameters)
    return method.mix(None, torch.zeros(count, 1, *size), torch.zeros(count, 2), rng)[1]


@pytest.mark.parametrize("size", [(32, 32), (9, 15), (4, 4)])
def test_every_grid_has_pixels_inside_and_outside_holes(size, rng):
    lam = drawn_grids(2000, size, rng, alpha=0.2).lam
    assert (lam < 1).all() and (lam > 0).all()


def test_crops_lie_inside_the_image_and_touch_its_borders(rng):
    area, aspect = 0.5 + 0.5 * torch.rand(COUNT, generator=rng), 0.5 + 1.5 * torch.rand(COUNT, generator=rng)
    crop = crops((20, 32), area, aspect, torch.rand(COUNT, 2, generator=rng))
    low, high = crop[:, :2], crop[:, :2] + crop[:, 2:]
    assert (low >= 0).all() and (high <= torch.tensor([20, 32])).all()
    assert (low.amin(0) == 0).all() and (high.amax(0) == torch.tensor([20, 32])).all()


def test_holes_shrink_as_lam_grows():
    crop, lam = torch.tensor([[0, 0, 30, 30]]), torch.linspace(0, 1, 11)
    hole = cells(crop, lam, torch.tensor([3]), torch.tensor([1.0]))[1]
    assert (hole.diff(dim=0) <= 0).all() and hole[0].tolist() == [9, 9] and hole[-1].tolist() == [1, 1]


def test_the_holes_of_gridmix_have_the_area_of_the_draw(rng):
    """With a crop of the whole image and cells that divide it, lam is known up to rounding to pixels."""
    shares = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "holes": (2, 2)}
    lam = drawn_grids(2000, (64, 64), rng, **shares).lam.double()
    # holes have floor(32 q) of 32 pixels per side, q^2 uniform on [0, 1]
    sides = torch.arange(32.0)
    odds = ((sides + 1) ** 2 - sides**2) / 32**2
    kept = 1 - (sides.clamp(min=1) / 32) ** 2
    expected = float((odds * kept).sum())
    assert abs(float(lam.mean()) - expected) < SIGMAS * float(lam.std()) / math.sqrt(2000)


def test_the_number_of_cells_is_drawn_from_its_range(rng):
    """Cells are 64 / n pixels wide: n follows from the number of columns with holes."""
    shares = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0), "holes": (2, 5)}
    mask = drawn_grids(2000, (60, 60), rng, alpha=1e3, **shares).mask[:, 0, 0]
    cells_across = ((mask[:, 1:] < mask[:, :-1]).sum(1) + (mask[:, 0] == 0)).bincount(minlength=6)
    assert cells_across[:2].sum() == 0 and len(cells_across) == 6
    assert (cells_across[2:] / 2000 - 0.25).abs().max() < SIGMAS * math.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize(
    "wrong", [{"holes": (0, 3)}, {"holes": (4, 3)}, {"crop_area": (0.5, 1.5)}, {"crop_aspect": (0.0, 1.0)}]
)
def test_an_invalid_grid_is_rejected(wrong):
    [key] = wrong
    with pytest.raises(ValueError, match=f"GridMix's {key} is"):
        load("gridmix", **wrong)


# SmoothMix. Public code: Westlake-AI/openmixup, augments/smoothmix.py at 37e1372, smoothmix(8x8 images), with
# torch.randint giving 6 and 3 and torch.rand 0.4; its kernel is the partner's share. The authors published no code.

SMOOTHMIX_ROW_2 = [0.142965, 0.270523, 0.450592, 0.660644, 0.852622, 0.968615, 0.968615, 0.852622]


def test_smoothmix_gives_the_public_codes_gaussian():
    centre, sigma = torch.tensor([[2.5, 5.5]]), torch.tensor([(0.4 / 4 + 0.25) * 8])
    mixed, mix = smoothmix(ones_and_zeros((8, 8)), PAIR, centre, sigma)
    torch.testing.assert_close(1 - mixed[0, 0, 2], torch.tensor(SMOOTHMIX_ROW_2), atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed[0], 1 - mixed[1])
    torch.testing.assert_close(mix.lam, same(1 - 0.4738544, 2))  # the public code uses 0.47 for the label


@pytest.mark.parametrize(
    "centre, sigma, mean", [((15.5, 15.5), 8, 0.35788), ((15.5, 15.5), 16, 0.73226), ((-0.5, -0.5), 8, 0.09816)]
)
def test_smoothmix_gives_the_worked_shares(centre, sigma, mean, images):
    """Worked by hand, at 32 px."""
    lam = smoothmix(images(4, (32, 32)), ROLL, torch.tensor([centre]), torch.tensor([float(sigma)]))[1].lam
    torch.testing.assert_close(1 - lam, same(mean), atol=5e-6, rtol=0)


def test_smoothmix_masks_are_smooth(rng):
    mask = load("smoothmix", per_image=True).mix(None, torch.zeros(500, 1, 32, 40), torch.zeros(500, 2), rng)[1].mask
    steepest = 1 / (0.25 * 32 * math.sqrt(math.e))
    assert mask.diff(dim=2).abs().max() < steepest and mask.diff(dim=3).abs().max() < steepest


def test_smoothmix_draws_places_and_widths_uniformly(rng):
    """The mask has its minimum at the centre; sigma follows from differences of its logarithm."""
    mask = load("smoothmix", per_image=True).mix(None, torch.zeros(4000, 1, 9, 9), torch.zeros(4000, 2), rng)[1].mask
    least = mask.flatten(1).argmin(1)
    row = torch.div(least, 9, rounding_mode="floor").double()
    # centres are half-integers -0.5 to 7.5, with the nearest pixels 0, 0 or 1, ...: on average 3.5, up to half a pixel
    assert abs(float(row.mean()) - 3.5) < 0.5 + SIGMAS * math.sqrt((81 - 1) / 12 / 4000)
    middle = load("smoothmix", sigma=(0.3, 0.3), per_image=True).mix(
        None, torch.zeros(64, 1, 9, 9), torch.zeros(64), rng
    )
    ratio = (1 - middle[1].mask[:, 0]).log().diff(dim=2).diff(dim=2)  # -1 / sigma^2
    torch.testing.assert_close(ratio, torch.full_like(ratio, -1 / 2.7**2), atol=2e-2, rtol=0)


@pytest.mark.parametrize("sigma", [(0.0, 0.5), (0.6, 0.5), (math.nan, 0.5), (0.1, math.inf)])
def test_an_invalid_sigma_is_rejected(sigma):
    with pytest.raises(ValueError, match="SmoothMix's sigma is"):
        load("smoothmix", sigma=sigma)


# HMix and GMix. The authors' code: naver-ai/hmix-gmix, mixup.py at 0914f37, Mixup._mix_batch of an image of ones and
# one of zeros, with np.random.randint giving the row, then the column of the centre.


@pytest.mark.parametrize(
    "lam, centre, row, values, cut",
    [(0.3, (4, 5), 4, [0.375] * 3 + [0.0] * 4 + [0.375] * 3, 16), (0.6, (0, 9), 0, [0.623377] * 7 + [0.0] * 3, 3)],
)
def test_hmix_gives_the_authors_masks(lam, centre, row, values, cut):
    mixed, mix = hmix(ones_and_zeros((8, 10)), same(lam, 2), PAIR, torch.tensor([centre]))
    torch.testing.assert_close(mixed[0, 0, row], torch.tensor(values), atol=1e-6, rtol=0)
    assert (mixed[0] == 0).sum() == cut
    torch.testing.assert_close(mix.lam, same(lam, 2))


def test_the_lam_of_hmix_is_the_one_drawn(images, rng):
    for size in ((16, 16), (7, 30)):
        lam, centre = torch.rand(200, generator=rng), points(size, 200, rng)
        mix = hmix(images(200, size, 1), lam, torch.arange(200).roll(1), centre, 0.7)[1]
        torch.testing.assert_close(mix.lam, lam)
        assert ((mix.mask >= 0) & (mix.mask <= 1)).all()


def test_hmix_lies_between_mixup_and_cutmix(images):
    x, lam, centre = images(4), torch.tensor([0.2, 0.4, 0.75, 0.9375]), torch.tensor([[8, 8]])
    none, all_in_box = hmix(x, lam, ROLL, centre, 0.0)[1], hmix(x, lam, ROLL, centre, 1.0)[1]
    assert (none.mask == lam[:, None, None, None]).all()
    assert (all_in_box.mask[2:] * (1 - all_in_box.mask[2:]) == 0).all()  # the mask is binary
    torch.testing.assert_close(all_in_box.lam, lam)


def test_hmix_with_lam_zero_gives_the_partner(images):
    x = images(4)
    mixed, mix = hmix(x, same(0.0), ROLL, torch.tensor([[8, 8]]), 1.0)
    assert torch.equal(mixed, x[ROLL]) and (mix.lam == 0).all()


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_an_invalid_ratio_is_rejected(ratio):
    with pytest.raises(ValueError, match="HMix's ratio is"):
        load("hmix", ratio=ratio)


@pytest.mark.parametrize(
    "lam, centre, values, kept",
    [
        (0.3, (2, 5), [0.014204, 0.061938, 0.19471, 0.441259, 0.720904, 0.849061, 0.720904, 0.441259], 0.25711596),
        (0.8, (6, 1), [0.914083, 0.890182, 0.914083, 0.958856, 0.98794, 0.997836, 0.999762, 0.999984], 0.85261977),
    ],
)
def test_gmix_gives_the_authors_masks(lam, centre, values, kept):
    mixed, mix = gmix(ones_and_zeros((8, 8)), same(lam, 2), PAIR, torch.tensor([centre]))
    torch.testing.assert_close(mixed[0, 0, 3], torch.tensor(values), atol=1e-6, rtol=0)
    torch.testing.assert_close(mix.lam, same(kept, 2))


def test_gmix_gives_the_smaller_share_at_most_the_drawn_one(images, rng):
    lam, centre = torch.rand(500, generator=rng), points((16, 24), 500, rng)
    kept = gmix(images(500, (16, 24), 1), lam, torch.arange(500).roll(1), centre)[1].lam
    lesser, drawn = torch.minimum(kept, 1 - kept), torch.minimum(lam, 1 - lam)
    # a Gaussian of few pixels, summed over pixels, exceeds its volume
    volume, steps = 384 * drawn.double()[:, None], torch.arange(-40.0, 41)
    assert (lesser <= (-math.pi * steps**2 / volume).exp().sum(1) ** 2 / 384 + 1e-6).all()
    assert ((kept < 0.5) == (lam < 0.5)).all()


def test_gmix_keeps_its_share_far_from_the_border(images):
    lam = gmix(images(4, (63, 63), 1), torch.tensor([0.01, 0.05, 0.95, 0.99]), ROLL, torch.tensor([[31, 31]]))[1].lam
    torch.testing.assert_close(lam, torch.tensor([0.01, 0.05, 0.95, 0.99]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_gmix_with_lam_0_or_1_gives_one_image(lam, images):
    x = images(4)
    mixed, mix = gmix(x, same(lam), ROLL, torch.tensor([[3, 3]]))
    assert torch.equal(mixed, x if lam else x[ROLL]) and (mix.lam == lam).all()


# torch.compile

CALLS = {
    "fmix": lambda x, lam, u: fmix(x, lam, ROLL, noise_of(u)),
    "fmix soft": lambda x, lam, u: fmix(x, lam, ROLL, noise_of(u), max_soft=0.2),
    "gridmix": lambda x, lam, u: gridmix(
        x, lam, ROLL, 0.5 + u[:, 0] / 2, 0.5 + u[:, 1], 2 + (4 * u[:, 2]).long(), u[:, :2], 1 + 0 * u[:, 0]
    ),
    "smoothmix": lambda x, lam, u: smoothmix(x, ROLL, 16 * u[:, :2], 4 + 4 * u[:, 2]),
    "hmix": lambda x, lam, u: hmix(x, lam, ROLL, (16 * u[:, :2]).long()),
    "gmix": lambda x, lam, u: gmix(x, lam, ROLL, (16 * u[:, :2]).long()),
}


def noise_of(u):
    shape = spectrum_size((16, 16), 3.0)
    return (u[:, :1] * 100 + 1.7 * torch.arange(math.prod(shape))).sin().view(-1, *shape)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("rows", ["shared", "own"])
def test_compiling_gives_one_graph_and_the_same_result(name, rows, images, rng):
    torch.compiler.reset()
    compiled = torch.compile(CALLS[name], backend="eager", fullgraph=True)
    for _ in range(3):
        count = 4 if rows == "own" else 1
        lam, u = 0.1 + 0.8 * torch.rand(count, generator=rng), torch.rand(count, 3, generator=rng)
        mixed, mix = CALLS[name](images(4), lam.expand(4), u)
        again, mix_again = compiled(images(4), lam.expand(4), u)
        torch.testing.assert_close(again, mixed, atol=1e-5, rtol=0)
        torch.testing.assert_close(mix_again.weight, mix.weight)
        assert torch.equal(mix.index, mix_again.index)
