"""One Ctrl-C ends each command, although the Hub hangs, trickles, or a retry waits."""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest
from fixtures.cli import command, folder_of, hub_environment, python, recipe_of
from fixtures.hub import hub, online  # noqa: F401
from fixtures.streams import NAMES, write_parquet, write_tars
from huggingface_hub import HfApi, constants

LIMIT = 30  # seconds: far less than the timeouts of the requests that hang
HANG, BUSY, TRICKLE = {"slow": 3600.0}, {"status": 503, "retry_after": 25}, {"trickle": 1.0}
NUMBERS = itertools.count()
STREAM = {"streaming": True, "eval_strategy": "no", "max_steps": 5000, "save_strategy": "no"}
TARS = {"image_column": "png", "label_column": "cls", "class_names": NAMES, "num_examples": 40}
LOAD = "from hf_mixup.publish.load_pretrained import load_pretrained; load_pretrained('user/{0}')"


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):  # noqa: F811
    """The data sets user/parquet, user/tars and user/images, and the model user/model with the files of a run."""
    root, api = tmp_path_factory.mktemp("pushed"), HfApi(endpoint=hub.url, token=hub.token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        return push_all(root, api)


def push_all(root: Path, api: HfApi) -> Path:
    folders = {"parquet": write_parquet(root / "parquet", (24, 16), 8), "tars": write_tars(root / "tars", (24, 16))}
    for name, folder in {**folders, "images": folder_of(root / "images")}.items():
        api.create_repo(f"user/{name}", repo_type="dataset")
        api.upload_folder(repo_id=f"user/{name}", folder_path=folder, repo_type="dataset")
    recipe = recipe_of(root / "recipe.yaml", max_steps=1, eval_strategy="no")
    assert command(recipe, "--output_dir", root / "run").wait(300) == 0
    api.create_repo("user/model")
    api.upload_folder(repo_id="user/model", folder_path=root / "run")
    return root / "run"


@pytest.fixture
def interrupted(hub, tmp_path):  # noqa: F811
    """Start a process, send Ctrl-C to it and its workers when a fault has hit, and return its status and output.

    The fault is added when `after` exists.
    """

    def interrupt(start, *argv, path: str, fault: dict, after: Path | None = None) -> tuple[int, str]:
        process = start(*argv, environment=hub_environment(hub, tmp_path / "home"), start_new_session=True)
        while process.poll() is None and after is not None and not after.exists():
            time.sleep(0.01)
        injected = hub.faults.add(path=path, times=None, **fault)
        while process.poll() is None and not injected.hits:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGINT)
        try:
            said = "".join(process.communicate(timeout=LIMIT))
        finally:
            process.kill()
        return process.returncode, said

    return interrupt


@pytest.mark.parametrize("fault", [HANG, BUSY, TRICKLE], ids=["hang", "busy", "trickle"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_a_stream(pushed, interrupted, tmp_path, fault, workers):
    fields = {**STREAM, "dataloader_num_workers": workers}
    recipe, run = recipe_of(tmp_path / "recipe.yaml", "user/parquet", **fields), tmp_path / "run"
    after = run / "run.json"  # is written before the first step
    status, said = interrupted(command, recipe, "--output_dir", run, path="^/_large/", fault=fault, after=after)
    assert status == 130 and "did not arrive" in said and "--resume" in said and "Traceback" not in said


def test_training_on_a_stream_of_unknown_length(pushed, interrupted, tmp_path):
    recipe, run = recipe_of(tmp_path / "recipe.yaml", "user/tars", **STREAM, **TARS), tmp_path / "run"
    after = run / "run.json"
    status, said = interrupted(command, recipe, "--output_dir", run, path="^/_large/", fault=HANG, after=after)
    assert status == 130 and "--resume" in said and "Traceback" not in said


@pytest.mark.parametrize("name, streaming", [("parquet", True), ("parquet", False), ("images", False)])
def test_opening_data(pushed, interrupted, tmp_path, name, streaming):
    recipe = recipe_of(tmp_path / "recipe.yaml", f"user/{name}", streaming=streaming)
    status, said = interrupted(command, recipe, "--output_dir", tmp_path / "run", path="/_large/|README", fault=HANG)
    assert status == 130 and "Interrupted" in said and "Traceback" not in said


@pytest.mark.parametrize("path", ["/commit/", "^/_large/"])
def test_training_with_a_background_push(pushed, interrupted, tmp_path, path):
    fields = {"push_to_hub": True, "hub_model_id": f"user/run{next(NUMBERS)}", "save_steps": 5, "max_steps": 5000}
    recipe = recipe_of(tmp_path / "recipe.yaml", save_strategy="steps", eval_strategy="no", **fields)
    status, said = interrupted(command, recipe, "--output_dir", tmp_path / "run", path=path, fault=HANG)
    assert status == 130 and "is complete" in said and "Traceback" not in said


@pytest.mark.parametrize("path, fault", [("/commit/", HANG), ("/repos/create", BUSY), ("/preupload/", TRICKLE)])
def test_push(pushed, interrupted, path, fault):
    argv = ["push", pushed, "--repo", f"user/pushed{next(NUMBERS)}"]
    status, said = interrupted(command, *argv, path=path, fault=fault)
    assert status == 130 and "Interrupted" in said and "Traceback" not in said


@pytest.mark.parametrize("path, fault", [("/resolve/", HANG), ("^/_large/", HANG), ("^/_large/", TRICKLE)])
def test_evaluate(pushed, interrupted, path, fault):
    status, said = interrupted(command, "evaluate", "user/model", path=path, fault=fault)
    assert status == 130 and "Traceback" not in said


@pytest.mark.parametrize("path", ["/resolve/", "^/_large/"])
def test_load_pretrained_in_a_script(pushed, interrupted, path):
    status, said = interrupted(python, "-c", LOAD.format("model"), path=path, fault=HANG)
    assert status == -signal.SIGINT and said.strip().endswith("KeyboardInterrupt")


def test_the_local_hub(tmp_path):
    process = command("hub", "--root", tmp_path / "root")
    assert "HF_ENDPOINT" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 0
