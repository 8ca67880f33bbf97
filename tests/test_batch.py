"""BatchMixup and MixupCollator: results, random draws, errors."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixtures.training import CLASSES, Learnable, Rows, are_rows, timm_resnet
from timm.data import Mixup as TimmMixup
from torch.utils.data import DataLoader

from hf_mixup import BatchMixup, Method, MixupCollator, available, from_timm, load, soft_loss

STATIC = [name for name in available() if not (load(name).needs_net or load(name).needs_forward)]
DRAWS, SIGMAS = 800, 5
ROW, COUNT = 32, 8  # side of an image and rows of a batch, for the comparison with timm


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("name", STATIC)
def test_images_keep_shape_and_dtype_and_targets_are_float_rows_that_sum_to_one(name, images, labels):
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        x, y = BatchMixup(name, num_classes=CLASSES, seed=0)(images(dtype=dtype), labels)
        assert x.shape == images().shape and x.dtype == dtype
        assert y.shape == (6, CLASSES) and y.dtype == torch.float32
        torch.testing.assert_close(y.sum(1), torch.ones(6))


@pytest.mark.parametrize("name", STATIC)
def test_arguments_are_not_modified(name, images, labels):
    x, y = images(), F.one_hot(labels, CLASSES).float()
    BatchMixup(name, num_classes=CLASSES, seed=0, label_smoothing=0.1)(x, y)
    assert torch.equal(x, images()) and torch.equal(y, F.one_hot(labels, CLASSES).float())


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_indices_of_any_dtype_and_one_hot_rows_give_the_same(images, labels, dtype):
    rows = F.one_hot(labels, CLASSES)
    wanted = BatchMixup("mixup", CLASSES, seed=0)(images(), labels)
    for given in (labels.to(dtype), rows.to(dtype), rows.bool(), rows.float(), rows.double(), rows.half()):
        found = BatchMixup("mixup", CLASSES, seed=0)(images(), given)
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_a_target_is_the_mix_of_the_two_images_labels(images):
    x = images(CLASSES)  # one class per image, so that targets identify the images
    mixed, y = BatchMixup("mixup", CLASSES, seed=0)(x, torch.arange(CLASSES))
    assert (y > 0).sum() == 2 * CLASSES
    torch.testing.assert_close(mixed, (y @ x.flatten(1)).view_as(x))


def test_in_eval_mode_images_are_returned_with_one_hot_labels(images, labels):
    mixup = BatchMixup("mixup", CLASSES, label_smoothing=0.1).eval()
    x = images()
    mixed, y = mixup(x, labels)
    assert mixed is x and torch.equal(y, F.one_hot(labels, CLASSES).float())


def test_a_seed_gives_the_same_draws_and_each_call_gives_new_ones(images, labels):
    runs = []
    for seed in (3, 3, 4):
        mixup = BatchMixup("mixup", CLASSES, seed=seed)
        runs.append([mixup(images(), labels)[0] for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert len({x[0].sum().item() for x in runs[0] + runs[2]}) == 6


def test_without_a_seed_torchs_initial_seed_is_used(images, labels):
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        torch.rand(seed)  # only the initial seed is used
        found.append(BatchMixup("mixup", CLASSES)(images(), labels)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("seed", [None, 3])
def test_each_rank_has_different_draws(images, labels, monkeypatch, seed):
    torch.manual_seed(0)
    found = []
    for rank in ("0", "1", "0"):
        monkeypatch.setenv("RANK", rank)
        found.append(BatchMixup("mixup", CLASSES, seed=seed)(images(), labels)[0])
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def test_the_global_generator_is_not_touched(images, labels):
    state = torch.get_rng_state()
    BatchMixup("cutmix", CLASSES)(images(), labels)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda mixup: pickle.loads(pickle.dumps(mixup))])
def test_a_copy_restarts_its_draws(name, again, images, labels):
    mixup = BatchMixup(name, CLASSES, seed=3)
    first = mixup(images(), labels)
    second = again(mixup)(images(), labels)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", sorted(set(available()) - set(STATIC)))
def test_methods_that_need_a_training_step_are_rejected_with_their_name(name):
    with pytest.raises(ValueError, match=f"'{name}'.*MixupTrainer"):
        BatchMixup(name, CLASSES)
    with pytest.raises(ValueError, match="'choice'.*MixupTrainer"):
        BatchMixup("choice", CLASSES, methods=[{"name": "mixup"}, {"name": name}])


def test_smoothing_spreads_a_share_of_each_target(images, labels):
    plain = BatchMixup("cutmix", CLASSES, seed=0)(images(), labels)
    smoothed = BatchMixup("cutmix", CLASSES, seed=0, label_smoothing=0.2)(images(), labels)
    assert torch.equal(plain[0], smoothed[0])
    torch.testing.assert_close(smoothed[1], 0.8 * plain[1] + 0.2 / CLASSES)


KINDS = [(6, torch.float32, (16, 16)), (5, torch.float32, (12, 20)), (6, torch.bfloat16, (16, 16))]
KINDS += [(6, torch.uint8, (16, 16)), (4, torch.float32, (112, 96))]


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize(("count", "dtype", "size"), KINDS)
@pytest.mark.parametrize("name", STATIC)
def test_out_and_inplace_give_the_same_as_a_new_tensor(name, count, dtype, size, per_image, images, labels):
    halves = {"pairing": "halves"} if "halves" in load(name).pairings else {}
    x, y = images(count, size, dtype=dtype), labels[:count]
    for prob in (1.0, 0.5):
        made = {"num_classes": CLASSES, "seed": 0, "per_image": per_image, "prob": prob, **halves}
        wanted, targets = BatchMixup(name, **made)(x, y)
        out = torch.empty_like(x)
        mixed, soft = BatchMixup(name, **made)(x, y, out=out)
        assert mixed is out and torch.equal(out, wanted) and torch.equal(soft, targets)
        assert torch.equal(x, images(count, size, dtype=dtype))
        if halves:
            written = x.clone()
            mixed, soft = BatchMixup(name, inplace=True, **made)(written, y)
            assert mixed is written and torch.equal(written, wanted) and torch.equal(soft, targets)


@pytest.mark.parametrize("alpha", [0.0, 1e-4])
def test_an_empty_or_full_box_is_swapped_in_place(alpha, images, labels):
    for seed in range(4):
        made = {"num_classes": CLASSES, "seed": seed, "pairing": "halves", "alpha": alpha}
        x = images()
        BatchMixup("cutmix", inplace=True, **made)(x, labels)
        assert torch.equal(x, BatchMixup("cutmix", **made)(images(), labels)[0])


def test_in_eval_mode_out_receives_the_images(images, labels):
    out = torch.empty_like(images())
    assert BatchMixup("mixup", CLASSES).eval()(images(), labels, out=out)[0] is out
    assert torch.equal(out, images())


def test_out_unlike_the_images_is_rejected_with_both_shapes(images, labels):
    with pytest.raises(ValueError, match=r"out is \(5, .*float32.*images are \(6, "):
        BatchMixup("mixup", CLASSES)(images(), labels, out=torch.empty_like(images(5)))


def test_out_that_shares_memory_with_images_is_rejected(images, labels):
    x = images()
    for out in (x, x.view_as(x)):
        with pytest.raises(ValueError, match="share memory"):
            BatchMixup("mixup", CLASSES)(x, labels, out=out)


def test_inplace_rejects_out(images, labels):
    mixup = BatchMixup("mixup", CLASSES, inplace=True, pairing="halves")
    with pytest.raises(ValueError, match="out was given.*inplace"):
        mixup(images(), labels, out=torch.empty_like(images()))


def test_inplace_requires_the_pairing_halves():
    with pytest.raises(ValueError, match='pairing="halves".*shift'):
        BatchMixup("mixup", CLASSES, inplace=True)


@pytest.mark.parametrize(
    "wrong", [torch.rand(6), torch.rand(6, CLASSES + 1), torch.ones(6, CLASSES + 1, dtype=torch.long)]
)
def test_labels_of_a_wrong_shape_are_rejected_with_their_shape(images, wrong):
    with pytest.raises(ValueError, match=r"Labels have shape \(6,.*\(B, 5\) as floats"):
        BatchMixup("mixup", CLASSES)(images(), wrong)


@pytest.mark.parametrize("wrong", [CLASSES, -1])
def test_class_indices_out_of_range_are_rejected_with_their_values(images, wrong):
    with pytest.raises(ValueError, match=f"Labels are .*{wrong}.*from 0 to 4"):
        BatchMixup("mixup", CLASSES)(images(), torch.tensor([2, 2, 2, 2, 2, wrong]))


def test_mixing_is_switched_off_by_timms_attribute(images, labels):
    for mix in (BatchMixup("cutmix", CLASSES), from_timm(num_classes=CLASSES, label_smoothing=0.1)):
        mix.mixup_enabled = False
        for _ in range(20):
            x, y = mix(images(), labels)
            assert torch.equal(x, images()) and torch.equal(y.argmax(1), labels)
        assert y.min() == pytest.approx(mix.label_smoothing / CLASSES)  # as timm smooths unmixed targets
        mix.mixup_enabled = True
        assert any(not torch.equal(mix(images(), labels)[0], images()) for _ in range(20))


def test_unknown_attributes_are_refused_with_the_nearest_one():
    mix = from_timm(num_classes=CLASSES)
    with pytest.raises(AttributeError, match="no attribute 'mixup_enable'. Did you mean 'mixup_enabled'"):
        mix.mixup_enable = False
    collator = MixupCollator("mixup", CLASSES)
    with pytest.raises(AttributeError, match="MixupCollator has no attribute 'colate'"):
        collator.colate = None
    mix.label_smoothing, collator.collate = 0.2, list


def test_a_pair_can_be_given_as_to_torchvision(images, labels):
    for pair in ((images(), labels), [images(), labels]):
        wanted, found = (BatchMixup("cutmix", CLASSES, seed=0)(*given) for given in (pair, (pair,)))
        assert torch.equal(wanted[0], found[0]) and torch.equal(wanted[1], found[1])
    with pytest.raises(TypeError, match="a pair of them, not dict"):
        BatchMixup("cutmix", CLASSES)({"images": images()})


def test_an_empty_batch_stays_empty():
    for name in STATIC:
        x, y = BatchMixup(name, CLASSES)(torch.rand(0, 3, 8, 8), torch.zeros(0, dtype=torch.long))
        assert x.shape == (0, 3, 8, 8) and y.shape == (0, CLASSES)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.zeros((6, 3, 8, 8)), "Images are ndarray: give a tensor"),
        (torch.rand(6, 32, 40, 3), r"\(B, H, W, C\): give images.permute\(0, 3, 1, 2\)"),
        (torch.rand(6, 3, 8), r"shape \(6, 3, 8\): give \(B, C, H, W\)"),
    ],
)
def test_images_of_other_types_and_layouts_are_refused(labels, wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        BatchMixup("cutmix", CLASSES)(wrong, labels)


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan])
def test_label_smoothing_outside_0_to_1_is_rejected(share):
    with pytest.raises(ValueError, match=f"label_smoothing is {share}"):
        BatchMixup("mixup", CLASSES, label_smoothing=share)


def test_a_method_instance_is_accepted(images, labels):
    method = load("mixup", alpha=0.0)
    assert isinstance(method, Method)
    x, _ = BatchMixup(method, CLASSES)(images(), labels)
    assert torch.equal(x, images())


@pytest.mark.parametrize("seed", [None, 3])
def test_workers_and_epochs_have_different_draws(seed):
    data = Rows(16)
    collate = MixupCollator("mixup", CLASSES, seed=seed)
    loader = DataLoader(data, batch_size=4, collate_fn=collate, num_workers=2)
    torch.manual_seed(0)
    shares = [batch["labels"].max(1).values.min().item() for _ in range(2) for batch in loader]
    assert len(set(shares)) == len(shares) == 8
    torch.manual_seed(0)
    assert shares == [batch["labels"].max(1).values.min().item() for _ in range(2) for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_collator_works_in_any_dataloader(workers):
    data = Rows(16)
    loader = DataLoader(data, batch_size=4, num_workers=workers)
    assert MixupCollator("mixup", CLASSES, seed=1).into(loader) is loader
    for batch in loader:
        assert not are_rows(batch["pixel_values"], data.x) and batch["labels"].shape == (4, CLASSES)


def test_a_batch_without_images_raises_an_error():
    with pytest.raises(KeyError, match="image.*lacks.*pixel_values.*remove_unused_columns"):
        MixupCollator("mixup", CLASSES)([{"image": torch.zeros(3), "labels": 1}] * 2)


# timm


SETTINGS = {
    "mixup": {"mixup_alpha": 0.8},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.3},
    "some": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.6},
    "drawn share": {"mixup_alpha": 0.0, "cutmix_alpha": 0.5, "correct_lam": False},
    "inner boxes": {"mixup_alpha": 0.0, "cutmix_minmax": (0.25, 0.75)},
    "all": {"mixup_alpha": 0.2, "cutmix_minmax": (0.25, 0.75), "switch_prob": 0.7, "label_smoothing": 0.0},
}


def observed(mix, draws: int) -> dict[str, torch.Tensor]:
    """For many batches: the first row's target, and whether its image has a hard edge, as only in CutMix."""
    x = torch.ones(COUNT, 1, ROW, ROW) * torch.arange(COUNT)[:, None, None, None] / COUNT
    found = []
    for _ in range(draws):
        mixed, y = mix(x.clone(), torch.arange(COUNT))
        pixels = mixed[0].unique()
        found.append((y[0, 0].item(), float(len(pixels) > 1), float(mixed[0].mean())))
    return dict(zip(("target", "cut", "mean"), torch.tensor(found).double().T, strict=True))


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_from_timm_has_the_distribution_of_timms_mixup(setting, mode):
    arguments = {"num_classes": COUNT, "mode": mode, **SETTINGS[setting]}
    np.random.seed(0)
    draws = DRAWS if mode == "batch" else DRAWS // 4
    ours, theirs = observed(seeded(from_timm(**arguments)), draws), observed(TimmMixup(**arguments), draws)
    # timm's boxes may have odd sides, the paper's have even ones: a difference of one row and one column
    pixel = 2 / ROW
    for name in ours:
        for power in (1, 2):
            one, other = ours[name] ** power, theirs[name] ** power
            noise = math.sqrt((one.var() + other.var()) / draws)
            assert float((one.mean() - other.mean()).abs()) <= SIGMAS * noise + pixel, (name, power)


