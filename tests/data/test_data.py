"""Tests of `hf_mixup.data`: columns, pixels, random draws and the order of the data."""

import logging
import random
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from accelerate import skip_first_batches
from PIL import Image
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DataLoader

from hf_mixup.data import (
    BatchPlan,
    DataError,
    Images,
    Shards,
    augment,
    borrowed_generators,
    collate,
    crop_share,
    eval_loader,
    eval_transform,
    load_data,
    normalise,
    train_loader,
    train_transform,
)

MEAN, STD = (0.49, 0.48, 0.45), (0.2, 0.21, 0.22)
IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def sample():
    return load_data()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng(seed))


def png(pixels, mode=None, kind="PNG", **options):
    buffer = BytesIO()
    image = Image.fromarray(np.asarray(pixels))
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def table(images, labels, label_feature=None):
    """A data set of encoded images; nothing is decoded or checked."""
    features = {"image": datasets.Image(), "label": label_feature or datasets.Value("int64")}
    columns = {"image": [{"bytes": image, "path": None} for image in images], "label": labels}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def numbered(rows, corrupt=()):
    """A data set whose row number is the value of all pixels (row % 256) and the label (row)."""
    images = [b"broken" if row in corrupt else png(np.full((4, 4), row % 256, np.uint8)) for row in range(rows)]
    return table(images, list(range(rows)))


def rows_of(batches):
    return [row for batch in batches for row in batch["labels"].tolist()]


def image_folder(path, splits=("train", "test"), classes=("cat", "dog"), each=2):
    for split in splits:
        for number, name in enumerate(classes):
            folder = path / split / name
            folder.mkdir(parents=True)
            for row in range(each):
                (folder / f"{row}.png").write_bytes(png(np.full((6, 5, 3), 40 * number + row, np.uint8)))
    return path


def parquet_folder(path, **splits):
    path.mkdir(exist_ok=True)
    for name, split in splits.items():
        split.to_parquet(path / f"{name}.parquet")
    return path


# --------------------------------------------------------------------------------------------------------- load_data


def test_the_sample_is_balanced_and_decodes(sample):
    assert sample.splits == {"train": 2000, "test": 500} and sample.eval_split == "test"
    assert sample.num_classes == 10 and sample.classes[9] == "Ankle boot"
    assert np.bincount(sample.train["label"]).tolist() == [200] * 10
    assert np.bincount(sample.eval["label"]).tolist() == [50] * 10
    batch = next(iter(eval_loader(Images(sample.eval, "image", "label", 28), 500)))
    assert batch["pixel_values"].shape == (500, 3, 28, 28) and batch["pixel_values"].dtype == torch.uint8
    assert batch["labels"].tolist() == sample.eval["label"][:]
    # Fashion-MNIST has a mean of .2860 and a standard deviation of .353 per pixel; means of images vary less.
    assert abs(batch["pixel_values"].float().mean() / 255 - 0.286) < 0.353 / 500**0.5


def test_no_test_image_of_the_sample_is_a_training_image(sample):
    cells = [
        split.cast_column("image", datasets.Image(decode=False))["image"][:] for split in (sample.train, sample.eval)
    ]
    train, test = ({cell["bytes"] for cell in column} for column in cells)
    assert len(train) == 2000 and not train & test


def test_a_folder_of_class_folders_loads(tmp_path):
    data = load_data(data=str(image_folder(tmp_path / "pets")))
    assert data.classes == ["cat", "dog"] and data.splits == {"train": 4, "test": 4}
    item = Images(data.train, "image", "label", 4)[2]
    assert item["labels"] == 1 and item["pixel_values"].unique().tolist() == [40]


def test_a_folder_of_parquet_files_loads_and_prefers_validation(tmp_path):
    folder = parquet_folder(tmp_path / "p", train=numbered(5), validation=numbered(3), test=numbered(4))
    data = load_data(data=str(folder))
    assert data.eval_split == "validation" and data.splits == {"train": 5, "validation": 3, "test": 4}
    assert data.classes == ["0", "1", "2", "3", "4"]


def test_a_sum_of_splits_is_concatenated(tmp_path):
    folder = parquet_folder(tmp_path / "p", train=numbered(5), validation=numbered(3), test=numbered(4))
    data = load_data(data=str(folder), train_split="train+validation", eval_split="test")
    assert data.train["label"][:] == [0, 1, 2, 3, 4, 0, 1, 2] and data.train_rows == 8


