"""The folder of a run: transformers and timm load it without hf_mixup, and no file names a local folder."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.cli import content, folder_of, hub_environment, python, recipe_of, record_of, start
from huggingface_hub import HfApi, ModelCard, constants
from PIL import Image
from safetensors.torch import load_file

import hf_mixup
from hf_mixup.publish.export import rewrite_card
from hf_mixup.testing import LocalHub

LOAD = """
import io, json, re, sys
import pyarrow.parquet as parquet, timm, torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
torch.set_num_threads(1)
first, second = re.findall("```python\\n(.*?)```", ModelCard.load("user/run").text, re.DOTALL)
exec(first)
rows = parquet.read_table(sys.argv[1]).to_pylist()
images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
names = [answers[0]["label"] for answers in classify(images, top_k=1, batch_size=100)]
model = AutoModelForImageClassification.from_pretrained("user/run").eval()
right = sum(name == model.config.id2label[row["label"]] for name, row in zip(names, rows))
colour = [image.convert("RGB") for image in images[:8]]
pixels = AutoImageProcessor.from_pretrained("user/run")(colour, return_tensors="pt")["pixel_values"]
plain = model
other = timm.create_model("hf_hub:user/run", pretrained=True).eval()
assert not [name for name in sys.modules if name.startswith("hf_mixup")]
exec(second)
with torch.no_grad():
    expected = plain(pixels).logits
    others = [other(pixels), timm_model.eval()(pixels), model.eval()(pixels).logits]
gaps = [(expected - found).abs().max().item() for found in others]
result = {"right": right, "rows": len(rows), "gaps": gaps, "spread": expected.std().item(), "method": method.name}
print(json.dumps(result))
"""
FIELDS = {
    "": "schema_version status recipe recipe_hash method data model seed world_size epochs final images_per_s wall_s "
    "peak_mb versions commit",
    "method": "name args",
    "data": "path config revision splits",
    "model": "name args parameters",
    "final": "loss top1 top5 nll ece",
}
FILES = {"README.md", "run.json", "recipe.yaml", "mixed.png"}
FILES |= {"config.json", "model.safetensors", "method.safetensors"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a finished AutoMix run on the sample."""
    root = tmp_path_factory.mktemp("published")
    fields = {"image_size": 28, "crop_padding": 2, "max_steps": 25, "eval_steps": 10, "eval_strategy": "steps"}
    fields |= {"logging_strategy": "steps", "logging_steps": 5, "method": "automix", "per_device_train_batch_size": 40}
    fields |= {"model_args": {"layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32]}, "learning_rate": 0.1}
    recipe = recipe_of(root / "recipe.yaml", **fields)
    assert start(recipe, "--output_dir", root / "run") == 0
    return root / "run"


@pytest.fixture(scope="module")
def run(folder):
    return record_of(folder)


@pytest.fixture(scope="module")
def loaded(folder, tmp_path_factory):
    """The pushed run in a process of its own: loaded by transformers and timm, and by the code in its card."""
    root = tmp_path_factory.mktemp("pushed")
    shutil.copytree(folder, root / "run", ignore=shutil.ignore_patterns("checkpoint-*"))
    rewrite_card(root / "run", "user/run")
    test = Path(hf_mixup.__file__).parent / "data" / "sample" / "test.parquet"
    with LocalHub(root / "hub") as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("user/run")
        api.upload_folder(repo_id="user/run", folder_path=root / "run")
        process = python("-c", LOAD, test, environment=hub_environment(hub, root / "home"), cwd=root)
        printed, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return json.loads(printed.splitlines()[-1])


def test_a_pipeline_has_exactly_the_recorded_top1(loaded, run):
    assert loaded["rows"] == run["data"]["splits"]["test"] == 500
    assert loaded["right"] == round(500 * run["final"]["top1"])
    assert loaded["right"] / 500 == run["final"]["top1"] > 0.2


def test_timm_and_the_code_in_the_card_give_the_same_logits(loaded):
    assert loaded["gaps"] == [0, 0, 0] and loaded["spread"] > 0.1
    assert loaded["method"] == "automix"


def test_the_code_in_a_local_card_runs_in_its_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    scope = {}
    for lines in re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        exec(lines, scope)
    answers = scope["classify"](Image.new("RGB", (40, 40)))
    assert len(answers) == 5 and scope["method"].name == "automix"
    assert scope["timm_model"].num_classes == 10 and scope["model"].config.num_labels == 10


def test_load_pretrained_restores_model_processor_and_method(folder):
    model, processor, method = hf_mixup.load_pretrained(str(folder))
    assert processor(torch.zeros(3, 40, 40), return_tensors="pt")["pixel_values"].shape == (1, 3, 28, 28)
    assert method.name == "automix" and method.alpha == 2.0
    trained = load_file(sorted(folder.glob("checkpoint-*"))[-1] / "method.safetensors")
    assert any(name.startswith("generator.") for name in trained)
    assert method.state_dict().keys() == trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in method.state_dict().items())
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.timm_model.state_dict().items())


