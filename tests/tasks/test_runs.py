"""Each task from the command line: trained on stored or streamed data, killed, resumed, pushed and loaded again."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from fixtures.cli import fork, recipe_of, record_of, start, status_of
from fixtures.scenes import NAMES, scene_folder, scene_parquet
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from transformers import AutoImageProcessor, pipeline

import hf_mixup
from hf_mixup.cli import push
from hf_mixup.data import load_data

TOYS = Path(__file__).parent
ROWS = {"train": 64, "test": 24}
TASKS = {
    "multilabel, folder": {"task": "multilabel", "label_column": "labels", "data": "folder"},
    "multilabel, streamed": {
        "task": "multilabel",
        "label_column": "labels",
        "data": "parquet",
        "streaming": True,
        "task_args": {"target": "union"},
        "method": "cutmix",
    },
    "two numbers": {
        "task": f"{TOYS}/toy_numbers.py:TwoNumbers",
        "label_column": "numbers",
        "data": "parquet",
        "streaming": True,
        "task_args": {"power": 1.5},
    },
    "two views": {"task": f"{TOYS}/toy_views.py:TwoViews", "data": "parquet", "streaming": True, "method": "cutmix"},
}
METRICS = {
    "multilabel, folder": ["map", "f1_micro", "f1_macro"],
    "multilabel, streamed": ["map", "f1_micro", "f1_macro"],
    "two numbers": ["rmse", "largest"],
    "two views": ["neighbour"],
}
every_task = pytest.mark.parametrize("name", TASKS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {"folder": scene_folder(root / "folder", ROWS), "parquet": scene_parquet(root / "parquet", ROWS)}


@pytest.fixture(scope="module")
def recipes(data, tmp_path_factory):
    """The recipe of each task."""
    root, shared = tmp_path_factory.mktemp("recipes"), {"num_train_epochs": 4, "per_device_train_batch_size": 8}
    shared |= {"save_strategy": "steps", "save_steps": 1, "learning_rate": 0.1, "flip": 0, "crop_padding": 2}
    made = {}
    for number, (name, fields) in enumerate(TASKS.items()):
        made[name] = recipe_of(root / f"{number}.yaml", **shared | fields | {"data": str(data[fields["data"]])})
    return made


@pytest.fixture(scope="module")
def runs(recipes, tmp_path_factory):
    """`runs(name)`: the folder of the finished run of a task."""
    root, done = tmp_path_factory.mktemp("runs"), {}

    def run(name):
        if name not in done:
            done[name] = root / f"run{len(done)}"
            assert start(recipes[name], "--output_dir", done[name]) == 0
        return done[name]

    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = [folder / name for name in ("model.safetensors", "task.safetensors") if (folder / name).is_file()]
    return {f"{file.stem}.{key}": value for file in files for key, value in load_file(file).items()}


def is_running(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@every_task
def test_the_record_and_the_card_have_the_metrics_of_the_task(name, runs):
    run = record_of(runs(name))
    assert run["schema_version"] == 2 and run["images"] == 4 * ROWS["train"]
    assert list(run["final"]) == ["loss", *METRICS[name]]
    assert all(set(METRICS[name]) <= entry.keys() for entry in run["epochs"]) and len(run["epochs"]) == 4
    assert run["task"]["args"].items() >= TASKS[name].get("task_args", {}).items()
    assert run["task"]["name"] == TASKS[name]["task"].replace(str(TOYS), ".")
    card = ModelCard.load(runs(name) / "README.md")
    assert [result.metric_value for result in card.data.eval_results] == [
        pytest.approx(run["final"][key], abs=1e-6) for key in METRICS[name]
    ]
    for metric in run["task"]["metrics"]:
        assert metric["title"] in card.text and f"{run['final'][metric['key']]:.4f}" in card.text
    assert str(TOYS.parent) not in card.text + json.dumps(run)


@every_task
def test_the_table_and_the_progress_lines_show_the_metrics_of_the_task(name, recipes, tmp_path, capsys):
    assert start(recipes[name], "--output_dir", tmp_path / "run", "--num_train_epochs", 1) == 0
    out = capsys.readouterr().out
    assert f"| loss | {' | '.join(METRICS[name])} | images/s |" in out
    [line] = [line for line in out.splitlines() if line.startswith("epoch")]
    assert all(f"  {metric} " in line for metric in METRICS[name]) and "top1" not in out


@every_task
def test_the_dry_run_names_task_and_metrics(name, recipes, tmp_path, capsys):
    assert start(recipes[name], "--output_dir", tmp_path / "run", "--dry_run") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("task")]
    assert TASKS[name]["task"] in line and f"metrics {', '.join(METRICS[name])}" in line


@every_task
def test_a_killed_run_resumes_to_the_same_bits(name, recipes, runs, tmp_path):
    child = fork(lambda: start(recipes[name], "--output_dir", tmp_path / "run"))
    while not (tmp_path / "run" / "checkpoint-11").is_dir() and is_running(child):
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert status_of(child) == -signal.SIGKILL
    assert start(recipes[name], "--output_dir", tmp_path / "run", "--resume") == 0
    one, other = weights(runs(name)), weights(tmp_path / "run")
    assert one.keys() == other.keys() and not [key for key in one if not torch.equal(one[key], other[key])]
    assert record_of(tmp_path / "run")["final"] == record_of(runs(name))["final"]


@every_task
def test_the_state_of_the_task_is_published(name, runs):
    state = {key.removeprefix("task.") for key in weights(runs(name)) if key.startswith("task.")}
    expected = {"two numbers": {"scale", "steps"}, "two views": {"projector.weight", "projector.bias", "queue"}}
    assert state == expected.get(name, set())


@every_task
def test_the_best_checkpoint_is_that_of_the_task_s_metric(name, recipes, tmp_path):
    options = ["--load_best_model_at_end", "--save_strategy", "epoch", "--num_train_epochs", 3, "--learning_rate", 0.5]
    assert start(recipes[name], "--output_dir", tmp_path / "run", *options) == 0
    run = record_of(tmp_path / "run")
    key = METRICS[name][0]
    best = min if key == "rmse" else max
    assert run["final"][key] == best(entry[key] for entry in run["epochs"])


def outputs(name: str, folder, data: Path, place) -> tuple[np.ndarray, np.ndarray]:
    """Outputs (N, K) for the test images, of the network as transformers alone loads it, and the labels."""
    run = record_of(folder)
    network = getattr(transformers, run["task"]["auto_class"]).from_pretrained(place).eval()
    processor = AutoImageProcessor.from_pretrained(place)
    kind = {"two views": "none", "two numbers": "vector"}.get(name, "classes")
    test = load_data(data=str(data), label_column=TASKS[name].get("label_column", ""), labels=kind).eval
    images = [row["image"].convert("RGB") for row in test]
    with torch.no_grad():
        found = network(processor(images, return_tensors="pt")["pixel_values"])
    found = found.logits if "logits" in found else found.pooler_output
    labels = None if kind == "none" else [row[TASKS[name]["label_column"]] for row in test]
    return found.numpy(), labels


@every_task
def test_a_pushed_run_loads_with_the_recorded_numbers(name, recipes, runs, data, here, tmp_path):
    run = runs(name)
    repo = f"user/{name.replace(', ', '-').replace(' ', '-')}"
    assert push.main([str(run), "--repo", repo]) == 0
    source = data[TASKS[name]["data"]]
    found, labels = outputs(name, run, source, repo)
    final = record_of(run)["final"]
    model, processor, method = hf_mixup.load_pretrained(repo)
    assert method.name == record_of(run)["method"]["name"]
    if name == "two views":
        features = found / np.linalg.norm(found, axis=1, keepdims=True)
        similarity = features @ features.T - 2 * np.eye(len(features))
        assert final["neighbour"] == pytest.approx(similarity.max(1).mean(), abs=1e-4)
    elif name == "two numbers":
        assert model.config.problem_type == "regression"
        assert final["rmse"] == pytest.approx(np.sqrt(np.square(found - np.array(labels)).mean()), rel=1e-4)
    else:
        hot = np.array([[number in row for number in range(4)] for row in labels])
        assert final["map"] == pytest.approx(average_precision_score(hot, found), abs=1e-4)


def test_the_pipeline_gives_each_class_its_own_probability(runs, data):
    """The recorded mean average precision, from the scores of plain transformers."""
    run = runs("multilabel, folder")
    classify = pipeline("image-classification", model=str(run), top_k=None)
    test = load_data(data=str(data["folder"]), label_column="labels", labels="classes")
    scores, hot = [], []
    for row in test.eval:
        answer = {entry["label"]: entry["score"] for entry in classify(row["image"])}
        scores.append([answer[label] for label in test.classes])
        hot.append([number in row["labels"] for number in range(4)])
    assert sorted(test.classes) == sorted(NAMES)
    final = record_of(run)["final"]
    assert final["map"] == pytest.approx(average_precision_score(hot, scores), abs=1e-4)
    assert final["map"] > 0.65  # of random scores 0.5
    model = transformers.AutoModelForImageClassification.from_pretrained(run)
    processor = AutoImageProcessor.from_pretrained(run)
    pixels = processor([row["image"].convert("RGB") for row in test.eval], return_tensors="pt")["pixel_values"]
    loss = model(pixels, labels=torch.tensor(hot).float()).loss
    assert final["loss"] == pytest.approx(loss.item(), abs=1e-4)
