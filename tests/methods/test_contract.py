"""Properties of every method in hf_mixup/methods; `rows.py` has the differences between methods."""

import copy
import json
import math
import pickle
import random
from dataclasses import fields

import numpy as np
import pytest
import torch
from rows import row

from hf_mixup import Method, Net, available, load
from hf_mixup.methods import method_class
from hf_mixup.ops.losses import soft_cross_entropy

SIGMAS = 5  # a correct sampler exceeds this bound once in 1.7 million runs
DRAWS = 6  # number of seeds for checks that one draw might pass by chance
HALVES = (torch.bfloat16, torch.float16)

every_method = pytest.mark.parametrize("name", available())


def all_methods(check):
    """One test that runs `check(name)` for every method and reports all failures."""

    def test():
        failures = {}
        for name in available():
            try:
                check(name)
            except (Exception, pytest.fail.Exception) as error:
                failures[name] = f"{type(error).__name__}: {error}"
        assert not failures

    return test


@pytest.fixture(scope="module")
def models():
    """Networks by kind, size and number of classes, to be copied: twice as fast as building them."""
    return {}


@pytest.fixture
def made(make_net, models):
    """`made("cutmix", prob=0.5)`: the method in training mode, built for a small net, and that net."""

    def make(name, kind=None, size=(16, 16), classes=5, loss=soft_cross_entropy, **changes):
        key = kind or row(name)["nets"][0], size, classes
        if key not in models:
            models[key] = make_net(*key).model
        torch.manual_seed(0)
        net = Net(copy.deepcopy(models[key]), loss=loss).train()
        method = load(name, **row(name)["args"] | changes)
        method.build(net)
        return method.train(), net

    return make


def changed(x, mixed):
    """(B,) whether each row of images has changed."""
    return (x != mixed).flatten(1).any(1)


def flags(module):
    return {name: part.training for name, part in module.named_modules()}


def total(losses):
    return sum(losses.values())


# The directory


@all_methods
def test_every_method_has_a_row(name):
    row(name)


@all_methods
def test_every_method_names_the_source_of_its_golden_values(name):
    assert row(name)["golden"], f"Run the authors' code on fixed inputs, and name it as `golden` of {name} in rows.py."


@all_methods
def test_a_method_has_the_name_of_its_file(name):
    assert load(name, **row(name)["args"]).name == name


@all_methods
def test_a_method_has_a_title_a_docstring_and_a_paper(name):
    cls = method_class(name)
    assert cls.title and cls.__doc__ and (cls.paper or cls.group in ("baseline", "policy"))


@all_methods
def test_hyperparameters_recreate_the_method(name):
    method = load(name, **row(name)["args"] | {"per_image": True, "prob": 0.25})
    values = method.hyperparameters()
    again = load({"name": method.name, **json.loads(json.dumps(values))})
    assert again.hyperparameters() == values
    assert values["per_image"] is True and values["prob"] == 0.25


@every_method
def test_the_recreated_method_mixes_in_the_same_way(name, made, images, one_hot, seeded):
    method, net = made(name)
    again = load({"name": method.name, **method.hyperparameters()})
    again.build(net)
    again.load_state_dict(method.state_dict())
    x, y = images(), one_hot()
    assert torch.equal(method.mix(net, x, y, seeded(1))[0], again.mix(net, x, y, seeded(1))[0])


@all_methods
def test_an_unknown_argument_suggests_the_nearest_name(name):
    with pytest.raises(ValueError, match=f"{name}.*has no argument 'per_imag'.*'per_image'"):
        load(name, per_imag=True)


@all_methods
def test_a_value_of_a_wrong_type_is_rejected_with_field_and_value(name):
    for field in fields(method_class(name)):
        with pytest.raises(ValueError, match=rf"'{name}' does not accept {field.name}=1j: give "):
            load(name, **row(name)["args"] | {field.name: 1j})


@all_methods
def test_an_unknown_method_suggests_the_nearest_name(name):
    with pytest.raises(ValueError, match=f"Did you mean '{name}'"):
        load(name + "x")