def test_string_labels_become_sorted_classes(tmp_path):
    text = datasets.Value("string")
    train = table([png(noise(4, 4))] * 3, ["pear", "fig", "pear"], text)
    folder = parquet_folder(tmp_path / "p", train=train, test=table([png(noise(4, 4))], ["fig"], text))
    data = load_data(data=str(folder))
    assert data.classes == ["fig", "pear"] and data.train["label"][:] == [1, 0, 1] and data.eval["label"][:] == [0]


def test_the_fingerprint_pins_local_files(tmp_path):
    folder = image_folder(tmp_path / "pets")
    pin = load_data(data=str(folder)).revision
    assert load_data(data=str(folder), revision=pin).revision == pin
    (folder / "train" / "cat" / "0.png").write_bytes(png(np.full((6, 5, 3), 9, np.uint8)))
    with pytest.raises(DataError, match=pin):
        load_data(data=str(folder), revision=pin)


def test_a_streamed_folder_has_a_stored_evaluation_split(tmp_path):
    folder = parquet_folder(tmp_path / "p", train=numbered(6), test=numbered(6))
    data = load_data(data=str(folder), streaming=True, num_examples=6)
    assert isinstance(data.train, Shards) and isinstance(data.eval, datasets.Dataset)
    assert data.splits == {"train": 6, "test": 6} and data.num_classes == 6
    assert Images(data.eval, "image", "label", 4)[5]["pixel_values"].unique().tolist() == [5]


# -------------------------------------------------------------------------------------------------------------- errors


