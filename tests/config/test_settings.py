"""Image fields of a recipe take effect in data, network and published files."""

import json
from dataclasses import replace

import pytest
import timm
import torch

from hf_mixup import MixupConfig
from hf_mixup.data import Images, Labels, load_data
from hf_mixup.errors import ModelError
from hf_mixup.models import build_model, save_published
from hf_mixup.publish.workflow import run
from hf_mixup.runs.run import make_trainer

CNN = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.fixture(scope="module")
def data():
    """The first 64 rows of each split of the sample."""
    sample = load_data()
    return replace(sample, train=sample.train.select(range(64)), eval=sample.eval.select(range(64)))


def trainer(data, folder, **changes):
    usual = {"image_size": 28, "model": "resnet18", "model_args": CNN, "method": "erm", "num_train_epochs": 2}
    config = MixupConfig(output_dir=str(folder), use_cpu=True, disable_tqdm=True, **usual | changes)
    return make_trainer(config, data)


def sizes(made):
    return [images[0, 0]["pixel_values"].shape[-1] for images in (made.train_dataset, made.eval_dataset)]


@pytest.mark.parametrize("changes", [{}, {"random_resized_crop": [0.5, 1.0]}, {"resize": 32}])
def test_evaluation_images_can_have_another_size(data, tmp_path, changes):
    made, processor = trainer(data, tmp_path, eval_image_size=40, **changes)
    assert sizes(made) == [28, 40] and processor.data_config["input_size"][-1] == 40
    save_published(made.model, processor, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 40, 40]
    same, _ = trainer(data, tmp_path)
    assert sizes(same) == [28, 28]


def test_a_run_evaluates_at_eval_image_size(data, tmp_path):
    config = MixupConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
        max_steps=1,
        method="mixup",
        model="resnet18",
        model_args=CNN,
        image_size=28,
        eval_image_size=40,
        eval_resize=44,
    )
    record = run(config, data)
    assert record["status"] == "finished"
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert tuple(network.pretrained_cfg["input_size"]) == (3, 40, 40)


def test_a_network_of_fixed_size_is_evaluated_at_that_size(tmp_path):
    options = {"classes": ["a", "b"], "image_size": 32, "eval_size": 48}
    with pytest.raises(ModelError, match="32 px in training and 48 px in evaluation. Give one size, or"):
        build_model("vit_tiny_patch16_224", model_args=VIT, **options)
    model, processor = build_model("vit_tiny_patch16_224", model_args={**VIT, "dynamic_img_size": True}, **options)
    assert model(torch.zeros(1, 3, *processor.data_config["input_size"][1:])).logits.shape == (1, 2)
    save_published(model, processor, tmp_path)
    with pytest.raises(ModelError, match="Give one size"):
        build_model(
            str(tmp_path),
            classes=["a", "b"],
            image_size=48,
            eval_size=64,
            model_args={"dynamic_img_size": False, "img_size": 48},
        )


@pytest.mark.parametrize(
    ("train", "both", "wanted"),
    [(None, None, "bilinear"), (None, "bicubic", "bicubic"), ("nearest", "bicubic", "nearest")],
)
def test_training_images_can_have_another_interpolation(data, tmp_path, train, both, wanted):
    changes = {"random_resized_crop": [0.5, 1.0], "train_interpolation": train, "interpolation": both}
    made, processor = trainer(data, tmp_path, **changes)
    assert made.train_dataset.transform.transforms[0].interpolation.value == wanted
    assert processor.data_config["interpolation"] == (both or "bilinear")


def test_eval_resize_is_published_as_crop_pct(data, tmp_path):
    _, processor = trainer(data, tmp_path, eval_resize=32)
    assert processor.data_config["crop_pct"] == 28 / 32


def test_randaugment_and_repeats_are_those_of_the_recipe(data, tmp_path):
    changes = {"randaugment": "rand-m9-mstd0.5", "randaugment_ops": ["Rotate", "ShearX"], "aug_repeats": 3}
    made, _ = trainer(data, tmp_path, **changes)
    randaugment = made.train_dataset.transform.transforms[-2]
    assert [op.name for op in randaugment.ops] == ["Rotate", "ShearX"]
    batches = made.get_train_dataloader().batch_sampler
    assert len({row for row, _ in next(iter(batches))}) == 3 and batches.repeats == 3  # a batch of 8
    rows = torch.utils.data.TensorDataset(torch.zeros(8, 3))
    made.train_dataset = rows
    with pytest.raises(ValueError, match="aug_repeats=3 requires hf_mixup.data.Images"):
        made.get_train_dataloader()
    assert isinstance(made.eval_dataset, Images)


def test_class_balanced_draws_from_equally_likely_classes_and_requires_classes(data, tmp_path):
    made, _ = trainer(data, tmp_path, class_balanced=True)
    images = made.train_dataset
    plan = made.get_train_dataloader().batch_sampler
    assert plan.classes.tolist() == images.labels.tolist()
    images.label_info = Labels("classes", ["a", "b"], 2)
    with pytest.raises(ValueError, match="class_balanced requires one class per image.*of kind 'classes'"):
        made.get_train_dataloader()
    made.train_dataset = torch.utils.data.TensorDataset(torch.zeros(8, 3))
    with pytest.raises(ValueError, match="class_balanced=True requires hf_mixup.data.Images"):
        made.get_train_dataloader()