@all_methods
def test_an_invalid_alpha_is_rejected(name):
    if "alpha" in [field.name for field in fields(method_class(name))]:
        for alpha in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="alpha"):
                load(name, **row(name)["args"] | {"alpha": alpha})


@all_methods
def test_an_invalid_prob_is_rejected(name):
    for prob in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="prob"):
            load(name, **row(name)["args"] | {"prob": prob})


@all_methods
def test_an_unknown_pairing_is_rejected(name):
    with pytest.raises(ValueError, match="pairing 'nearest'"):
        load(name, **row(name)["args"] | {"pairing": "nearest"})


@every_method
@pytest.mark.parametrize("way", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method))])
def test_a_copy_mixes_in_the_same_way(name, way, made, images, one_hot, seeded):
    method, net = made(name)
    for part in method.modules():
        if isinstance(part, Method):
            part.common_rng = seeded(3)  # as after a step of the trainer
    again = way(method)
    x, y = images(), one_hot()
    assert torch.equal(method.mix(net, x, y, seeded(1))[0], again.mix(net, x, y, seeded(1))[0])


# P1: outputs are like inputs, and inputs are not modified


@every_method
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_images_keep_their_shape_and_dtype(name, per_image, count, made, images, one_hot, rng):
    method, net = made(name, per_image=per_image)
    x = images(count)
    mixed, mix = method.mix(net, x, one_hot(count), rng)
    assert (mixed.shape, mixed.dtype) == (x.shape, x.dtype)
    assert mix(one_hot(count)).shape == (count, 5)
    assert mix.weight.dtype == torch.float32 and mix.index.dtype == torch.long


@every_method
def test_every_size_mixes(name, made, images, one_hot, rng):
    for size in row(name)["sizes"]:
        for kind in row(name)["nets"]:
            if kind == "vit" and any(side % 4 for side in size):
                continue
            method, net = made(name, kind, size)
            x, y = images(5, size), one_hot(5)
            mixed, mix = method.mix(net, x, y, rng)
            assert mixed.shape == x.shape
            assert mix.mask is None or mix.mask.shape[-2:] == size
            assert total(method(net, x, y, rng)).isfinite()


@every_method
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_mixes(name, channels, made, images, one_hot, rng):
    method, net = made(name)
    if method.needs_net:
        pytest.skip("its network has a fixed number of channels")
    assert method.mix(None, images(4, channels=channels), one_hot(4), rng)[0].shape[1] == channels


@every_method
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("per_image", [False, True])
def test_half_precision_images_are_mixed_in_float32(name, per_image, dtype, made, images, one_hot, seeded):
    method, net = made(name, per_image=per_image)
    if method.needs_net:
        pytest.skip("its network takes float32")
    x = images(dtype=dtype)
    for seed in range(DRAWS):
        mixed, mix = method.mix(None, x, one_hot(), seeded(seed))
        wide, _ = method.mix(None, x.float(), one_hot(), seeded(seed))
        assert mixed.dtype == dtype and mix.weight.dtype == torch.float32
        torch.testing.assert_close(mixed, wide.to(dtype), atol=0, rtol=0)


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_uint8_images_are_rounded(name, per_image, made, images, one_hot, seeded):
    method, net = made(name, per_image=per_image)
    if method.needs_net or not row(name)["integers"]:
        pytest.skip("its network takes floats")
    x = images(dtype=torch.uint8)
    for seed in range(DRAWS):
        mixed, _ = method.mix(None, x, one_hot(), seeded(seed))
        exact, _ = method.mix(None, x.double(), one_hot(), seeded(seed))
        assert mixed.dtype == torch.uint8
        assert (mixed - exact).abs().max() <= 0.5 + 1e-4  # half a level, and float32 rounding at 255


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_arguments_are_not_modified(name, per_image, made, images, one_hot, rng):
    method, net = made(name, per_image=per_image, prob=0.5)
    x, y = images(), one_hot()
    before = x.clone(), y.clone()
    for _ in range(DRAWS):
        method.mix(net, x, y, rng)
        method(net, x, y, rng)
    assert (x._version, y._version) == (0, 0)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert not x.requires_grad