def message(**options):
    with pytest.raises(DataError) as caught:
        load_data(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_error_for_a_missing_column_suggests_the_nearest_one():
    assert "no column 'img'" in message(image_column="img") and "['image']" in message(image_column="img")
    assert "no column 'lable'" in message(label_column="lable") and "'label'" in message(label_column="lable")


def test_a_column_without_images_or_classes_is_refused(tmp_path):
    assert "'label'" in message(image_column="label") and "not images" in message(image_column="label")
    data = table([png(noise(4, 4))] * 2, [0.5, 1.5], datasets.Value("float32"))
    folder = parquet_folder(tmp_path / "p", train=data, test=data)
    assert "holds numbers (float)" in message(data=str(folder))


def test_the_error_for_a_missing_split_lists_the_existing_ones(tmp_path):
    assert "no split 'tset', only ['test', 'train']. Did you mean 'test'?" in message(eval_split="tset")
    folder = parquet_folder(tmp_path / "p", train=numbered(2))
    assert "no split to evaluate on, only ['train']" in message(data=str(folder))


def test_the_error_for_a_wrong_label_names_row_and_value(tmp_path):
    folder = parquet_folder(tmp_path / "p", train=numbered(3), test=numbered(5))
    said = message(data=str(folder))
    assert "Row 3 of split 'test'" in said and "label 3, which is not one of the 3 classes (0, 1, 2)" in said
    for hidden in (-1, None):
        folder = parquet_folder(tmp_path / "p", train=numbered(3), test=table([png(noise(4, 4))] * 2, [0, hidden]))
        assert f"Row 1 of split 'test' of {str(folder)!r} has the label {hidden!r}" in message(data=str(folder))


def test_an_empty_split_and_a_wrong_number_of_rows_are_refused(tmp_path):
    folder = parquet_folder(tmp_path / "p", train=numbered(3))
    pq.ParquetWriter(folder / "test.parquet", numbered(0).data.schema).close()
    assert '"test"' in message(data=str(folder)) and "is empty" in message(data=str(folder))
    assert "num_examples=7, but the split 'train' of 'sample' has 2000 rows" in message(num_examples=7)


def test_the_error_for_a_missing_folder_suggests_a_similar_one(tmp_path):
    image_folder(tmp_path / "pets")
    assert "Did you mean 'pets'?" in message(data=str(tmp_path / "pet"))
    (tmp_path / "void").mkdir()
    assert str(tmp_path / "void") in message(data=str(tmp_path / "void"))


class Refusing(BaseHTTPRequestHandler):
    """A Hub that refuses every request."""

    def do_GET(self):
        code = (
            "GatedRepo" if "gated" in self.path else "RevisionNotFound" if "revision" in self.path else "RepoNotFound"
        )
        self.send_response(403 if code == "GatedRepo" else 404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_errors_of_the_hub_have_their_own_messages(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert "Did you mean 'uoft-cs/cifar10'?" in message(data="cifar10")
        assert "'me/gated' is gated" in message(data="me/gated") and "hf auth login" in message(data="me/gated")
        assert "no revision 'v9'" in message(data="me/data", revision="v9")
        server.shutdown()


# -------------------------------------------------------------------------------------------------------------- pixels


def encoded_modes():
    grey, colour = np.arange(64, dtype=np.uint8).reshape(8, 8), np.asarray(noise(8, 8, 3))
    alpha = np.dstack([colour, grey])
    palette = Image.fromarray(alpha).quantize(8)
    buffer = BytesIO()
    palette.save(buffer, "PNG", transparency=bytes(range(0, 80, 10)))
    return {
        "L": png(grey),
        "LA": png(np.dstack([grey, grey]), "LA"),
        "RGB": png(colour),
        "RGBA": png(alpha),
        "P": buffer.getvalue(),
        "1": png(grey > 30),
        "CMYK": png(colour, "CMYK", kind="JPEG"),
        "I;16": png(grey.astype(np.uint16) * 257),
        "I": png(grey.astype(np.int32) * 257, kind="TIFF"),
    }


@pytest.mark.parametrize("mode", encoded_modes())
def test_every_image_mode_becomes_three_channels(mode):
    content = encoded_modes()[mode]
    assert Image.open(BytesIO(content)).mode == mode
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = Images(table([content], [0]), "image", "label", 8)[0]["pixel_values"]
    if mode.startswith("I"):
        wanted = np.repeat(np.arange(64).reshape(8, 8, 1), 3, axis=2)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = np.asarray(Image.open(BytesIO(content)).convert("RGB"))
    assert np.array_equal(got.permute(1, 2, 0).numpy(), wanted)


def test_the_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # display rotated by 270 degrees
    pixels = np.asarray(noise(8, 8, 3))
    got = Images(table([png(pixels, exif=exif)], [0]), "image", "label", 8)[0]["pixel_values"]
    assert np.array_equal(got.permute(1, 2, 0).numpy(), np.rot90(pixels, 3))


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_bit_equal_to_timms_transform(interpolation, crop_pct):
    cfg = {"input_size": (3, 24, 24), "crop_pct": crop_pct, "interpolation": interpolation, "mean": MEAN, "std": STD}
    timms = timm.data.create_transform(**timm.data.resolve_data_config(cfg), is_training=False)
    for shape in ((24, 24), (28, 28), (31, 50, 3), (50, 31), (24, 24, 3), (90, 65, 3)):
        image = Image.fromarray(np.asarray(noise(*shape)))
        ours = eval_transform(cfg)(image)
        assert ours.dtype == torch.uint8
        assert torch.equal(normalise(ours, MEAN, STD), timms(image.convert("RGB"))), shape


def test_the_default_preparation_is_the_evaluation_transform():
    cells = [png(np.asarray(noise(*shape))) for shape in ((20, 31, 3), (24, 24), (60, 40, 3))]
    cfg = {"input_size": (3, 24, 24), "crop_pct": 0.75, "interpolation": "bicubic"}
    by_size = Images(table(cells, [0, 1, 2]), "image", "label", 24, resize=32)
    by_cfg = Images(table(cells, [0, 1, 2]), "image", "label", 24, prepare=eval_transform(cfg), keep=False)
    for row in range(3):
        assert torch.equal(by_size[row]["pixel_values"], by_cfg[row]["pixel_values"])


def test_images_in_memory_equal_images_decoded_one_by_one():
    dataset = numbered(7)
    kept, fresh = (Images(dataset, "image", "label", 4, keep=keep) for keep in (True, False))
    rows = [3, (0, 99), 6]
    for a, b in zip(kept.__getitems__(rows), fresh.__getitems__(rows), strict=True):
        assert torch.equal(a["pixel_values"], b["pixel_values"]) and a["labels"] == b["labels"]
    with pytest.raises(IndexError):
        kept[7]


def test_the_error_for_a_corrupt_image_names_split_and_row():
    dataset = numbered(6, corrupt=[4])
    for keep in (True, False):
        with pytest.raises(DataError, match="Row 4 of split 'data' .*no known image format.*skip_corrupt=True"):
            Images(dataset, "image", "label", 4, keep=keep)[4]


def test_skipped_images_are_omitted_and_counted(caplog):
    dataset = numbered(6, corrupt=[1, 4])
    kept = Images(dataset, "image", "label", 4, skip_corrupt=True)
    with caplog.at_level(logging.WARNING):
        assert len(kept) == 4 and kept.skipped == 2 and list(kept.rows) == [0, 2, 3, 5]
    assert "2 image(s)" in caplog.text and "[1, 4]" in caplog.text
    assert [kept[row]["labels"] for row in range(4)] == [0, 2, 3, 5]


def test_a_split_that_is_not_kept_replaces_a_skipped_image_by_the_next_good_one():
    images = Images(numbered(6, corrupt=[1, 4, 5]), "image", "label", 4, skip_corrupt=True, keep=False)
    batch = next(iter(DataLoader(images, batch_size=6, collate_fn=collate, num_workers=1)))
    assert batch["labels"].tolist() == batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 2, 2, 3, 0, 0]
    assert images.skipped == 3
    with pytest.raises(DataError, match="None of the 2 images"):
        len(Images(numbered(2, corrupt=[0, 1]), "image", "label", 4, skip_corrupt=True))


def test_a_transform_of_one_image_is_a_function_of_its_seed():
    transform = train_transform(16, scale=(0.3, 1.0), randaugment="rand-m9-mstd0.5-inc1")
    images = Images(table([png(noise(24, 20, 3))], [0]), "image", "label", 16, transform=transform)
    one, again, other = (images[0, seed]["pixel_values"] for seed in (5, 5, 6))
    assert one.shape == (3, 16, 16) and one.dtype == torch.uint8
    assert torch.equal(one, again) and not torch.equal(one, other)
    with pytest.raises(DataError, match="Row 0 has no seed"):
        images[0]
    assert train_transform(16) is None


def pixels_of(transform, image, seed=0):
    with borrowed_generators(seed):
        return transform(image)


def test_resize_comes_before_the_random_crop():
    image = Image.fromarray(np.asarray(noise(90, 60, 3)))
    smaller = image.resize((30, 45), Image.Resampling.BICUBIC)
    crop, resized = train_transform(16, scale=(0.5, 1.0)), train_transform(16, scale=(0.5, 1.0), resize=30)
    assert torch.equal(pixels_of(resized, image), pixels_of(crop, smaller))
    alone = train_transform(24, resize=30)
    windows = torch.from_numpy(np.asarray(smaller).copy()).permute(2, 0, 1).unfold(1, 24, 1).unfold(2, 24, 1)
    found = {
        tuple((windows == got[:, None, None]).flatten(3).all(3).all(0).nonzero().tolist()[0])
        for got in (pixels_of(alone, image, seed) for seed in range(12))
    }
    assert len(found) > 6
    with pytest.raises(DataError, match="resize=20 .* size=24"):
        train_transform(24, resize=20)


def test_posterize_to_0_bits_gives_a_black_image():
    """As older Pillow does; newer Pillow raises an error."""
    image = Image.new("RGB", (20, 20), (200, 100, 50))
    posterize = train_transform(16, randaugment="rand-m10-n1-p1", operations=["PosterizeIncreasing"])
    with borrowed_generators(0):
        assert not posterize(image).any()
    kept = train_transform(16, randaugment="rand-m4-n1-p1", operations=["PosterizeIncreasing"])
    with borrowed_generators(0):
        assert kept(image).any()


def test_randaugment_uses_the_given_operations():
    grey = Image.new("RGB", (16, 16), (100, 150, 200))
    turned = train_transform(16, randaugment="rand-m9-n1-p1", operations=["SolarizeIncreasing"])
    assert turned.transforms[-2].ops[0].name == "SolarizeIncreasing" and len(turned.transforms[-2].ops) == 1
    assert not torch.equal(pixels_of(turned, grey), pixels_of(train_transform(16, scale=(1.0, 1.0)), grey))
    with pytest.raises(DataError, match="no operation 'Solarise'. Choose from: AutoContrast, "):
        train_transform(16, randaugment="rand-m9", operations=["Rotate", "Solarise"])


def test_crop_share_makes_timm_resize_to_the_given_side():
    for size, resize in ((224, 256), (224, 236), (224, 248), (224, 320), (448, 512), (64, 73), (28, 28)):
        share = crop_share(size, resize)
        cfg = {"input_size": (3, size, size), "crop_pct": share, "interpolation": "bicubic"}
        steps = eval_transform(cfg).transforms
        assert next(step.size for step in steps if hasattr(step, "interpolation")) == resize
        assert share == pytest.approx(size / resize, abs=2e-6)


def test_borrowed_generators_are_restored():
    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with pytest.raises(KeyError), borrowed_generators(2**40 + 3):
        inside = draws()
        raise KeyError
    assert draws() == wanted != inside
    with borrowed_generators(2**40 + 3):
        assert draws() == inside


# --------------------------------------------------------------------------------------- augmentation of whole batches


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_a_crop_is_a_window_of_the_padded_image(mode):
    x, padding = noise(16, 3, 9, 11), 3
    got = augment(x, rng(), crop_padding=padding, crop_mode=mode, flip=0.0, **IDENTITY)
    options = {"mode": mode} if mode == "reflect" else {}
    for image, crop in zip(x.numpy(), got, strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), **options)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (9, 11), axis=(1, 2))
        same = (windows == crop.round().numpy()[:, None, None]).all(axis=(0, 3, 4))
        assert same.sum() == 1