def test_the_card_agrees_with_the_record(folder, run):
    card = ModelCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert card.data.library_name == "timm" and card.data.pipeline_tag == "image-classification"
    assert "automix" in card.data.tags
    metrics = {result.metric_name: result.metric_value for result in card.data.eval_results}
    titles = {"Top-1": "top1", "Top-5": "top5", "NLL": "nll", "ECE": "ece"}
    assert metrics == {title: round(run["final"][name], 6) for title, name in titles.items()}
    row = " | ".join(f"{run['final'][name]:.4f}" for name in ("top1", "top5", "nll", "ece"))
    assert f"| test | 500 | {row} |" in card.text
    assert run["recipe_hash"] in card.text and "arxiv.org/abs/2103.13027" in card.text


def test_the_record_has_its_fields(run):
    for part, fields in FIELDS.items():
        assert set(fields.split()) <= (run[part] if part else run).keys()


def test_the_record_has_an_entry_for_each_evaluation(folder, run):
    json.loads((folder / "run.json").read_text(), parse_constant=pytest.fail)
    assert run["schema_version"] == 2 and run["status"] == "finished" and run["world_size"] == 1
    assert [round(epoch["epoch"] * 50) for epoch in run["epochs"]] == [10, 20, 25]
    for epoch in run["epochs"]:
        assert {"loss", "loss_mix", "top1", "top5", "nll", "ece"} <= epoch.keys()
        assert all(math.isfinite(value) for value in epoch.values())
    assert all(0 <= run["final"][name] <= 1 for name in ("top1", "top5", "ece"))


def test_no_published_file_names_a_local_folder_or_is_pickled(folder):
    outside = {name: text for name, text in content(folder).items() if not name.startswith("checkpoint-")}
    assert FILES == outside.keys()
    assert not [name for name in outside if name.endswith(PICKLES)]
    for path in (folder.parent, Path.home(), Path(hf_mixup.__file__).parents[1]):
        assert not [name for name, text in outside.items() if f"{path}/".encode() in text]
    assert not list(folder.rglob("training_args.bin"))


def test_a_run_on_local_folders_does_not_publish_their_location(tmp_path):
    data = folder_of(tmp_path / "my pictures")
    first = recipe_of(tmp_path / "recipe.yaml", data, max_steps=1)
    assert start(first, "--output_dir", tmp_path / "first") == 0
    assert start(first, "--output_dir", tmp_path / "run", "--model", tmp_path / "first", "--model_args", "{}") == 0
    for name, text in content(tmp_path / "run").items():
        assert name.startswith("checkpoint-") or str(tmp_path).encode() not in text, name
    assert record_of(tmp_path / "run")["data"]["path"] == "./my pictures"
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert "the local data set my pictures" in card.text and card.data.datasets is None
    assert {result.dataset_type for result in card.data.eval_results} == {"imagefolder"}


def test_the_card_of_an_own_architecture_imports_hf_mixup(tmp_path):
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), max_steps=1)
    for run, model in (("first", "mini_resnet"), ("second", tmp_path / "first")):
        assert start(recipe, "--output_dir", tmp_path / run, "--model", model, "--model_args", "{}") == 0
        assert "import hf_mixup" in (tmp_path / run / "README.md").read_text()