@every_method
def test_the_result_is_not_a_view_of_the_batch(name, made, images, one_hot, rng):
    if not row(name)["mixes"]:
        pytest.skip("returns the batch")
    method, net = made(name)
    x = images()
    mixed, _ = method.mix(net, x, one_hot(), rng)
    assert mixed.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@every_method
def test_batches_of_a_wrong_shape_are_rejected(name, made, images, one_hot, rng):
    method, net = made(name)
    with pytest.raises(ValueError, match=r"6 images but 5 targets"):
        method.mix(net, images(6), one_hot(5), rng)
    with pytest.raises(ValueError, match=r"give a batch \(B, C, H, W\)"):
        method.mix(net, images(6)[0], one_hot(3), rng)


@every_method
def test_class_indices_are_rejected(name, made, images, rng):
    if not row(name)["mixes"]:
        pytest.skip("mixes nothing")
    method, net = made(name)
    if method.needs_net:
        pytest.skip("calls its network first")
    _, mix = method.mix(net, images(), torch.arange(6), rng)
    with pytest.raises(TypeError, match="one_hot"):
        mix(torch.arange(6))


# P2 to P5: labels correspond to the mixed images


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_target_rows_sum_to_one(name, per_image, made, images, one_hot, seeded):
    method, net = made(name, per_image=per_image)
    for seed in range(DRAWS):
        y = method.mix(net, images(), one_hot(), seeded(seed))[1](one_hot())
        assert (y >= 0).all()
        if not method.free_weights:
            torch.testing.assert_close(y.sum(1), torch.ones(6))


@every_method
def test_a_constant_image_stays_constant(name, made, one_hot, rng):
    if not row(name)["convex"]:
        pytest.skip("adds noise to the images")
    method, net = made(name)
    x = torch.full((6, 3, 16, 16), 0.3)
    torch.testing.assert_close(method.mix(net, x, one_hot(), rng)[0], x)


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_a_mixed_pixel_lies_between_its_source_pixels(name, per_image, made, images, one_hot, seeded):
    if row(name)["geometric"] or not row(name)["convex"]:
        pytest.skip("moves pixels")
    method, net = made(name, per_image=per_image)
    x = images()
    for seed in range(DRAWS):
        mixed, mix = method.mix(net, x, one_hot(), seeded(seed))
        sources = x[mix.index]
        assert (mixed >= sources.amin(1) - 1e-6).all() and (mixed <= sources.amax(1) + 1e-6).all()


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_lam_is_the_mean_of_the_mask(name, per_image, made, images, one_hot, seeded):
    if not row(name)["mask"]:
        pytest.skip("no mask")
    method, net = made(name, per_image=per_image)
    for seed in range(DRAWS):
        _, mix = method.mix(net, images(), one_hot(), seeded(seed))
        assert mix.mask.shape[0] in (1, 6) and mix.mask.shape[1] == mix.weight.shape[1] - 1
        assert (mix.mask >= 0).all() and (mix.mask.sum(1) <= 1 + 1e-6).all()
        if not row(name)["keeps_drawn_lam"]:
            shares = mix.mask.float().mean((2, 3)).expand(6, -1)
            torch.testing.assert_close(shares, mix.weight[:, :-1])


@every_method
def test_the_mask_reproduces_the_mixed_images(name, made, images, one_hot, seeded):
    if not row(name)["mask"] or row(name)["geometric"]:
        pytest.skip("no mask, or pixels that moved")
    for per_image in (False, True):
        method, net = made(name, per_image=per_image)
        x = images()
        mixed, mix = method.mix(net, x, one_hot(), seeded(1))
        shares = torch.cat([mix.mask, 1 - mix.mask.sum(1, keepdim=True)], 1)
        torch.testing.assert_close(mixed, (shares[:, :, None] * x[mix.index]).sum(1))


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_lam_is_the_share_of_each_image(name, per_image, made, seeded):
    """Each image is filled with one number: the mean of a mixed image is the mixed number."""
    if row(name)["keeps_drawn_lam"] or not row(name)["convex"]:
        pytest.skip("its labels have another rule")
    method, net = made(name, per_image=per_image)
    number = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    x = number[:, None, None, None].expand(-1, 3, 16, 16)
    for seed in range(DRAWS):
        mixed, mix = method.mix(net, x, torch.eye(6)[:, :5], seeded(seed))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), mix(number))


