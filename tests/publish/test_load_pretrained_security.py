"""No code of a downloaded repository runs, and no file is written outside its folder."""

import json
import os
import pickle
import textwrap

import pytest
import torch
import transformers.dynamic_module_utils
from fixtures.cli import folder_of, recipe_of, start
from fixtures.training import native_resnet
from huggingface_hub import HfApi, constants
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessor

import hf_mixup
from hf_mixup.errors import ModelError
from hf_mixup.hub.download import fetch
from hf_mixup.models import build_model, save_published
from hf_mixup.models.safe_load import load_network
from hf_mixup.net.teachers import teacher
from hf_mixup.testing.repo import MAIN

TINY = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3}
CODE = """
import os, pathlib
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput
pathlib.Path({marker!r}).write_text("ran")

class Config(PretrainedConfig):
    model_type = "strange"

class Network(PreTrainedModel):
    config_class = Config
    main_input_name = "pixel_values"
    def __init__(self, config):
        super().__init__(config)
        self.head = torch.nn.Linear(3, config.num_labels)
        self.post_init()
    def forward(self, pixel_values=None, labels=None, **options):
        return ImageClassifierOutput(logits=self.head(pixel_values.mean((2, 3))))

class Processor(BaseImageProcessor):
    pass
"""
MAP = {
    "AutoConfig": "evil.Config",
    "AutoModelForImageClassification": "evil.Network",
    "AutoImageProcessor": "evil.Processor",
}


