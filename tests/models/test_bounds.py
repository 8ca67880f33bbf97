"""A configuration cannot name other files or code, nor take all memory or hours while its network is built."""

import json

import pytest
from fixtures.cli import recipe_of, start
from fixtures.training import native_resnet, native_vit
from transformers import ConvNextConfig, ConvNextForImageClassification, SwinConfig, SwinForImageClassification

from hf_mixup.errors import ModelError
from hf_mixup.models import bounds, build_model, save_published
from hf_mixup.models.safe_load import load_network

CNN = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
VIT = {"embed_dim": 24, "depth": 2, "num_heads": 3}
SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 4}


def saved(kind: str, folder):
    """Save a small network in the folder."""
    if kind in ("resnet18", "vit_tiny_patch16_224"):
        args = CNN if kind == "resnet18" else VIT
        save_published(*build_model(kind, classes=["a", "b"], image_size=32, model_args=args), folder)
        return
    swin = SwinForImageClassification(SwinConfig(image_size=32, num_labels=2, **SWIN))
    convnext = ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_labels=2))
    networks = {"resnet": native_resnet(), "vit": native_vit(), "swin": swin, "convnext": convnext}
    networks[kind].save_pretrained(folder)


def load(kind: str, change: dict, folder):
    """Load the network with changed values: those of model_args for a network of timm."""
    saved(kind, folder)
    values = json.loads((folder / "config.json").read_text())
    (values["model_args"] if "architecture" in values else values).update(change)
    (folder / "config.json").write_text(json.dumps(values))
    return load_network("user/net", folder)


HUGE = [
    ("resnet18", {"layers": [10**7, 1, 1, 1]}),
    ("resnet18", {"layers": [4000, 1, 1, 1]}),
    ("resnet18", {"channels": [10**9, 8, 8, 8]}),
    ("resnet18", {"channels": [10**6] * 4}),
    ("vit_tiny_patch16_224", {"depth": 10**7}),
    ("vit_tiny_patch16_224", {"depth": 4000}),
    ("vit_tiny_patch16_224", {"embed_dim": 3 * 10**5}),
    ("vit_tiny_patch16_224", {"img_size": 10**6}),
    ("vit_tiny_patch16_224", {"mlp_ratio": 1e9}),
    ("resnet", {"depths": [10**7, 1]}),
    ("resnet", {"depths": [1] * 10**5, "hidden_sizes": [8] * 10**5}),
    ("vit", {"num_hidden_layers": 10**7}),
    ("vit", {"num_hidden_layers": 4000}),
    ("vit", {"hidden_size": 3 * 10**5}),
    ("swin", {"depths": [10**7, 1]}),
    ("swin", {"window_size": 10**5}),
    ("convnext", {"depths": [4000] * 4}),
    ("convnext", {"hidden_sizes": [2 * 10**6] * 4}),
]


@pytest.mark.parametrize(("kind", "change"), HUGE)
def test_a_network_that_is_far_larger_than_its_weights_is_refused(kind, change, tmp_path):
    with pytest.raises(ModelError, match="'user/net'.*Do not use it") as caught:
        load(kind, change, tmp_path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["resnet18", "vit_tiny_patch16_224", "resnet", "vit", "swin", "convnext"])
def test_other_networks_load_and_so_do_large_numbers_that_are_information_only(kind, tmp_path):
    assert load(kind, {} if "1" in kind or "_" in kind else {"total_parameters": 86 * 10**6}, tmp_path)


def test_networks_built_afterwards_and_in_other_threads_are_not_bounded(tmp_path):
    saved("resnet18", tmp_path)
    with pytest.raises(ModelError, match="parameters or more"), bounds.bounded("user/net", tmp_path):
        build_model("resnet18", classes=["a"], image_size=32, model_args={"channels": [512] * 4, "layers": [1] * 4})
    build_model("resnet18", classes=["a"], image_size=32)


SOURCES = [
    {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x"}},
    {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
    {"pretrained_cfg": {"hf_hub_id": "user/other"}},
    {"cache_dir": "/tmp/x"},
    {"checkpoint_path": "/etc/passwd"},
    {"pretrained_strict": False},
    {"url": "http://127.0.0.1:9/x"},
    {"custom_load": True},
    {"block_args": [{"deeper": {"state_dict": {"a": 1}}}]},
]


@pytest.mark.parametrize("change", SOURCES)
def test_other_sources_of_weights_are_refused_from_a_configuration_and_a_recipe(change, tmp_path, capfd):
    with pytest.raises(ModelError, match="not those of a network"):
        load("resnet18", change, tmp_path)
    for pretrained in (False, True):
        with pytest.raises(ModelError, match="are not arguments of the network"):
            build_model("resnet18", classes=["a"], image_size=32, model_args=change, pretrained=pretrained)
    recipe = recipe_of(tmp_path / "recipe.yaml", model_args=change)
    assert start(recipe, "--output_dir", tmp_path / "run") == 2
    assert "are not arguments of the network" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["url", "file", "hf_hub_id", "custom_load", "hf_hub_filename"])
def test_a_source_in_the_preprocessing_of_a_timm_configuration_is_refused_unless_it_is_empty(key, tmp_path):
    saved("resnet18", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for value in ("", False, None, "x"):
        values["pretrained_cfg"][key] = value
        (tmp_path / "config.json").write_text(json.dumps(values))
        if value == "x":
            with pytest.raises(ModelError, match=key):
                load_network("user/net", tmp_path)
        else:
            load_network("user/net", tmp_path)