@every_method
@pytest.mark.parametrize("pairing", ["shift", "permutation", "derangement", "flip", "halves"])
def test_the_requested_pairing_is_used(name, pairing, made, images, one_hot, rng):
    if not row(name)["mixes"] or not row(name)["relabels"] or pairing not in method_class(name).pairings:
        pytest.skip("does not support the pairing")
    method, net = made(name, pairing=pairing)
    own = torch.arange(6)
    partner = method.mix(net, images(), one_hot(), rng)[1].partner
    assert torch.equal(partner.sort().values, own)
    if pairing in ("flip", "halves"):
        assert torch.equal(partner, own.flip(0) if pairing == "flip" else own.roll(3))
    elif pairing in ("shift", "derangement"):
        assert (partner != own).all()


# P6: draws


@every_method
def test_the_same_generator_gives_the_same_batch(name, made, images, one_hot, seeded):
    method, net = made(name)
    x, y = images(), one_hot()
    once, again = method.mix(net, x, y, seeded(1)), method.mix(net, x, y, seeded(1))
    assert torch.equal(once[0], again[0]) and torch.equal(once[1](y), again[1](y))


@every_method
def test_another_generator_gives_another_batch(name, made, images, one_hot, seeded):
    if not row(name)["mixes"]:
        pytest.skip("nothing is drawn")
    method, net = made(name)
    x, y = images(), one_hot()
    results = [method.mix(net, x, y, seeded(seed))[0] for seed in range(3)]
    assert not torch.equal(results[0], results[1]) or not torch.equal(results[0], results[2])


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_global_randomness_is_not_used(name, per_image, made, images, one_hot, rng):
    method, net = made(name, prob=0.5, per_image=per_image)

    def state():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = state()
    for _ in range(3):
        method.mix(net, images(), one_hot(), rng)
        total(method(net, images(), one_hot(), rng)).backward()
        method.after_step(net)
    assert state() == before


@every_method
def test_without_per_image_the_batch_shares_one_lam(name, made, images, one_hot, seeded):
    if not row(name)["shared_lam"]:
        pytest.skip("lam follows from the images")
    method, net = made(name)
    for seed in range(DRAWS):
        lam = method.mix(net, images(), one_hot(), seeded(seed))[1].lam
        assert (lam == lam[0]).all()


@every_method
def test_per_image_gives_each_row_its_own_draw(name, made, images, one_hot, seeded):
    if not row(name)["mixes"] or not row(name)["relabels"]:
        pytest.skip("nothing is drawn")
    method, net = made(name, per_image=True)
    lams = [method.mix(net, images(8), one_hot(8), seeded(seed))[1].lam for seed in range(DRAWS)]
    assert max(len(lam.unique()) for lam in lams) > 2, lams


BATCHES = 200


@every_method
def test_prob_one_half_skips_half_of_the_batches(name, made, images, one_hot, rng):
    if not row(name)["mixes"] or not row(name)["relabels"]:
        pytest.skip("nothing is mixed")
    method, net = made(name, size=(8, 8), prob=0.5)
    x, y = images(2, (8, 8)), one_hot(2)
    skipped = sum(method.mix(net, x, y, rng)[1].index.shape[1] == 1 for _ in range(BATCHES))
    # a binomial share has sigma sqrt(p (1 - p) / n); p applied twice would skip three quarters
    assert abs(skipped / BATCHES - 0.5) < SIGMAS * math.sqrt(0.25 / BATCHES)


@every_method
def test_without_per_image_prob_skips_whole_batches(name, made, images, seeded):
    if not row(name)["shared_lam"]:
        pytest.skip("a row may have an empty mask")
    method, net = made(name, prob=0.5)
    for seed in range(2 * DRAWS):
        lam = method.mix(net, images(), torch.eye(6)[:, :5], seeded(seed))[1].lam
        assert (lam == lam[0]).all()