class Payload:
    """A pickle that creates the marker when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The path that malicious files create when their code runs."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "marker"


def upload(hub, repo, files):
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo(repo, exist_ok=True)
    for name, content in files.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=repo)


def network_files(tmp_path, **config):
    """The files of a published ResNet, with these values in its configuration."""
    save_published(*build_model("resnet18", classes=["a", "b"], image_size=16, model_args=TINY), tmp_path / "saved")
    values = json.loads((tmp_path / "saved" / "config.json").read_text()) | config
    return {
        "config.json": json.dumps(values).encode(),
        "model.safetensors": (tmp_path / "saved/model.safetensors").read_bytes(),
    }


def strange_files(tmp_path, marker):
    """The files of a model that only its own code can build."""
    save_file({"head.weight": torch.ones(2, 3), "head.bias": torch.zeros(2)}, tmp_path / "strange", {"format": "pt"})
    labels = {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}
    return {
        "config.json": json.dumps({"model_type": "strange", "auto_map": MAP, **labels}).encode(),
        "preprocessor_config.json": json.dumps({"image_processor_type": "Processor", "auto_map": MAP}).encode(),
        "evil.py": textwrap.dedent(CODE.format(marker=str(marker))).encode(),
        "model.safetensors": (tmp_path / "strange").read_bytes(),
    }


def test_code_of_a_repository_does_not_run_by_default(here, tmp_path, marker):
    upload(here, "user/strange", strange_files(tmp_path, marker))
    for load in (
        lambda: hf_mixup.load_pretrained("user/strange"),
        lambda: build_model("user/strange", classes=["cat", "dog"], image_size=16, **PIXELS),
    ):
        with pytest.raises(ModelError, match="only its own Python code.*--trust_remote_code true on the command line"):
            load()
    with pytest.raises(ValueError, match="'user/strange' could not be loaded"):
        teacher("user/strange")
    assert not marker.exists()


def test_code_beside_a_known_architecture_does_not_run(here, tmp_path, marker):
    native_resnet().save_pretrained(tmp_path / "stock")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "stock")
    for name in ("config.json", "preprocessor_config.json"):
        values = json.loads((tmp_path / "stock" / name).read_text())
        (tmp_path / "stock" / name).write_text(json.dumps(values | {"auto_map": MAP}))
    files = {path.name: path.read_bytes() for path in (tmp_path / "stock").iterdir()}
    upload(here, "user/known", files | {"evil.py": strange_files(tmp_path, marker)["evil.py"]})
    assert type(hf_mixup.load_pretrained("user/known")[0]) is type(native_resnet())
    build_model("user/known", classes=list("abcde"), image_size=16)
    teacher("user/known")
    assert not marker.exists()


def test_code_runs_only_with_trust_remote_code_on_the_command_line(here, tmp_path, marker, capfd):
    upload(here, "user/trusted", strange_files(tmp_path, marker))
    data = folder_of(tmp_path / "data")
    fields = {"model": "user/trusted", "model_args": {}, "mean": [0.5] * 3, "std": [0.5] * 3, "max_steps": 1}
    recipe = recipe_of(tmp_path / "recipe.yaml", data, **fields)
    assert start(recipe, "--output_dir", tmp_path / "run") == 2
    assert "--trust_remote_code true" in capfd.readouterr().err
    bold = recipe_of(tmp_path / "bold.yaml", data, **fields, trust_remote_code=True)
    assert start(bold, "--output_dir", tmp_path / "run") == 2
    assert "trust_remote_code is refused in" in capfd.readouterr().err
    assert not marker.exists()
    argv = ("--trust_remote_code", "true", "--method", "erm")
    assert start(recipe, "--output_dir", tmp_path / "run", *argv) == 0, capfd.readouterr().err
    assert marker.exists()


def test_trust_remote_code_is_not_part_of_the_recipe():
    config = hf_mixup.config.parse(["quickstart", "--use_cpu", "--trust_remote_code", "true"])
    assert config.trust_remote_code and "trust_remote_code" not in config.recipe_dict()
    assert config.recipe_hash() == hf_mixup.config.parse(["quickstart", "--use_cpu"]).recipe_hash()


def test_pickled_weights_are_refused_and_not_read(here, tmp_path, marker):
    files = network_files(tmp_path)
    del files["model.safetensors"]
    upload(here, "user/pickled", files | {"pytorch_model.bin": pickle.dumps(Payload(marker), protocol=2)})
    for load in (
        lambda: hf_mixup.load_pretrained("user/pickled"),
        lambda: build_model("user/pickled", classes=["a", "b"], image_size=16),
        lambda: teacher("user/pickled"),
    ):
        with pytest.raises(ValueError, match=r"has no model.safetensors. Weights are read from safetensors only"):
            load()
    assert not marker.exists()
    assert not [
        request.path for request in here.requests if "pytorch_model.bin" in request.path and request.method == "GET"
    ]


def test_pickled_weights_in_a_folder_are_not_read(tmp_path, marker):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_bytes(network_files(tmp_path)["config.json"])
    (tmp_path / "folder" / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker), protocol=2))
    with pytest.raises(ModelError, match="safetensors only"):
        build_model(str(tmp_path / "folder"), classes=["a", "b"], image_size=16)
    assert not marker.exists()


def test_timm_does_not_run_code_of_pickled_weights(here, tmp_path, marker):
    """For a timm name whose repository has only a pickle, torch loads it with weights_only."""
    import timm

    files = network_files(tmp_path)
    del files["model.safetensors"]
    upload(here, "user/timms", files | {"pytorch_model.bin": pickle.dumps(Payload(marker), protocol=2)})
    with pytest.raises(Exception, match="weights_only|Weights only"):
        timm.create_model("resnet18", pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "user/timms"}, **TINY)
    assert not marker.exists()


OUTSIDE = (
    "../../../../../escaped/config.json",
    "/tmp/hf_mixup_escaped/model.safetensors",
    "model-../../../../../../escaped.safetensors",
    "model-..\\..\\escaped.safetensors",
    "..\\..\\config.json",
    "deep/../../../../config.json",
    ".git/config.json",
)


def everything(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_no_file_is_written_outside_the_folder_of_the_repository(here, api, tmp_path):
    files = network_files(tmp_path)
    upload(here, "user/outside", files)
    store = here.store  # directly, since the server refuses such names
    repo = store.find("models", "user/outside")
    tree = store.resolve(repo, "main").files | {name: store.add(b"escaped") for name in OUTSIDE}
    store.commit(repo, MAIN, None, tree, "poison", "", "user")
    assert {entry.path for entry in api.list_repo_tree("user/outside", recursive=True)} >= set(OUTSIDE)
    before = everything(tmp_path)
    folder = fetch("user/outside")
    assert {path.name for path in folder.iterdir()} == set(files)
    assert not {path for path in everything(tmp_path) - before if not path.startswith("cache")}
    assert not os.path.exists("/tmp/hf_mixup_escaped")
    assert all(path.resolve().is_relative_to(constants.HF_HUB_CACHE) for path in folder.iterdir())
    load_network("user/outside", folder)


@pytest.mark.parametrize(
    "dangerous",
    [
        {"attn_implementation": "user/kernel"},
        {"_attn_implementation": {"vision": "user/kernel@main"}},
        {"vision_config": {"experts_implementation": "user/kernel"}},
        {"layers": [{"transformers_weights": "adapter_model.bin"}]},
        {"quantization_config": {"quant_method": "torchao"}},
    ],
)
def test_a_configuration_cannot_load_other_code_or_weights(dangerous, tmp_path):
    native_resnet().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | dangerous))
    with pytest.raises(ModelError, match="refers to code, or to files other"):
        build_model(str(tmp_path), classes=list("abcde"), image_size=16, **PIXELS)


def test_an_index_cannot_name_files_outside_its_folder(tmp_path):
    files = network_files(tmp_path)
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "config.json").write_bytes(files["config.json"])
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(files["model.safetensors"])
    for shard in ("../model-00001-of-00001.safetensors", str(tmp_path / "x.safetensors"), "pytorch_model.bin"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"fc.weight": shard}}))
        with pytest.raises(ModelError, match="which is not a weights file"):
            hf_mixup.load_pretrained(str(folder))


def test_a_symbolic_link_in_a_repository_is_downloaded_as_text(here, tmp_path):
    """git stores the target of a symbolic link as content, which the Hub serves; the download is a regular file."""
    files = network_files(tmp_path) | {"preprocessor_config.json": b"../../../../etc/passwd"}
    upload(here, "user/link", files)
    folder = fetch("user/link")
    assert (folder / "preprocessor_config.json").read_bytes() == b"../../../../etc/passwd"
    assert (folder / "preprocessor_config.json").resolve().is_relative_to(constants.HF_HUB_CACHE)


def test_transformers_loads_the_same_weights(here, tmp_path):
    upload(here, "user/plain", network_files(tmp_path))
    folder = fetch("user/plain")
    ours = hf_mixup.load_pretrained("user/plain")[0].state_dict()
    theirs = AutoModelForImageClassification.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert AutoConfig.from_pretrained(folder).id2label == {0: "a", 1: "b"}
    assert AutoImageProcessor.from_pretrained(folder)
