"""Models from names and folders, and the published format in both libraries."""

import json

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from hf_mixup.errors import ModelError
from hf_mixup.models import base_model, build_model, save_published

CLASSES = ["cat", "dog", "eel"]
TINY = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
NETWORKS = [("resnet18", TINY), ("mini_vit", {"depth": 2}), ("mini_resnet", {})]


def build(name="resnet18", model_args=TINY, seed=0, **changes):
    """A small model and its processor."""
    torch.manual_seed(seed)
    data = {"classes": CLASSES, "image_size": 32, "mean": MEAN, "std": STD, **changes}
    model, processor = build_model(name, model_args=model_args, **data)
    return model.eval(), processor


def native(folder, seed=0):
    """The folder, after saving a small ResNet of transformers in it, without an image processor."""
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: i for i, name in enumerate(CLASSES)}
    ResNetForImageClassification(config).save_pretrained(folder)
    return str(folder)


def photo(size=32, seed=0):
    """A PIL image of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def logits(model, processor, image):
    """(1, K) logits of the image."""
    with torch.no_grad():
        return model(**processor(image, return_tensors="pt")).logits


@pytest.fixture
def offline(monkeypatch):
    """Hub in offline mode."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name, arguments", NETWORKS)
def test_random_weights_and_random_state_are_those_of_timm(name, arguments):
    model, _ = build(name, arguments, seed=3)
    after = torch.rand(4)
    torch.manual_seed(3)
    expected = timm.create_model(name, num_classes=3, **arguments)
    assert torch.equal(after, torch.rand(4))
    weights = model.timm_model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in expected.state_dict().items())


@pytest.mark.parametrize("name, arguments", NETWORKS)
def test_a_published_folder_gives_the_same_logits_in_both_libraries(name, arguments, tmp_path):
    model, processor = build(name, arguments)
    image = photo()
    expected = logits(model, processor, image)
    save_published(model, processor, tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    loaded_processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, loaded_processor, image), expected)
    assert loaded.config.id2label == dict(enumerate(CLASSES)) and loaded.config.label2id["eel"] == 2
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(network(processor(image)["pixel_values"]), expected)
    assert list(network.pretrained_cfg["label_names"]) == CLASSES


@pytest.mark.parametrize("name, arguments", NETWORKS)
def test_pipeline_agrees_with_model_and_processor(name, arguments, tmp_path):
    model, processor = build(name, arguments)
    save_published(model, processor, tmp_path)
    image = photo(size=45)
    expected = logits(model, processor, image).softmax(1)[0]
    answers = pipeline("image-classification", model=str(tmp_path))(image)
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(CLASSES, expected.tolist())), abs=1e-6
    )


def test_published_files_are_those_of_timm(tmp_path):
    model, processor = build()
    save_published(model, processor, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(folder / "model.safetensors").keys() == model.timm_model.state_dict().keys()
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["label_names"]) == ("resnet18", 3, CLASSES)
    assert config["model_args"] == TINY and config["num_features"] == 128
    cfg = config["pretrained_cfg"]
    assert (cfg["mean"], cfg["std"], cfg["input_size"]) == (list(MEAN), list(STD), [3, 32, 32])
    assert (cfg["interpolation"], cfg["crop_pct"], cfg["classifier"]) == ("bilinear", 1.0, "fc")


@pytest.mark.parametrize("name, arguments", NETWORKS)
def test_checkpoints_of_the_trainer_are_loaded(name, arguments, tmp_path):
    model, processor = build(name, arguments)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    image = photo()
    expected = logits(model, processor, image)
    assert torch.equal(logits(loaded, AutoImageProcessor.from_pretrained(tmp_path), image), expected)
    again, again_processor = build(str(tmp_path), None)
    assert torch.equal(logits(again, again_processor, image), expected)