class RecordingLoss:
    """A loss that records its targets."""

    def __init__(self):
        self.given = []

    def __call__(self, logits, y):
        self.given.append(y.detach())
        return soft_cross_entropy(logits, y)


ROWS_A_BATCH = 40


@every_method
@pytest.mark.parametrize("way", ["mix", "forward"])
def test_prob_one_half_skips_half_of_the_rows(name, way, made, images, rng):
    """Each image has its own class, so that targets identify mixed rows, whether pixels or features are mixed."""
    if not row(name)["mixes"] or not row(name)["relabels"]:
        pytest.skip("nothing is mixed")
    size = row(name)["small"]
    seen, x, y = RecordingLoss(), images(ROWS_A_BATCH, size), torch.eye(ROWS_A_BATCH)

    def share_of_rows_mixed(prob, batches):
        method, net = made(name, size=size, classes=ROWS_A_BATCH, loss=seen, prob=prob, per_image=True)
        mixed = 0.0
        for _ in range(batches):
            if way == "mix":
                target = method.mix(net, x, y, rng)[1](y)
            else:
                seen.given.clear()
                method(net, x, y, rng)
                target = seen.given[row(name)["loss_call"]]
            mixed += changed(y, target).float().mean()
        return float(mixed) / batches

    batches = 16
    always, half = share_of_rows_mixed(1.0, batches), share_of_rows_mixed(0.5, batches)
    assert always > 0.6  # the others drew an empty mask
    # sigma of a share of n rows is at most 1 / sqrt(4 n), and half of that for half of a share
    sigma = math.sqrt((0.25 + 0.25**2) / (batches * ROWS_A_BATCH))
    assert abs(half - 0.5 * always) < SIGMAS * sigma  # p applied twice is off by a quarter of `always`, 7 sigma


@every_method
def test_a_row_that_prob_skips_is_not_changed(name, made, images, rng):
    if not row(name)["relabels"]:
        pytest.skip("its targets do not identify mixed rows")
    method, net = made(name, prob=0.5, per_image=True, classes=12)
    x, y = images(12), torch.eye(12)
    mixed, mix = method.mix(net, x, y, rng)
    skipped = ~changed(y, mix(y))
    assert torch.equal(mixed[skipped], x[skipped])
    assert mix.mask is None or (mix.mask.expand(12, -1, -1, -1)[skipped, 0] == 1).all()


@every_method
@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e3])
def test_extreme_alphas_give_finite_results(name, alpha, made, images, one_hot, seeded):
    if "alpha" not in [field.name for field in fields(method_class(name))]:
        pytest.skip("no alpha")
    method, net = made(name, alpha=alpha, per_image=True)
    for seed in range(DRAWS):
        mixed, mix = method.mix(net, images(), one_hot(), seeded(seed))
        assert mixed.isfinite().all() and ((mix.weight >= 0) & (mix.weight <= 1)).all()


# P7, P12: nothing is mixed


def assert_identity(method, net, x, y, rng, plain_loss):
    mixed, mix = method.mix(net, x, y, rng)
    torch.testing.assert_close(mixed, x, atol=0, rtol=0)
    torch.testing.assert_close(mix(y), y, atol=0, rtol=0)
    if plain_loss:
        net.model.eval()  # so that both passes give the same logits
        torch.testing.assert_close(total(method(net, x, y, rng)), net.loss(net(x), y))


@every_method
def test_a_batch_of_one_is_unchanged(name, made, images, one_hot, rng):
    method, net = made(name)
    assert_identity(method, net, images(1), one_hot(1), rng, row(name)["plain_loss"])


@every_method
def test_prob_zero_is_the_identity(name, made, images, one_hot, rng):
    method, net = made(name, prob=0.0)
    assert_identity(method, net, images(), one_hot(), rng, row(name)["plain_loss"])


@every_method
def test_prob_zero_for_each_row_is_the_identity(name, made, images, one_hot, rng):
    method, net = made(name, prob=0.0, per_image=True)
    assert_identity(method, net, images(), one_hot(), rng, row(name)["plain_loss"])