def test_each_image_has_its_own_draw():
    x = noise(1, 3, 32, 32).expand(128, -1, -1, -1)
    got = augment(x, rng(), crop_padding=4, erasing=0.0, mean=MEAN, std=STD)
    # 128 draws from 162 crops and flips give 162 (1 - (1 - 1/162)^128) = 88.6 different ones, with a deviation of 4.
    assert abs(len(torch.unique(got.flatten(1), dim=0)) - 88.6) < 5 * 4.0


def test_half_of_the_images_are_flipped():
    x = torch.arange(8, dtype=torch.uint8).expand(4000, 3, 8, 8)
    flipped = augment(x, rng(), flip=0.5, **IDENTITY)[:, 0, 0, 0] > 3
    # Five standard deviations of a share of 4000 fair draws.
    assert abs(flipped.float().mean() - 0.5) < 5 * (0.25 / 4000) ** 0.5


def test_augment_is_a_function_of_its_generator_and_does_not_modify_its_input():
    x = noise(32, 3, 12, 12)
    before = x.clone()
    options = {"crop_padding": 2, "erasing": 0.5, "mean": MEAN, "std": STD}
    one, again, other = (augment(x, rng(seed), **options) for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other) and torch.equal(x, before)
    assert one.dtype == torch.float32 and one.shape == x.shape