def test_processor_normalises_with_the_given_mean_and_std():
    _, processor = build()
    image = photo()
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255
    expected = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(processor(image)["pixel_values"][0], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["mini_vit", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_of_fixed_size_use_the_size_of_the_data(name):
    arguments = {"depths": [1, 1], "num_heads": [2, 2], "embed_dim": 16} if "swin" in name else {"depth": 1}
    model, processor = build(name, arguments, image_size=64)
    assert model.config.model_args["img_size"] == 64
    assert logits(model, processor, photo()).shape == (1, 3)


def test_networks_for_one_channel_have_a_processor_for_one_channel():
    model, processor = build(model_args={**TINY, "in_chans": 1}, mean=[0.5], std=[0.5])
    assert processor.data_config["input_size"] == (1, 32, 32)
    assert model(torch.rand(2, 1, 32, 32)).logits.shape == (2, 3)


def test_another_number_of_classes_requires_a_new_classifier(tmp_path):
    model, processor = build()
    save_published(model, processor, tmp_path)
    with pytest.raises(ModelError, match="3 classes, but the data has 4.*reset_classifier"):
        build(str(tmp_path), None, classes=[*CLASSES, "fox"])
    larger, _ = build(str(tmp_path), {"reset_classifier": True}, classes=[*CLASSES, "fox"])
    assert larger.timm_model.fc.out_features == 4 and larger.config.id2label[3] == "fox"
    assert torch.equal(larger.timm_model.conv1.weight, model.timm_model.conv1.weight)
    renewed, _ = build(str(tmp_path), {"reset_classifier": True})
    assert not torch.equal(renewed.timm_model.fc.weight, model.timm_model.fc.weight)


def test_the_same_classes_in_another_order_are_refused(tmp_path):
    save_published(*build(), tmp_path)
    with pytest.raises(ModelError, match="another order"):
        build(str(tmp_path), None, classes=CLASSES[::-1])


def test_a_checkpoint_keeps_its_preprocessing_unless_overridden(tmp_path):
    model, processor = build(interpolation="bicubic", crop_pct=0.9)
    save_published(model, processor, tmp_path)
    _, kept = build_model(str(tmp_path), classes=CLASSES, image_size=32)
    assert kept.data_config == processor.data_config
    _, overridden = build(str(tmp_path), None, image_size=64, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
    assert overridden.data_config["input_size"] == (3, 64, 64) and overridden.data_config["mean"] == (0, 0, 0)
    assert (overridden.data_config["interpolation"], overridden.data_config["crop_pct"]) == ("bicubic", 1.0)


def test_a_checkpoint_of_fixed_size_refuses_another(tmp_path):
    save_published(*build("mini_vit", {"depth": 1}), tmp_path)
    with pytest.raises(ModelError, match="32 px, and image_size is 28"):
        build(str(tmp_path), None, image_size=28)


def test_drop_path_can_be_added_to_a_checkpoint(tmp_path):
    save_published(*build("mini_vit", {"depth": 2}), tmp_path)
    model, _ = build(str(tmp_path), {"drop_path_rate": 0.5})
    assert model.timm_model.blocks[1].drop_path1.drop_prob == 0.5 and model.config.model_args["depth"] == 2


def test_files_saved_by_timm_are_loaded(tmp_path):
    model, processor = build()
    config = {"model_config": {"label_names": CLASSES}, "model_args": TINY}
    timm.models.save_for_hf(model.timm_model, tmp_path, **config, safe_serialization=True)
    loaded, _ = build(str(tmp_path), None)
    assert torch.equal(logits(loaded, processor, photo()), logits(model, processor, photo()))


def test_transformers_models_get_a_processor_and_keep_their_format(tmp_path):
    model, processor = build(native(tmp_path / "a"), None)
    save_published(model, processor, tmp_path / "b")
    image = photo(size=45)
    expected = logits(model, processor, image)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "b").eval()
    assert torch.equal(logits(loaded, AutoImageProcessor.from_pretrained(tmp_path / "b"), image), expected)
    answers = pipeline("image-classification", model=str(tmp_path / "b"))(image)
    scores = dict(zip(CLASSES, expected.softmax(1)[0].tolist()))
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(scores, abs=1e-6)
    again, again_processor = build(str(tmp_path / "b"), None)
    assert torch.equal(logits(again, again_processor, image), expected)


@pytest.mark.parametrize("crop_pct", [1.0, 0.8])
def test_the_new_processor_of_a_transformers_model_agrees_with_timm(crop_pct, tmp_path):
    _, ours = build(native(tmp_path), None, crop_pct=crop_pct)
    _, theirs = build(crop_pct=crop_pct)
    image = photo(size=40)
    pixels, expected = (each(image, return_tensors="pt")["pixel_values"] for each in (ours, theirs))
    assert pixels.shape == expected.shape == (1, 3, 32, 32)
    assert (pixels - expected).abs().max() < 0.05  # another library resizes; one gray level


def test_transformers_models_refuse_unknown_arguments(tmp_path):
    with pytest.raises(ModelError, match="no 'drop_path_rate'"):
        build(native(tmp_path), {"drop_path_rate": 0.1})
    with pytest.raises(ModelError, match="Give mean and std"):
        build(native(tmp_path), None, mean=None)
    model, processor = build(native(tmp_path), None)
    save_published(model, processor, tmp_path)
    with pytest.raises(ModelError, match="image_size is 64"):
        build(str(tmp_path), None, image_size=64)


def test_classifiers_of_transformers_models_are_reset(tmp_path):
    first, _ = build(native(tmp_path), None)
    for classes in (CLASSES, ["a", "b"]):
        model, _ = build(str(tmp_path), {"reset_classifier": True}, classes=classes)
        assert model.classifier[1].weight.shape == (len(classes), 16)
        assert model.classifier[1].weight.std() > 0 and not model.classifier[1].bias.any()
        assert not torch.equal(model.classifier[1].weight, first.classifier[1].weight[: len(classes)])
        stem = "resnet.embedder.embedder.convolution.weight"
        assert torch.equal(model.state_dict()[stem], first.state_dict()[stem])


def test_attention_of_transformers_models_can_be_eager(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    config.num_labels = 3
    ViTForImageClassification(config).save_pretrained(tmp_path)
    model, _ = build(str(tmp_path), {"attn_implementation": "eager"})
    assert len(model(torch.rand(1, 3, 32, 32), output_attentions=True).attentions) == 1


def test_missing_or_mismatched_weights_are_refused(tmp_path):
    save_published(*build("mini_vit", {"depth": 2}), tmp_path)
    with pytest.raises(ModelError, match="lacks weights"):
        build(str(tmp_path), {"depth": 3})
    with pytest.raises(ModelError, match="lacks weights"):
        build(str(tmp_path), {"patch_size": 8, "reset_classifier": True})


@pytest.mark.parametrize(
    "name, arguments, changes, message",
    [
        ("resnt18", {}, {}, "Nearest: resnet18"),
        ("mini_resnte", {}, {}, "mini_resnet"),
        ("resnet18", {"widht": 3}, {}, r"\(ResNet\) has no argument 'widht'"),
        ("resnet18", {"num_classes": 3}, {}, "num_classes"),
        ("mini_vit", {"num_heads": 7}, {}, "num_heads"),
        ("resnet18.nothing", {}, {}, "nothing"),
        ("resnet18", {}, {"classes": ["a", "a"]}, "distinct"),
        ("resnet18", {}, {"classes": []}, "at least one"),
        ("mini_resnet", {}, {"pretrained": True}, "no published weights"),
        ("resnet18", {}, {"pretrained": True}, "not in the local cache"),
        ("timm/resnet18.a1_in1k", {}, {}, "not in the local cache"),
        ("./nowhere", {}, {}, "no folder"),
    ],
)
def test_errors_name_the_value_and_what_to_do(name, arguments, changes, message, offline):
    with pytest.raises(ModelError, match=message) as error:
        build(name, arguments, **changes)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "name, pretrained, base",
    [
        ("resnet50", True, "timm/resnet50.a1_in1k"),
        ("resnet50", False, None),
        ("mini_resnet", False, None),
        ("user/run", False, "user/run"),
    ],
)
def test_the_base_model_is_the_repository_of_the_weights(name, pretrained, base):
    assert base_model(name, pretrained) == base


def test_folders_without_a_model_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no config.json"):
        build(str(tmp_path), None)
    save_published(*build(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no model.safetensors.*safetensors only"):
        build(str(tmp_path), None)