@every_method
def test_lam_one_is_the_identity(name, made, images, one_hot, rng):
    changes = row(name)["identity"]
    if not changes:
        pytest.skip("lam cannot be forced")
    method, net = made(name, **changes)
    assert_identity(method, net, images(), one_hot(), rng, row(name)["plain_loss"])


@every_method
def test_eval_mode_is_the_identity(name, made, images, one_hot, rng):
    method, net = made(name)
    method.eval()
    assert_identity(method, net, images(), one_hot(), rng, row(name)["plain_loss"])


@every_method
def test_an_image_mixed_with_its_own_class_keeps_its_label(name, made, images, seeded):
    method, net = made(name, per_image=True)
    if method.free_weights:
        pytest.skip("declares free weights")
    y = torch.eye(5)[torch.full((6,), 2)]
    for seed in range(DRAWS):
        torch.testing.assert_close(method.mix(net, images(), y, seeded(seed))[1](y), y, atol=1e-7, rtol=0)


# P8: the order of rows does not matter


@every_method
def test_rolling_the_batch_rolls_the_result(name, made, images, one_hot, seeded):
    if not row(name)["rolls"]:
        pytest.skip("has draws per row")
    method, net = made(name)
    x, y = images(), one_hot()
    for seed in range(3):
        mixed, mix = method.mix(net, x, y, seeded(seed))
        rolled, mix_of_rolled = method.mix(net, x.roll(2, 0), y.roll(2, 0), seeded(seed))
        torch.testing.assert_close(rolled, mixed.roll(2, 0), atol=1e-5, rtol=0)
        torch.testing.assert_close(mix_of_rolled(y.roll(2, 0)), mix(y).roll(2, 0), atol=1e-5, rtol=0)


# P10: the network is not changed


