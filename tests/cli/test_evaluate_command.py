"""`hf-mixup evaluate` and `hf-mixup predict`: metrics and classes of saved and published models."""

import json
import shutil

import pytest
import timm
import torch
from fixtures.cli import folder_of, picture, recipe_of, record_of, start
from fixtures.hub import hub, logged_in, online  # noqa: F401
from fixtures.scenes import scene_folder
from huggingface_hub import HfApi
from test_main import run
from transformers import EfficientNetImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

import hf_mixup
from hf_mixup.errors import MixupError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("data"))


def finished(root, data, **fields):
    """The folder of a finished run."""
    recipe = recipe_of(root / "recipe.yaml", data, **fields)
    assert start(recipe, "--output_dir", root / "run") == 0
    return root / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    return finished(tmp_path_factory.mktemp("run"), data)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return scene_folder(tmp_path_factory.mktemp("scenes") / "data", {"train": 16, "test": 12})


@pytest.fixture(scope="module")
def multilabel(tmp_path_factory, scenes):
    fields = {"task": "multilabel", "task_args": {"threshold": 0.4}, "class_weights": [1, 2, 1, 1]}
    return finished(tmp_path_factory.mktemp("multilabel"), scenes, label_column="labels", **fields)


def vit(folder, names, processor=None, flip=False, **options):
    """A saved ViT of transformers with these classes; `flip` turns the order of its outputs."""
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3}
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    model = ViTForImageClassification(ViTConfig(**sizes, **labels, **options, intermediate_size=16))
    if flip:
        for parameter in model.classifier.parameters():
            parameter.data = parameter.data.flip(0)
    model.save_pretrained(folder)
    (processor or ViTImageProcessor(size={"height": 16, "width": 16})).save_pretrained(folder)
    return folder


# evaluate


def test_the_numbers_are_those_of_the_run_record(trained, data, tmp_path, capsys):
    assert run("evaluate", trained, "--data", data, "--device", "cpu", "--json", tmp_path / "found.json") == 0
    printed, errors = capsys.readouterr()
    final, found = record_of(trained)["final"], json.loads((tmp_path / "found.json").read_text())
    assert found["metrics"] == final and found["task"] == "classification"
    assert found["data"]["split"] == "test" and found["data"]["rows"] == 12
    assert f"| {final['loss']:.4g} | {final['top1']:.4g} |" in printed and errors == ""


def test_another_split_has_other_numbers(trained, data):
    assert hf_mixup.evaluate(trained, data, split="train")["data"]["split"] == "train"


def test_task_and_loss_are_those_of_the_run(multilabel, scenes):
    found = hf_mixup.evaluate(multilabel, scenes, label_column="labels", batch_size=5)
    assert found["task"] == "multilabel"
    assert found["metrics"] == pytest.approx(record_of(multilabel)["final"], rel=1e-5)


def test_a_model_without_a_run_record_has_the_task_of_its_problem_type(multilabel, scenes, tmp_path):
    shutil.copytree(multilabel, tmp_path / "model")
    (tmp_path / "model" / "run.json").unlink()
    found = hf_mixup.evaluate(tmp_path / "model", scenes, label_column="labels")
    assert found["task"] == "multilabel" and list(found["metrics"])[1] == "map"


def test_classes_in_another_order_are_matched_by_name(data, tmp_path):
    same = hf_mixup.evaluate(vit(tmp_path / "same", ["cat", "dog"]), data)["metrics"]
    flipped = hf_mixup.evaluate(vit(tmp_path / "flipped", ["dog", "cat"], flip=True), data)["metrics"]
    assert flipped == pytest.approx(same, rel=1e-6)


def test_other_classes_are_refused(data, tmp_path, capsys):
    model = vit(tmp_path / "model", ["cat", "cow"])
    assert run("evaluate", model, "--data", data) == 2
    message = capsys.readouterr().err
    assert "'dog', which the model lacks" in message and "--ignore_names" in message
    assert run("evaluate", model, "--data", data, "--ignore-names") == 0
    assert run("evaluate", vit(tmp_path / "three", ["cat", "dog", "cow"]), "--data", data) == 2
    assert "3 classes" in capsys.readouterr().err


def test_a_model_without_class_names_is_compared_by_number(data, tmp_path):
    named = hf_mixup.evaluate(vit(tmp_path / "named", ["cat", "dog"]), data)["metrics"]
    assert hf_mixup.evaluate(vit(tmp_path / "unnamed", ["LABEL_0", "LABEL_1"]), data)["metrics"] == named