def seeded(mixup: BatchMixup) -> BatchMixup:
    mixup.seed = 11
    return mixup


def test_from_timm_smooths_labels_as_timm_does(images, labels):
    ours = from_timm(mixup_alpha=0.8, label_smoothing=0.1, num_classes=CLASSES, prob=0.0)(images(), labels)[1]
    theirs = TimmMixup(mixup_alpha=0.8, label_smoothing=0.1, num_classes=CLASSES, prob=0.0)(images(), labels)[1]
    torch.testing.assert_close(ours, theirs)


def test_from_timm_accepts_odd_batches_and_rejects_what_timm_rejects(images):
    assert from_timm(num_classes=CLASSES)(images(5), torch.arange(5))[1].shape == (5, CLASSES)
    with pytest.raises(ValueError, match="mode 'half'"):
        from_timm(mode="half")
    with pytest.raises(ValueError, match="mixup_alpha > 0"):
        from_timm(mixup_alpha=0.0)
    with pytest.raises(ValueError, match="label_smoothing=0"):
        from_timm(multi_label=True)


def test_a_plain_training_loop_learns_with_batch_mixup():
    model, data = timm_resnet().train(), Learnable(64)
    mixup = seeded(from_timm(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    found = []
    for _ in range(30):
        x, y = mixup(data.x, data.y)
        loss = soft_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
