"""End to end over HTTP with the real clients: upload a data set, train on two processes, kill, resume, load."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
from fixtures.cli import hub_environment, python, recipe_of, record_of
from fixtures.streams import point_to
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from transformers import pipeline

from hf_mixup.data import load_data
from hf_mixup.testing import LocalHub

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port", 0)
DATA, MODEL, BRANCH = "user/clothes", "user/clothes-mixup", "checkpoints"
EPOCHS, EPOCH, SAVED = 5, 20, 5  # 2,000 images in batches of 50 on two processes; steps between checkpoints


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub")) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def train(hub, root):
    """`train(...)`: start the streamed training on two processes, with these additional arguments."""
    with client_of(hub, root / "home"):
        data = load_data()
        splits = datasets.DatasetDict(train=data.train, test=data.eval)
        splits.push_to_hub(DATA, num_shards={"train": 4, "test": 1})
    fields = {"streaming": True, "num_train_epochs": EPOCHS, "per_device_train_batch_size": 50}
    fields |= {"save_strategy": "steps", "save_steps": SAVED, "eval_strategy": "no", "learning_rate": 0.2}
    recipe = recipe_of(root / "recipe.yaml", DATA, **fields)
    argv = (*LAUNCH, "-m", "hf_mixup", recipe, "--output_dir", root / "run", "--push_to_hub", "--hub_model_id", MODEL)
    return lambda *more: python(*argv, *more, environment=hub_environment(hub, root / "home"))


@pytest.fixture(scope="module")
def killed(train, hub, root):
    """The checkpoints on the Hub after all processes of the run were killed."""
    process = train()
    try:
        while process.poll() is None and not (at_step(root, EPOCH + SAVED) and on_hub(hub)):
            if at_step(root, 4 * EPOCH):  # enough time for a push in the background
                break
            time.sleep(0.01)
    finally:
        for worker in children(process):
            os.kill(worker, signal.SIGKILL)
        process.kill()
    _, stderr = process.communicate()
    assert at_step(root, EPOCH + SAVED) and record_of(root / "run")["status"] == "running", stderr
    return on_hub(hub)


@pytest.fixture(scope="module")
def resumed(killed, train):
    """The output of the resumed run."""
    return done(train("--resume"))


@pytest.fixture(scope="module")
def reloaded(resumed, hub, root):
    """Correct predictions and images, from a pipeline and a data set that are downloaded into empty caches."""
    with client_of(hub, root / "other home"):
        classify = pipeline("image-classification", model=MODEL, top_k=1)
        test = datasets.load_dataset(DATA, split="test")
        names = test.features["label"].names
        answers = classify(list(test["image"]), batch_size=100)
    right = [answer["label"] == names[label] for [answer], label in zip(answers, test["label"])]
    return sum(right), len(right)


@contextmanager
def client_of(hub, home: Path):
    """This process uses the hub, with empty caches in `home`."""
    with pytest.MonkeyPatch.context() as patch:
        point_to(hub, patch, home, hub.token)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        yield


def done(process) -> str:
    """The output of a process, which must succeed."""
    printed, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return printed


def children(process) -> list[int]:
    """The child processes of a process; none if it has ended."""
    if process.poll() is not None:
        return []
    return [int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def at_step(root: Path, step: int) -> bool:
    return any(int(path.name.split("-")[1]) >= step for path in (root / "run").glob("checkpoint-*"))


def on_hub(hub) -> dict[str, set[str]]:
    """The files of each checkpoint on its branch."""
    try:
        files = HfApi(endpoint=hub.url, token=hub.token).list_repo_files(MODEL, revision=BRANCH)
    except (RepositoryNotFoundError, RevisionNotFoundError):  # not created yet
        return {}
    found = {}
    for folder, _, name in (file.partition("/") for file in files if file.startswith("checkpoint-")):
        found.setdefault(folder, set()).add(name)
    return found


def test_the_data_set_has_several_shards(train, api):
    files = api.list_repo_files(DATA, repo_type="dataset")
    assert len([name for name in files if "train" in name and name.endswith(".parquet")]) == 4


def test_a_killed_run_resumes_and_finishes(resumed, root):
    run = record_of(root / "run")
    assert run["status"] == "finished" and run["steps"] == EPOCHS * EPOCH and run["world_size"] == 2
    assert run["data"]["path"] == DATA and run["data"]["splits"]["train"] == 2000
    assert len(run["data"]["revision"]) == 40


def test_checkpoints_were_pushed_to_their_branch_before_the_kill(killed):
    assert killed and all({"model.safetensors", "trainer_state.json"} <= files for files in killed.values())


def test_the_resumed_run_pushes_later_checkpoints(resumed, killed, hub):
    steps = [max(int(name.split("-")[1]) for name in found) for found in (killed, on_hub(hub))]
    assert steps[0] < steps[1]


def test_main_has_model_card_and_record_and_no_checkpoint(resumed, api, root):
    files = set(api.list_repo_files(MODEL))
    assert {"README.md", "config.json", "model.safetensors", "run.json"} <= files
    assert not [name for name in files if name.startswith("checkpoint")]
    assert f"{api.endpoint}/{MODEL}" in resumed and api.token not in resumed


def test_a_pipeline_with_empty_caches_has_exactly_the_recorded_accuracy(reloaded, root):
    right, images = reloaded
    assert images == 500 and right / images == record_of(root / "run")["final"]["top1"]
    assert right / images > 0.5  # it has learned something


def test_the_card_on_the_hub_has_the_same_accuracy(reloaded, api, root):
    card = ModelCard(Path(api.hf_hub_download(MODEL, "README.md")).read_text())
    [top1] = [result.metric_value for result in card.data.eval_results if result.metric_name == "Top-1"]
    assert top1 == reloaded[0] / reloaded[1]