@pytest.mark.parametrize("do_normalize", [True, False])
def test_any_image_processor_gives_the_accuracy_of_the_pipeline(do_normalize, data, tmp_path):
    processor = EfficientNetImageProcessor(size={"height": 16, "width": 16}, do_normalize=do_normalize)
    model = vit(tmp_path / "model", ["cat", "dog"], processor)
    classify = pipeline("image-classification", model=str(model), device="cpu")
    files = sorted((data / "test").rglob("*.png"))
    right = [classify(str(file))[0]["label"] == file.parent.name for file in files]
    assert hf_mixup.evaluate(model, data)["metrics"]["top1"] == pytest.approx(sum(right) / len(right))


def test_a_model_saved_by_timm_is_evaluated(data, tmp_path):
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    model = timm.create_model("resnet18", num_classes=2, pretrained_cfg_overlay={"input_size": (3, 16, 16)}, **args)
    config = {"label_names": ["cat", "dog"]}
    timm.models.save_for_hf(model, tmp_path / "m", model_config=config, model_args=args, safe_serialization=True)
    assert hf_mixup.evaluate(tmp_path / "m", data)["metrics"]["top5"] == 1


def test_a_model_of_the_hub_is_evaluated(trained, data, logged_in):  # noqa: F811
    api = HfApi()
    api.create_repo("user/evaluated")
    api.upload_folder(repo_id="user/evaluated", folder_path=trained)
    assert hf_mixup.evaluate("user/evaluated@main", data)["metrics"] == record_of(trained)["final"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--split", "tset"], "'test'"),
        (["--label_column", "lable"], "label"),
        (["--task", "clasification"], "'classification'"),
        (["--batch_size", "0"], "per_device_eval_batch_size"),
        (["--device", "cuda"], "not available"),
        (["--json", "/dev/null/x.json"], "could not be written"),
    ],
)
def test_wrong_options_are_refused(argv, expected, trained, data, capsys):
    assert run("evaluate", trained, "--data", data, *argv) == (1 if "--json" in argv else 2)
    assert expected in capsys.readouterr().err


def test_the_task_of_another_package_is_asked_for(data, tmp_path):
    model = vit(tmp_path / "model", ["cat", "dog"])
    (model / "run.json").write_text('{"schema_version": 2, "task": {"name": "own.py:Own", "args": {}}}')
    with pytest.raises(MixupError, match="own.py:Own.*--task"):
        hf_mixup.evaluate(model, data)


# predict


def test_predictions_are_those_of_the_pipeline(trained, data, tmp_path, capsys):
    files = sorted((data / "test").rglob("*.png"))
    assert run("predict", trained, data / "test", "--top_k", 1) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    classify = pipeline("image-classification", model=str(trained), device="cpu")
    expected = [(str(file), found["label"], found["score"]) for file in files for found in classify(str(file), top_k=1)]
    assert head.split() == ["file", "class", "probability"]
    assert [line.split() for line in lines] == [[file, label, f"{score:.4f}"] for file, label, score in expected]


def test_scores_of_several_classes_are_sigmoids(multilabel, scenes):
    [found] = hf_mixup.predict(multilabel, [scenes / "test" / "1.png"])
    for one in (scenes / "test" / "1.png", str(scenes / "test" / "1.png")):
        assert hf_mixup.predict(multilabel, one) == [found]
    with pytest.raises(ValueError, match="top_k is 0: give"):
        hf_mixup.predict(multilabel, scenes / "test", top_k=0)
    with pytest.raises(ValueError, match="is a file: give the folder"):
        hf_mixup.predict(multilabel / "config.json", scenes / "test")
    with pytest.raises(ValueError, match="The data set .*1.png' is a file: give the folder"):
        hf_mixup.evaluate(multilabel, scenes / "test" / "1.png")
    classify = pipeline("image-classification", model=str(multilabel), device="cpu")
    expected = classify(str(scenes / "test" / "1.png"))
    assert [one["label"] for one in found["classes"]] == [one["label"] for one in expected]
    assert [one["score"] for one in found["classes"]] == pytest.approx([one["score"] for one in expected], abs=1e-6)


def test_unreadable_files_are_named_and_skipped(trained, tmp_path, capfd, caplog):
    picture(0, mode="RGBA").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert run("predict", trained, tmp_path, tmp_path / "missing.png", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert [one["file"] for one in found] == [str(tmp_path / "good.png")] and len(found[0]["classes"]) == 2
    assert "bad.png" in caplog.text and "missing.png is skipped: No such file" in caplog.text
    assert run("predict", trained, tmp_path / "bad.png") == 2
    assert "could be read" in capfd.readouterr().err
