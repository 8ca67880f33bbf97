"""Runs that push from the command line: checkpoints and result, after kills and refusals, without leaking tokens."""

import os
import signal
import socket
import threading
import time

import pytest
import torch
from fixtures.cli import command, content, folder_of, hub_environment, picture, python, recipe_of, record_of, start
from fixtures.hub import log_in
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file
from transformers import pipeline

from hf_mixup.cli.push import main as push_later
from hf_mixup.hub.destination import CHECKPOINTS, Destination
from hf_mixup.hub.published_files import is_published
from hf_mixup.publish import workflow as stages
from hf_mixup.trainer import checkpoint_pusher

CANARY = "hf_" + "canary" * 5
STATE = {"config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
STATE |= {"manifest.json", "data_order.json"}
pytestmark = pytest.mark.usefixtures("logged_in")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Ten steps on an image folder, with a checkpoint every second step."""
    root = tmp_path_factory.mktemp("recipe")
    fields = {"max_steps": 10, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "no"}
    return recipe_of(root / "recipe.yaml", folder_of(root / "data"), **fields)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The folder of a run that was neither pushed nor killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert start(recipe, "--output_dir", folder) == 0
    return folder


@pytest.fixture
def argv(recipe, tmp_path):
    """The command line of a run that is pushed, with an output folder of the test."""
    return [recipe, "--output_dir", tmp_path / "run", "--push_to_hub", "--hub_model_id"]


def files_of(api, repo, revision=None) -> set[str]:
    return set(api.list_repo_files(repo, revision=revision)) - {".gitattributes"}


def same_weights(one, other) -> bool:
    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def pushed(hub, recipe, tmp_path_factory):
    """The folder of a run with training images in its per-rank state, pushed to user/whole with a canary as token."""
    folder = tmp_path_factory.mktemp("pushed") / "run"
    hub.add_token("user", value=CANARY)
    with pytest.MonkeyPatch.context() as patch:
        log_in(hub, patch, CANARY)
        argv = ("--output_dir", folder, "--push_to_hub", "--hub_model_id", "whole", "--method", "recursivemix")
        assert start(recipe, *argv, "--hub_private_repo") == 0
    return folder


def test_the_run_is_one_commit_on_main(pushed, api):
    expected = {"README.md", "config.json", "model.safetensors", "method.safetensors", "run.json"}
    assert expected <= files_of(api, "user/whole")
    assert {name for name in content(pushed) if "/" not in name and is_published(name)} <= files_of(api, "user/whole")
    assert [entry.title for entry in api.list_repo_commits("user/whole")] == ["Run", "initial commit"]
    assert api.repo_info("user/whole").private


def test_all_files_at_the_top_of_the_folder_are_pushed(pushed):
    names = {name for name in content(pushed) if not name.startswith(("checkpoint-", ".hub.json"))}
    assert not [name for name in names if not is_published(name)]


def test_the_last_checkpoint_is_on_its_branch_without_training_images(pushed, api):
    files = files_of(api, "user/whole", CHECKPOINTS)
    assert {f"checkpoint-10/{name}" for name in STATE | {"method.safetensors"}} | {"run.json"} <= files
    assert not [name for name in files if "rank" in name.split("/")[-1]]
    assert (pushed / "checkpoint-10" / "method-rank0.safetensors").is_file()


def test_the_folder_stores_its_destination_and_has_no_temporary_files(pushed):
    assert Destination.load(pushed) == Destination("whole", private=True)
    assert not [name for name in content(pushed) if name.startswith((".pushing", ".saving", ".fetching"))]


def test_a_pipeline_loads_the_repository_by_name(pushed):
    answers = pipeline("image-classification", model="user/whole")(picture(0))
    assert {answer["label"] for answer in answers} == {"cat", "dog"}


def test_a_run_resumes_from_the_hub_without_the_stored_training_images(pushed, recipe, api, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ("--push_to_hub", "--hub_model_id", "whole", "--method", "recursivemix", "--resume")
    assert start(recipe, "--output_dir", folder, *argv, "--hub_private_repo") == 0
    assert "Continuing from checkpoint-10 of user/whole" in capsys.readouterr().out
    assert record_of(folder)["steps"] == 10 and same_weights(folder, pushed)


REFUSED = {
    "no token": ([], "", "user/x", "HF_TOKEN"),
    "an unknown token": ([], "hf_unknown", "user/x", "does not accept the token"),
    "of another user": ([], None, "bob/x", "not yours"),
    "no valid name": ([], None, "a b", "not a valid repository name"),
    "the checkpoints' branch": (["--hub_revision", CHECKPOINTS], None, "user/x", "choose another"),
    "a pull request to a branch": (["--hub_create_pr", "--hub_revision", "v1"], None, "user/x", "cannot be combined"),
}


def test_a_refused_push_ends_the_run_before_data_is_read(hub, argv, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for more, token, repo, message in REFUSED.values():
        monkeypatch.setenv("HF_TOKEN", hub.token if token is None else token)
        assert start(*argv, repo, *more, "--data", "/no/such/folder") == 2
        stderr = capsys.readouterr().err
        assert message in stderr and "Traceback" not in stderr and "/no/such" not in stderr
        assert not (tmp_path / "run").exists()
    assert not {"user/x", "bob/x"} & {model.id for model in HfApi(endpoint=hub.url, token=hub.token).list_models()}


def test_a_repository_that_cannot_be_created_leaves_no_folder(hub, argv, tmp_path, capsys):
    hub.faults.add(path="/api/repos/create", status=403, times=None, message="No more repositories")
    assert start(*argv, "user/forbidden") == 2
    assert "No more repositories" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_hub_that_fails_all_the_time_costs_only_the_push(hub, api, argv, whole, tmp_path, capsys, caplog):
    fault = hub.faults.add(path="/api/", drop="before", times=None)
    assert start(*argv, "user/late") == 1
    stderr = capsys.readouterr().err
    assert "could not be reached" in stderr and f"python -m hf_mixup push {tmp_path / 'run'}" in stderr
    assert fault.hits and "was not pushed" in caplog.text
    assert same_weights(tmp_path / "run", whole)
    hub.faults.clear()
    assert push_later([str(tmp_path / "run")]) == 0
    assert files_of(api, "user/late") >= {"README.md", "config.json", "model.safetensors", "run.json"}


def test_pull_requests_and_strategy_end_push_no_checkpoints(hub, api, argv, capsys):
    api.create_repo("user/quiet")
    assert start(*argv, "user/quiet", "--hub_create_pr") == 0
    assert f"Pushed to {hub.url}/user/quiet/discussions/1" in capsys.readouterr().out
    assert start(*argv, "user/quiet", "--hub_strategy", "end", "--resume") == 0
    assert [branch.name for branch in api.list_repo_refs("user/quiet").branches] == ["main"]
    assert files_of(api, "user/quiet") == files_of(api, "user/quiet", "refs/pr/1")


def wait_for_request(hub, path: str, times: int, process) -> None:
    while sum(path in request.path for request in hub.requests) < times:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_a_run_killed_during_a_checkpoint_push_resumes_here_and_from_the_hub(hub, api, argv, tmp_path, capsys):
    """The branch stays at its last commit; both resumed runs end with the weights of a run that was not killed."""
    commits = "/models/user/killed/commit/checkpoints"
    steps = ("--max_steps", 40)
    hub.faults.add(path=commits, slow=0.001)  # the first one passes
    hub.faults.add(path=commits, slow=30, times=None)
    process = command(*argv, "user/killed", *steps, environment=hub_environment(hub, tmp_path / "home"))
    wait_for_request(hub, commits, 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.faults.clear()
    files = files_of(api, "user/killed", CHECKPOINTS)
    [arrived] = {name.split("/")[0] for name in files} - {"run.json"}
    assert {name.split("/")[1] for name in files if name.startswith(arrived)} == STATE
    folder, other, whole = (tmp_path / name for name in ("run", "other", "whole"))
    assert start(argv[0], "--output_dir", whole, *steps) == 0
    for place in (other, folder):
        assert start(argv[0], "--output_dir", place, *argv[3:], "user/killed", *steps, "--resume") == 0
        assert same_weights(place, whole)
    assert f"Continuing from {arrived} of user/killed" in capsys.readouterr().out
    assert files_of(api, "user/killed", CHECKPOINTS) >= {"checkpoint-40/optimizer.pt"}
    assert not (folder / ".pushing").exists()


def test_a_run_killed_during_its_final_push_can_be_pushed_later(hub, api, argv, whole, tmp_path):
    commits = "/models/user/finished/commit/main"
    hub.faults.add(path=commits, slow=30, times=None)
    process = command(*argv, "user/finished", environment=hub_environment(hub, tmp_path / "home"))
    wait_for_request(hub, commits, 1, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.faults.clear()
    assert same_weights(tmp_path / "run", whole) and not files_of(api, "user/finished")
    assert push_later([str(tmp_path / "run")]) == 0
    assert files_of(api, "user/finished") >= {"README.md", "config.json", "model.safetensors", "run.json"}


def unanswered(hub, path: str) -> bool:
    """Whether a request for this path has no response yet."""
    return any(path in request.path and request.seconds is None for request in hub.requests)


def test_training_does_not_wait_for_a_slow_hub(hub, api, argv, whole, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(checkpoint_pusher, "CLOSE_TIMEOUT", 0.1)
    hub.faults.add(path="/models/user/slow/commit/checkpoints", slow=30)
    assert start(*argv, "user/slow") == 0
    assert unanswered(hub, "/models/user/slow/commit/checkpoints")
    assert "was not pushed within" in caplog.text
    assert same_weights(tmp_path / "run", whole) and "model.safetensors" in files_of(api, "user/slow")


def test_ctrl_c_does_not_wait_for_a_slow_hub(hub, argv, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(stages, "STOP_TIMEOUT", 0.1)
    path = "/models/user/stopped/commit/checkpoints"
    hub.faults.add(path=path, slow=30)

    def interrupt():
        while not unanswered(hub, path):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert start(*argv, "user/stopped", "--max_steps", 2000) == 130
    assert unanswered(hub, path)
    assert "Continue with:" in capsys.readouterr().err
    assert list((tmp_path / "run").glob("checkpoint-*")) and not (tmp_path / "run" / ".pushing").exists()


TWO = """
import os, sys
from pathlib import Path
from hf_mixup.cli.main import main
found = [main([*sys.argv[2:], "--hub_model_id", repo]) for repo in ("bob/theirs", "a b", "user/two")]
Path(sys.argv[1], "status-" + os.environ["RANK"]).write_text(str(found))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_one_of_two_processes_pushes_and_both_get_the_errors(hub, api, argv, tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    command_line = (tmp_path / "two.py", tmp_path, *argv[:-1], "--per_device_train_batch_size", 2)
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common = hub_environment(hub, tmp_path / "home") | group
    ranks = [python(*command_line, environment=common | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    printed = "".join(rank.communicate()[1] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    assert [(tmp_path / f"status-{rank}").read_text() for rank in range(2)] == ["[2, 2, 0]"] * 2
    assert printed.count("is not yours") == printed.count("not a valid repository name") == 1
    for revision, titles in ((None, {"Run"}), (CHECKPOINTS, {"checkpoint-10"})):
        found = [entry.title for entry in api.list_repo_commits("user/two", revision=revision)]
        assert titles <= set(found) and len(found) == len(set(found))
    assert any("rng_state_1.pth" in name for name in files_of(api, "user/two", CHECKPOINTS))


LEAKS = [
    {"path": "/whoami", "status": 401},
    {"path": "/api/repos/create", "status": 403},
    {"path": "/commit/", "status": 401},
    {"path": "/commit/", "status": 500},
    {"path": "/preupload/", "status": 400},
    {"method": "PUT", "path": "", "status": 403},
    {"path": "/commit/", "drop": "before"},
    {"path": "/commit/", "drop": "after"},
]


def test_the_token_is_not_printed_logged_written_or_pushed(
    pushed, hub, api, argv, tmp_path, monkeypatch, capfd, caplog
):
    """Whatever request fails, also if the server repeats the token in its message."""
    caplog.set_level("INFO")
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr("hf_mixup.hub.retry.TRIES", 2)
    for number, fault in enumerate(LEAKS):
        message = {"message": f"Refused: Bearer {CANARY}"} if "status" in fault else {}
        hub.faults.add(**fault, **message, times=None if "status" in fault else 1)
        folder = tmp_path / f"run-{number}"
        status = start(argv[0], "--output_dir", folder, *argv[3:], f"user/leak-{number}", "--max_steps", 2)
        assert status == (2 if number < 2 else 0 if "drop" in fault else 1)
        hub.faults.clear()
    printed = capfd.readouterr()
    assert "Bearer ***" in printed.err + caplog.text
    assert CANARY not in printed.out + printed.err + caplog.text
    places = [tmp_path, pushed, hub.store.folder]
    assert not [name for place in places for name, data in content(place).items() if CANARY.encode() in data]


def test_a_token_in_the_recipe_or_in_a_url_is_refused_and_not_shown(argv, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "my-own-secret-word")
    fields = {
        "--hub_token": CANARY,
        "--data": f"https://user:{CANARY}@huggingface.co/x",
        "--model": f"x?token={CANARY}",
    }
    fields |= {"--model_args.key": CANARY, "--hub_model_id": "my-own-secret-word"}
    for name, value in fields.items():
        assert start(argv[0], "--output_dir", "x", name, value) == 2
        printed = "".join(capsys.readouterr())
        assert value not in printed and CANARY not in printed and "HF_TOKEN" in printed