def test_enabling_a_step_does_not_change_the_other_draws():
    x = noise(64, 3, 16, 16)
    plain = augment(x, rng(), crop_padding=2, mean=MEAN, std=STD)
    erased = augment(x, rng(), crop_padding=2, erasing=0.5, erasing_fill="mean", mean=MEAN, std=STD)
    assert torch.equal(erased[erased != 0], plain[erased != 0])


def test_without_steps_augment_only_normalises():
    x = noise(4, 3, 5, 6)
    wanted = (x.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(augment(x, rng(), flip=0.0, mean=MEAN, std=STD).double(), wanted, atol=1e-6)


def test_erased_boxes_have_the_expected_share_and_size():
    x = torch.full((2000, 3, 32, 32), 255, dtype=torch.uint8)
    erased = augment(x, rng(), flip=0.0, erasing=0.25, erasing_fill="mean", mean=(0.0,) * 3, std=(1.0,) * 3) == 0
    area = erased[:, 0].float().mean((1, 2))
    hit = area > 0
    assert abs(hit.float().mean() - 0.25) < 5 * (0.25 * 0.75 / 2000) ** 0.5
    # Rounding changes each side by at most half a pixel; clipping to the image only makes boxes smaller.
    assert 0.01 < area[hit].min() and area[hit].max() < 0.38
    # Uniform between .02 and 1/3: mean .177, deviation .09; clipping lowers the mean a little.
    assert abs(area[hit].mean() - 0.177) < 5 * 0.09 / hit.sum() ** 0.5 + 0.005
    rows, columns = erased[hit][:, 0].any(2).sum(1), erased[hit][:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, erased[hit][:, 0].sum((1, 2))), "an erased area is not a rectangle"


def test_pixel_erasing_fills_with_normal_noise():
    x = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    got = augment(x, rng(), flip=0.0, erasing=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    values = got[got != 0]
    assert abs(values.mean()) < 5 / len(values) ** 0.5 and abs(values.std() - 1) < 5 / (2 * len(values)) ** 0.5


def test_errors_of_augment_name_the_wrong_argument():
    x = noise(2, 3, 4, 4)
    for options, named in (({"crop_mode": "wrap"}, "'wrap'"), ({"erasing_fill": "red"}, "'red'")):
        with pytest.raises(ValueError, match=named):
            augment(x, rng(), mean=MEAN, std=STD, **options)
    with pytest.raises(ValueError, match="crop_padding=4"):
        augment(x, rng(), crop_padding=4, crop_mode="reflect", mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="float32"):
        augment(x.float(), rng(), mean=MEAN, std=STD)


# ---------------------------------------------------------------------------------------------------------- data order


def plan_rows(plan):
    return [[row for row, _ in batch] for batch in plan]


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_are_disjoint_and_equally_long(drop_last):
    plans = [BatchPlan(101, 8, seed=1, rank=rank, world=3, drop_last=drop_last) for rank in range(3)]
    parts = [plan_rows(plan) for plan in plans]
    seen = [row for part in parts for batch in part for row in batch]
    assert len({len(part) for part in parts} | {len(plan) for plan in plans}) == 1
    # 101 = 4 * 24 + 5: five rows are no batch of 3 x 8, but give each of three ranks one more row.
    assert len(set(seen)) == len(seen) == (96 if drop_last else 99)
    assert all([len(batch) for batch in part] == [8] * 4 + [1] * (not drop_last) for part in parts)


def test_two_ranks_read_the_rows_of_one_rank_with_twice_the_batch_size():
    one = BatchPlan(70, 16, seed=2)
    two = [BatchPlan(70, 8, seed=2, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*two, strict=True)] == list(one)


def test_the_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        plan = BatchPlan(64, 16, seed=seed)
        plan.set_epoch(epoch)
        return list(plan)

    assert order(0, 3) == order(0, 3)
    assert len({str(order(*key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    state = torch.get_rng_state()
    order(0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_repeated_augmentation_puts_copies_on_different_ranks():
    plans = [BatchPlan(96, 8, seed=0, rank=rank, world=3, repeats=3) for rank in range(3)]
    batches = [list(plan) for plan in plans]
    rows = [[[row for row, _ in batch] for batch in part] for part in batches]
    assert rows[0] == rows[1] == rows[2] and [len(part) for part in rows] == [4] * 3
    assert len({row for batch in rows[0] for row in batch}) == 96 // 3
    assert len({seed for part in batches for batch in part for _, seed in batch}) == 96
    # timm's sampler with the same settings distributes copies equally; its order does not depend on a seed
    samplers = [RepeatAugSampler(range(96), 3, rank, num_repeats=3, selected_round=0) for rank in range(3)]
    theirs = [list(sampler) for sampler in samplers]
    assert theirs[0] == theirs[1] == theirs[2] and len(set(theirs[0])) == len(theirs[0]) == 96 // 3


@pytest.mark.parametrize("world", [1, 2])
def test_repeated_augmentation_has_all_copies_of_a_row_in_one_step(world):
    plans = [BatchPlan(100, 12 // world, seed=0, rank=rank, world=world, repeats=3) for rank in range(world)]
    assert len(plans[0]) == len(BatchPlan(100, 12 // world, seed=0, world=world)) == 8
    for parts in zip(*plans, strict=True):
        assert sorted(Counter(row for part in parts for row, _ in part).values()) == [3] * 4
    assert list(BatchPlan(100, 12, seed=0, repeats=1)) == list(BatchPlan(100, 12, seed=0))
    with pytest.raises(DataError, match="repeats=0: give 1"):
        BatchPlan(100, 12, seed=0, repeats=0)


RARE = np.repeat([0, 1, 2], [80, 15, 5])  # the class of each of 100 rows


def balanced(seed=0, epoch=0, size=10, **options):
    plan = BatchPlan(100, size, seed=seed, classes=RARE, **options)
    plan.set_epoch(epoch)
    return [pair for batch in plan for pair in batch]


def test_balanced_classes_and_the_rows_of_a_class_are_equally_likely():
    drawn = np.array([row for epoch in range(300) for row, _ in balanced(epoch=epoch)])
    counts = np.bincount(drawn, minlength=100)
    assert len(drawn) == 30_000 and np.abs(np.bincount(RARE[drawn]) - 10_000).max() < 4 * 82  # deviations of 82
    for name in range(3):
        rows = counts[name == RARE]
        assert 0.6 < rows.var() / rows.mean() < 1.5 or len(rows) < 20  # of a Poisson distribution: 1
        assert rows.min() > 0.7 * rows.mean()


def test_a_balanced_order_is_a_function_of_seed_and_epoch_and_ranks_share_its_positions():
    assert balanced(3, 5) == balanced(3, 5)
    assert len({str(balanced(*key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    whole = balanced(size=10)
    parts = [balanced(size=5, rank=rank, world=2) for rank in range(2)]
    assert [pair for step in range(10) for part in parts for pair in part[5 * step : 5 * step + 5]] == whole
    assert len({seed for _, seed in whole}) == 100 > len({row for row, _ in whole})


def test_repeated_augmentation_of_balanced_classes_has_all_copies_in_one_step():
    drawn = balanced(size=12, repeats=3)
    assert all(len({row for row, _ in drawn[place : place + 3]}) == 1 for place in range(0, len(drawn), 3))
    assert len({seed for _, seed in drawn}) == len(drawn) == 96


def test_balanced_classes_require_the_class_of_each_row():
    with pytest.raises(DataError, match="2 of 4 rows have none"):
        BatchPlan(4, 2, seed=0, classes=[0, -1, 1, -1])
    with pytest.raises(DataError, match=r"\(3,\) classes for 4 rows"):
        BatchPlan(4, 2, seed=0, classes=[0, 1, 1])


def test_too_few_rows_for_one_batch_are_refused_with_numbers():
    with pytest.raises(DataError, match="63 rows .* 32 on each of 2 .* at most 31"):
        BatchPlan(63, 32, seed=0, rank=0, world=2)


def seeded_images(rows=40):
    cells = [png(np.asarray(noise(12, 12, 3, seed=row))) for row in range(rows)]
    return Images(table(cells, list(range(rows))), "image", "label", 8, transform=train_transform(8, scale=(0.3, 1.0)))


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in ("pixel_values", "labels")
    )


@pytest.mark.parametrize("random_transform", [True, False])
def test_the_number_of_workers_does_not_change_the_batches(random_transform):
    images = seeded_images() if random_transform else Images(numbered(40), "image", "label", 4)
    batches = []
    for workers in (0, 2):
        loader = train_loader(images, BatchPlan(40, 8, seed=0), num_workers=workers)
        loader.set_epoch(1)
        batches.append(list(loader))
    assert same(*batches)


@pytest.mark.parametrize("options", [{}, {"repeats": 3}, {"classes": [0] * 35 + [1] * 5}])
@pytest.mark.parametrize("set_epoch_after", [True, False])
def test_a_resumed_epoch_continues_with_the_next_batch(set_epoch_after, options):
    images = seeded_images()
    whole = train_loader(images, BatchPlan(40, 8, seed=0, **options))
    whole.set_epoch(2)
    wanted = list(whole)
    loader = train_loader(images, BatchPlan(40, 8, seed=0, **options))
    if not set_epoch_after:
        loader.set_epoch(2)
    rest = skip_first_batches(loader, 3)
    if set_epoch_after:
        # as transformers' Trainer does, which sets the epoch of the plan inside accelerate's wrapper
        rest.batch_sampler.batch_sampler.set_epoch(2)
    assert same(list(rest), wanted[3:])
    loader.set_epoch(3)
    assert not same(list(loader), wanted)


def test_skipping_batches_decodes_nothing():
    plan = BatchPlan(40, 8, seed=0)
    skipped = next(iter(plan))[0][0]
    images = Images(numbered(40, corrupt=[skipped]), "image", "label", 4, keep=False)
    assert len(list(skip_first_batches(train_loader(images, plan), 1))) == 4
    with pytest.raises(DataError, match=f"Row {skipped} "):
        next(iter(train_loader(images, plan)))


def test_loaders_do_not_draw_from_the_global_generator():
    images = Images(numbered(8), "image", "label", 4)
    state = torch.get_rng_state()
    list(train_loader(images, BatchPlan(8, 4, seed=0))), list(eval_loader(images, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_reads_every_row_once_in_order():
    images = Images(numbered(11), "image", "label", 4)
    for workers in (0, 2):
        assert rows_of(eval_loader(images, 4, num_workers=workers)) == list(range(11))