@every_method
def test_mixing_leaves_the_network_unchanged(name, made, images, one_hot, rng):
    for kind in row(name)["nets"]:
        method, net = made(name, kind)
        next(m for m in net.model.modules() if "Norm" in type(m).__name__).eval()  # frozen, as in fine-tuning
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, 0.5)  # of an earlier micro-batch
        state, modes = copy.deepcopy(net.state_dict()), flags(net)
        for _ in range(2):
            method.mix(net, images(), one_hot(), rng)
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert flags(net) == modes
        assert all((parameter.grad == 0.5).all() for parameter in net.parameters())
        assert all(parameter.requires_grad for parameter in net.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@every_method
def test_a_step_does_not_change_gradients_flags_or_hooks(name, made, images, one_hot, rng):
    method, net = made(name)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    modes = flags(net)
    losses = method(net, images(), one_hot(), rng)
    assert all((parameter.grad == 0.5).all() for parameter in net.parameters())
    assert flags(net) == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    total(losses).backward()


@every_method
def test_an_exception_in_a_step_leaves_no_hook(name, made, images, one_hot, rng):
    def broken(logits, y):
        raise RuntimeError("out of memory")

    method, net = made(name, loss=broken)
    modes = flags(net)
    with pytest.raises(RuntimeError, match="out of memory"):
        method(net, images(), one_hot(), rng)
    assert flags(net) == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


# Steps


@every_method
def test_a_step_gives_named_finite_losses_and_gradients(name, made, images, one_hot, rng):
    for kind in row(name)["nets"]:
        for per_image in (False, True):
            method, net = made(name, kind, per_image=per_image)
            losses = method(net, images(5), one_hot(5), rng)
            assert losses and all(isinstance(key, str) for key in losses)
            assert all(loss.shape == () and loss.dtype == torch.float32 for loss in losses.values())
            total(losses).backward()
            trained = [*net.parameters()] + (
                [p for p in method.parameters() if p.requires_grad] if row(name)["gradient"] == "method" else []
            )
            assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
            method.after_step(net)


@every_method
def test_a_step_runs_under_autocast(name, made, images, one_hot, rng):
    method, net = made(name)
    net.precision = torch.bfloat16
    losses = method(net, images(), one_hot(), rng)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    total(losses).backward()


@every_method
def test_rows_without_a_label_give_finite_losses(name, made, images, one_hot, seeded):
    """An unlabelled image has a row of zeros."""
    method, net = made(name)
    y = one_hot() * torch.tensor([1.0, 0, 1, 0, 0, 0])[:, None]
    for seed in range(3):
        losses = method(net, images(), y, seeded(seed))
        total(losses).backward()
        assert total(losses).isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@every_method
def test_numbers_are_mixed_like_labels(name, made, images, one_hot, rng):
    """A regression target is one number per image."""
    method, net = made(name)
    _, mix = method.mix(net, images(), one_hot(), rng)
    number = torch.arange(6.0)
    assert mix(number).shape == (6,)
    torch.testing.assert_close(mix(number), (mix.weight * number[mix.index]).sum(1))


@every_method
def test_without_needs_net_mix_accepts_none(name, images, one_hot, rng):
    method = load(name, **row(name)["args"])
    if method.needs_net:
        pytest.skip("needs a network")
    assert method.mix(None, images(), one_hot(), rng)[0].shape == images().shape


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_without_needs_forward_a_step_is_mix_and_loss(name, per_image, made, images, one_hot, seeded):
    method, net = made(name, per_image=per_image)
    if method.needs_forward:
        pytest.skip("needs forward")
    net.model.eval()
    x, mix = method.mix(net, images(), one_hot(), seeded(1))
    torch.testing.assert_close(total(method(net, images(), one_hot(), seeded(1))), net.loss(net(x), mix(one_hot())))


@every_method
@pytest.mark.parametrize("per_image", [False, True])
def test_a_step_runs_on_the_meta_device(name, per_image, made, images, one_hot, rng):
    """Tensors on the meta device have no values: reading one, or mixing devices, raises an error."""
    if not row(name)["meta"]:
        pytest.skip("cannot run on the meta device")
    method, net = made(name, per_image=per_image, prob=0.75)
    method, net = method.to("meta"), Net(net.model.to("meta"))
    x, y = images().to("meta"), one_hot().to("meta")
    for _ in range(2 if per_image else 3):  # with per_image, no batch is skipped
        losses = method(net, x, y, rng)
        assert all(loss.device.type == "meta" for loss in losses.values())
        mixed, mix = method.mix(net, x, y, rng)
        assert {mixed.device.type, mix.weight.device.type, mix.index.device.type} == {"meta"}
    total(losses).backward()


@every_method
def test_a_step_does_not_read_values_on_the_host(name, made, images, one_hot, rng, watch, monkeypatch):
    """For methods that cannot run on the meta device: tensors computed from `x` or `y`, or drawn by a generator other
    than `rng`, are not read."""
    if row(name)["meta"]:
        pytest.skip("runs on the meta device")
    method, net = made(name, prob=0.75)
    x, y = images(), one_hot()
    monkeypatch.setattr("hf_mixup.ops.fields._sorted", lambda values: values.sort(1).values)  # as on a device
    with watch(x, y, host=rng):
        for _ in range(3):
            losses = method(net, x, y, rng)
            method.mix(net, x, y, rng)
        total(losses).backward()


def test_the_watch_detects_reads(images, watch):
    x = images()
    for read in (
        lambda: (x * 2).mean().item(),
        lambda: bool((x > 0).all()),
        lambda: x.flatten()[:2].tolist(),
        lambda: x[x > 0.5],
        lambda: (x > 0.5).nonzero(),
        lambda: x.sum().add(1).numpy(),
    ):
        with pytest.raises(AssertionError, match="reads a value"), watch(x):
            read()


def test_the_watch_distinguishes_cpu_draws_from_device_draws(rng, seeded, watch):
    with watch(host=rng):
        torch.rand(3, generator=rng).tolist()
    with pytest.raises(AssertionError, match="reads a value"), watch(host=rng):
        torch.randn(3, generator=seeded(1)).exp().sum().item()


@pytest.mark.gpu
@every_method
def test_a_step_does_not_synchronise_with_the_gpu(name, made, images, one_hot, rng):
    method, net = made(name)
    method, net = method.cuda(), net.cuda()
    x, y = images().cuda(), one_hot().cuda()
    total(method(net, x, y, rng)).backward()  # cuDNN's first call may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        total(method(net, x, y, rng)).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
