"""Checkpoints are pushed to their own branch during training, and downloaded from it."""

import itertools
import json
import shutil
import threading

import pytest
import torch
from fixtures.cli import content
from fixtures.training import make
from huggingface_hub import CommitOperationAdd
from safetensors.torch import save_file

from hf_mixup.errors import PushError
from hf_mixup.hub.destination import CHECKPOINTS, Destination
from hf_mixup.publish.resume_from_hub import fetch_checkpoint
from hf_mixup.trainer import checkpoint_pusher
from hf_mixup.trainer.checkpoint_pusher import CheckpointPusher

NUMBERS = itertools.count()
LONG = 60  # seconds, more than any test needs
HASH = "0123456789abcdef"
pytestmark = pytest.mark.usefixtures("logged_in")


@pytest.fixture
def repo():
    return f"user/steps-{next(NUMBERS)}"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    record = {"schema_version": 1, "status": "running", "recipe_hash": HASH}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def new_pusher(repo, run):
    return CheckpointPusher(Destination(repo), run, run_files=("run.json",))


@pytest.fixture
def pusher(run, repo):
    pusher = new_pusher(repo, run)
    yield pusher
    pusher.close(LONG)


def checkpoint(run, step: int, best: int | None = None):
    """A complete checkpoint of minimal size."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir()
    save_file({"weight": torch.full((1000,), float(step))}, folder / "model.safetensors")
    torch.save({"step": step}, folder / "optimizer.pt")
    place = best and str(run / f"checkpoint-{best}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_model_checkpoint": place}))
    return folder


def folders_of(api, repo) -> list[str]:
    return sorted({name.split("/")[0] for name in api.list_repo_files(repo, revision=CHECKPOINTS)} - {".gitattributes"})


def titles_of(api, repo) -> list[str]:
    return [entry.title for entry in api.list_repo_commits(repo, revision=CHECKPOINTS)]


def wait_for_request(hub, path: str, times: int = 1) -> None:
    """Wait until the hub has received this many requests for the path."""
    waited = threading.Event()
    for _ in range(LONG * 100):
        if sum(path in request.path for request in hub.requests) >= times:
            return
        waited.wait(0.01)
    raise AssertionError(f"{path} was not requested")


def test_a_checkpoint_is_pushed_with_the_run_record(api, pusher, run, repo):
    folder = checkpoint(run, 2)
    pusher.offer(folder)
    pusher.close(LONG)
    names = {f"checkpoint-2/{name}" for name in content(folder)}
    assert set(api.list_repo_files(repo, revision=CHECKPOINTS)) == names | {"run.json", ".gitattributes"}
    assert set(api.list_repo_files(repo)) == {".gitattributes"}


def test_private_files_and_local_folders_are_not_pushed(hub, api, pusher, run, repo):
    folder = checkpoint(run, 2, best=2)
    for name in ("training_args.bin", "method-rank0.safetensors", "method-rank13.safetensors", ".from_hub"):
        (folder / name).write_text("private")
    pusher.offer(folder)
    pusher.close(LONG)
    found = {name for name in api.list_repo_files(repo, revision=CHECKPOINTS) if name.startswith("checkpoint-2/")}
    assert {name.split("/")[1] for name in found} == {"model.safetensors", "optimizer.pt", "trainer_state.json"}
    state = api.hf_hub_download(repo, "checkpoint-2/trainer_state.json", revision=CHECKPOINTS)
    assert json.loads(open(state).read())["best_model_checkpoint"] == "checkpoint-2"
    assert json.loads((folder / "trainer_state.json").read_text())["best_model_checkpoint"] == str(folder)


def test_a_checkpoint_deleted_during_its_push_is_pushed_and_then_only_the_newest(hub, api, pusher, run, repo):
    hub.faults.add(path=f"/{repo}/preupload/", slow=0.5)
    pusher.offer(checkpoint(run, 1))
    wait_for_request(hub, f"/{repo}/preupload/")
    for step in (2, 3, 4):
        pusher.offer(checkpoint(run, step))
        shutil.rmtree(run / f"checkpoint-{step - 1}")  # as rotation does
    pusher.close(LONG)
    assert titles_of(api, repo)[:2] == ["checkpoint-4", "checkpoint-1"]
    assert folders_of(api, repo) == ["checkpoint-4", "run.json"]


def test_the_branch_keeps_the_checkpoints_that_the_folder_keeps(api, run, repo):
    for step, gone in ((1, None), (2, None), (3, 1)):
        folder = checkpoint(run, step)
        if gone:
            shutil.rmtree(run / f"checkpoint-{gone}")
        if step == 1:
            pusher = new_pusher(repo, run)
        pusher.offer(folder)
        while pusher._uploaded.isdisjoint({folder.name}):
            threading.Event().wait(0.01)
    pusher.close(LONG)
    assert folders_of(api, repo) == ["checkpoint-2", "checkpoint-3", "run.json"]


def test_the_best_checkpoint_is_pushed_with_the_newest(api, pusher, run, repo):
    for step in (2, 4):
        checkpoint(run, step)
    pusher.offer(checkpoint(run, 6, best=2))
    pusher.close(LONG)
    assert folders_of(api, repo) == ["checkpoint-2", "checkpoint-6", "run.json"]
    assert titles_of(api, repo)[:2] == ["checkpoint-6", "initial commit"]


def test_checkpoints_and_model_of_an_earlier_run_are_deleted_from_the_branch(api, pusher, run, repo):
    api.create_repo(repo)
    files = {"model.safetensors": b"old", "README.md": b"---\ntags:\n- old\n---\n", "notes.txt": b"mine"}
    api.create_commit(repo, [CommitOperationAdd(*file) for file in files.items()], commit_message="Before")
    api.create_branch(repo, branch=CHECKPOINTS)
    old = [
        CommitOperationAdd(f"checkpoint-{step}/{name}", b"old") for step in (2, 90) for name in ("x", "optimizer.pt")
    ]
    api.create_commit(repo, old, commit_message="An earlier run", revision=CHECKPOINTS)
    pusher.offer(checkpoint(run, 2))
    pusher.close(LONG)
    assert folders_of(api, repo) == ["checkpoint-2", "notes.txt", "run.json"]
    assert "checkpoint-2/x" not in api.list_repo_files(repo, revision=CHECKPOINTS)


def test_a_failed_push_logs_one_line_and_the_next_checkpoint_is_pushed(
    hub, api, pusher, run, repo, caplog, monkeypatch
):
    monkeypatch.setattr("hf_mixup.hub.retry.TRIES", 1)
    fault = hub.faults.add(path="/commit/", status=503)
    pusher.offer(checkpoint(run, 1))
    wait_for_request(hub, f"/{repo}/commit/")
    pusher.offer(checkpoint(run, 2))
    pusher.close(LONG)
    [line] = [message for message in caplog.messages if "was not pushed" in message]
    assert line.startswith(f"checkpoint-1 was not pushed to {repo}: ") and "503" in line and "\n" not in line
    assert fault.hits == 1
    assert folders_of(api, repo) == ["checkpoint-2", "run.json"]


@pytest.mark.parametrize("wait", [0.01, LONG])
def test_a_failed_push_is_retried_later_and_at_the_end(wait, hub, api, pusher, run, repo, monkeypatch):
    monkeypatch.setattr("hf_mixup.hub.retry.TRIES", 1)
    monkeypatch.setattr(checkpoint_pusher, "RETRY_AFTER", wait)
    hub.faults.add(path="/api/repos/create", drop="before", times=1)
    pusher.offer(checkpoint(run, 1))
    wait_for_request(hub, "/api/repos/create", 2 if wait < 1 else 1)
    pusher.close(LONG)
    assert folders_of(api, repo) == ["checkpoint-1", "run.json"]


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 401}, {"status": 403}, {"drop": "before"}])
def test_a_hub_that_always_fails_logs_a_line_and_changes_no_file(fault, hub, pusher, run, repo, caplog, monkeypatch):
    monkeypatch.setattr("hf_mixup.hub.retry.TRIES", 2)
    hub.faults.add(path="/commit/", times=None, **fault)
    before = content(checkpoint(run, 1))
    pusher.offer(run / "checkpoint-1")
    pusher.close(LONG)
    assert not pusher._thread.is_alive()
    assert [message for message in caplog.messages if "checkpoint-1 was not pushed" in message]
    assert content(run / "checkpoint-1") == before and not (run / checkpoint_pusher.SNAPSHOTS).exists()


def test_close_does_not_wait_for_a_slow_hub(hub, pusher, run, caplog):
    hub.faults.add(path="/commit/", slow=2.0)
    pusher.offer(checkpoint(run, 1))
    pusher.offer(checkpoint(run, 2))
    pusher.close(0.05)
    assert "was not pushed within" in caplog.text and pusher._thread.daemon


class TestFetching:
    """A run that resumes from the Hub on another machine."""

    def test_the_newest_and_the_best_checkpoint_are_downloaded(self, pusher, run, repo, tmp_path):
        best = checkpoint(run, 2)
        pusher.offer(best)
        while not pusher._uploaded:
            threading.Event().wait(0.01)
        newest = checkpoint(run, 10, best=2)
        pusher.offer(newest)
        pusher.close(LONG)
        other = tmp_path / "machine" / "run"
        fetch_checkpoint(Destination(repo), other, HASH)
        for folder in (best, newest):
            back, sent = content(other / folder.name), content(folder)
            assert back.keys() - sent.keys() == {".from_hub"}
            assert not [name for name in sent if name != "trainer_state.json" and back[name] != sent[name]]
        state = json.loads((other / "checkpoint-10" / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(other / "checkpoint-2")
        assert json.loads((other / "run.json").read_text())["recipe_hash"] == HASH
        assert {path.name for path in other.iterdir()} == {"run.json", "checkpoint-2", "checkpoint-10"}

    @pytest.mark.parametrize("what", ["no repository", "no branch", "another recipe", "no record"])
    def test_checkpoints_of_other_runs_are_not_downloaded(self, what, api, pusher, run, repo, tmp_path):
        if what == "no branch":
            api.create_repo(repo)
        if what in ("another recipe", "no record"):
            if what == "no record":
                pusher.beside = ()
            pusher.offer(checkpoint(run, 1))
            pusher.close(LONG)
        fetch_checkpoint(Destination(repo), tmp_path / "other", "another")
        assert not (tmp_path / "other").exists()

    @pytest.mark.parametrize("fault", [{"status": 503}, {"drop": "before"}])
    def test_a_hub_that_fails_raises_and_leaves_no_files(self, fault, hub, pusher, run, repo, tmp_path, monkeypatch):
        monkeypatch.setattr("hf_mixup.hub.retry.TRIES", 2)
        pusher.offer(checkpoint(run, 1))
        pusher.close(LONG)
        hub.faults.add(path=f"/revision/{CHECKPOINTS}", times=None, **fault)
        with pytest.raises(PushError, match="Without --resume the run starts from the beginning"):
            fetch_checkpoint(Destination(repo), tmp_path / "other", HASH)
        assert not (tmp_path / "other").exists()

    def test_a_broken_download_is_retried(self, hub, pusher, run, repo, tmp_path):
        pusher.offer(checkpoint(run, 1))
        pusher.close(LONG)
        faults = [hub.faults.add(method="GET", path=path, drop=100) for path in ("checkpoint-1", "/_large/")]
        fetch_checkpoint(Destination(repo), tmp_path / "other", HASH)
        assert any(fault.hits for fault in faults)
        assert (tmp_path / "other" / "checkpoint-1" / "optimizer.pt").read_bytes() == (
            run / "checkpoint-1" / "optimizer.pt"
        ).read_bytes()


def test_a_script_with_mixup_trainer_pushes_checkpoints_and_no_private_files(hub, api, repo, tmp_path, monkeypatch):
    """Training arguments and per-rank state with training images stay local."""
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    fields = {"save_strategy": "steps", "save_steps": 1, "push_to_hub": True, "hub_model_id": repo}
    trainer = make(tmp_path / "run", method="recursivemix", hub_strategy="all_checkpoints", **fields)
    for steps in (2, 3):  # the second training pushes checkpoints too
        trainer.args.max_steps = steps
        trainer.train()
        assert f"checkpoint-{steps}" in folders_of(api, repo)
    trainer.push_to_hub()
    files = {*api.list_repo_files(repo), *api.list_repo_files(repo, revision=CHECKPOINTS)}
    assert files >= {"model.safetensors", "method.safetensors", "checkpoint-3/optimizer.pt"}
    assert not [name for name in files if "rank" in name or name.endswith(".bin")]
    assert not (tmp_path / "run" / "training_args.bin").exists()
