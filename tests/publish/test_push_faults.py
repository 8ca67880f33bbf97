"""The push of a finished run, with failures of the Hub and the network."""

import itertools
import json
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from fixtures.cli import ROOT
from huggingface_hub import CommitOperationAdd, HfApi, constants
from safetensors.torch import save_file

from hf_mixup.cli.push import main
from hf_mixup.errors import PushError, PushRefused
from hf_mixup.hub import retry, session
from hf_mixup.hub.destination import Destination, check_access
from hf_mixup.publish.push import push

NUMBERS = itertools.count()
CARD = "---\ntags:\n- mixup\n---\n\n# A run\n"
pytestmark = pytest.mark.usefixtures("logged_in")


@pytest.fixture
def repo():
    """The name of a new repository."""
    return f"user/run-{next(NUMBERS)}"


RECORD = ROOT / "hub_cards" / "records" / "quickstart" / "quickstart-mixup-0.json"


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run of minimal size."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    shutil.copy(RECORD, folder / "run.json")
    save_file({"weight": torch.arange(1000.0)}, folder / "model.safetensors")
    return folder


def files_of(api, repo, revision=None) -> set[str]:
    return set(api.list_repo_files(repo, revision=revision)) - {".gitattributes"}


def commits_of(api, repo, revision=None) -> list[str]:
    return [entry.title for entry in api.list_repo_commits(repo, revision=revision)]


CARDS = {"README.md", "recipe.yaml"}
WHOLE = {*CARDS, "config.json", "run.json", "model.safetensors"}
SURVIVED = {
    "create_repo fails": {"path": "/api/repos/create", "status": 500},
    "create_repo is dropped": {"path": "/api/repos/create", "drop": "before"},
    "the response of create_repo is lost": {"path": "/api/repos/create", "drop": "after"},
    "whoami is limited": {"path": "/whoami", "status": 429, "retry_after": 0},
    "reading the branch fails": {"method": "GET", "path": r"/api/models/user/[^/]*$", "status": 503},
    "preupload is dropped": {"path": "/preupload/", "drop": "before"},
    "an upload fails once": {"method": "PUT", "path": "", "status": 500},
    "an upload is dropped": {"method": "PUT", "path": "", "drop": "before"},
    "the commit fails twice": {"path": "/commit/", "status": 503, "times": 2},
    "the commit is dropped": {"path": "/commit/", "drop": "before"},
    "the response of the commit is lost": {"path": "/commit/", "drop": "after"},
    "the branch has moved": {"path": "/commit/", "status": 412},
    "another commit is in progress": {"path": "/commit/", "status": 409},
    "the commit is slow": {"path": "/commit/", "slow": 0.2},
}


@pytest.mark.parametrize("fault", SURVIVED.values(), ids=SURVIVED.keys())
def test_the_run_is_pushed_exactly_once_although(fault, hub, api, run, repo):
    injected = hub.faults.add(**fault)
    assert push(run, Destination(repo)) == f"{hub.url}/{repo}"
    assert injected.hits == (fault.get("times") or 1)
    assert files_of(api, repo) == WHOLE
    assert commits_of(api, repo).count("Run") == 1


def test_a_commit_made_during_the_push_is_kept(hub, api, run, repo, monkeypatch):
    api.create_repo(repo)
    create_commit, before = HfApi.create_commit, []

    def meanwhile(self, *args, **options):
        if not before:
            before.append(create_commit(api, repo, [CommitOperationAdd("notes.txt", b"mine")], commit_message="Notes"))
        return create_commit(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_commit", meanwhile)
    push(run, Destination(repo))
    assert files_of(api, repo) == WHOLE | {"notes.txt"}
    assert commits_of(api, repo)[:2] == ["Run", "Notes"]


def test_pushing_again_makes_no_commit(api, run, repo):
    push(run, Destination(repo))
    push(run, Destination(repo))
    assert commits_of(api, repo).count("Run") == 1


def test_files_of_an_earlier_run_are_deleted_and_files_of_people_are_kept(api, run, repo):
    api.create_repo(repo)
    left = [
        "method.safetensors",
        "preprocessor_config.json",
        ".eval_results/old.yaml",
        "model-00001-of-00002.safetensors",
    ]
    kept = ["notes.md", "figures/mixed.png", "onnx/model.onnx", ".gitignore"]
    additions = [CommitOperationAdd(name, b"*.safetensors") for name in left + kept]
    api.create_commit(repo, additions, commit_message="Before")
    push(run, Destination(repo))
    assert files_of(api, repo) == WHOLE | set(kept)


def test_only_published_files_are_pushed(api, run, repo):
    others = (".env", ".hub.json", "training_args.bin", "notes.txt", "method-rank0.safetensors")
    others += ("checkpoint-2/optimizer.pt", ".saving/x.json", "runs/events", "sub/model.safetensors")
    for name in others:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("private")
    push(run, Destination(repo))
    assert files_of(api, repo) == WHOLE


def test_a_revision_that_does_not_exist_becomes_a_branch(hub, api, run, repo):
    assert push(run, Destination(repo, revision="v/1")) == f"{hub.url}/{repo}/tree/v/1"
    assert files_of(api, repo, "v/1") == WHOLE
    assert not files_of(api, repo)


def test_a_private_repository_is_private_and_a_public_one_is_refused(api, run, repo):
    push(run, Destination(repo, private=True))
    assert api.repo_info(repo).private
    api.create_repo(f"{repo}-open")
    with pytest.raises(PushError, match="public repository already"):
        push(run, Destination(f"{repo}-open", private=True))
    assert not files_of(api, f"{repo}-open")


@pytest.mark.parametrize("drop", [None, "before", "after"])
def test_a_pull_request_for_a_repository_of_another_user_is_opened_once(drop, hub, run, repo):
    theirs = repo.replace("user/", "bob/")
    bob = HfApi(endpoint=hub.url, token=hub.add_token("bob"))
    bob.create_repo(theirs)
    if drop:
        hub.faults.add(path="/commit/", drop=drop)
    assert push(run, Destination(theirs, create_pr=True)) == f"{hub.url}/{theirs}/discussions/1"
    assert len(list(bob.get_repo_discussions(theirs))) == 1
    assert files_of(bob, theirs, "refs/pr/1") == WHOLE
    assert not files_of(bob, theirs)


REFUSED = {
    "no token": ({"token": ""}, "user/x", "HF_TOKEN"),
    "an unknown token": ({"token": "hf_unknown"}, "user/x", "does not accept the token"),
    "a read token": ({"token": "hf_user_read"}, "user/x", "is read-only"),
    "a repository of another user": ({}, "bob/theirs", "not yours .*--hub_create_pr"),
    "a namespace of another user": ({}, "bob/nothing", "namespace is not yours"),
    "an invalid name": ({}, "a b/c", "not a valid repository name"),
    "offline": ({"offline": True}, "user/x", "HF_HUB_OFFLINE"),
}


def test_files_pushed_by_others_during_the_push_are_checked(hub, api, run, repo):
    api.create_repo(repo)
    hub.faults.add(path="/commit/", slow=1.0)

    def push_a_picture():
        while not any(f"{repo}/commit/" in request.path for request in hub.requests):
            time.sleep(0.01)
        api.upload_file(path_or_fileobj=b"of another run", path_in_repo="mixed.png", repo_id=repo)

    other = threading.Thread(target=push_a_picture)
    other.start()
    push(run, Destination(repo))
    other.join()
    assert files_of(api, repo) == WHOLE and len(commits_of(api, repo)) == 3


@pytest.mark.parametrize("given, name, message", REFUSED.values(), ids=REFUSED.keys())
def test_an_impossible_push_is_refused_at_once_and_creates_nothing(given, name, message, hub, api, run, monkeypatch):
    hub.add_token("user", "read")
    HfApi(endpoint=hub.url, token=hub.add_token("bob")).create_repo("bob/theirs", exist_ok=True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "none"))
    monkeypatch.setenv("HF_TOKEN", given.get("token", hub.token))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", given.get("offline", False))
    before, tried = len(hub.requests), []
    monkeypatch.setattr(retry.time, "sleep", tried.append)
    with pytest.raises(PushRefused, match=message) as refused:
        check_access(Destination(name))
    with pytest.raises(PushError, match=message) as lost:
        push(run, Destination(name))
    assert not tried
    assert "POST" not in {request.method for request in hub.requests[before:]}
    for error in (refused, lost):
        assert "\n" not in str(error.value) and hub.token not in str(error.value)
    assert f"python -m hf_mixup push {run}" in str(lost.value)


def test_a_fine_grained_token_for_this_repository_is_enough(hub, api, run, repo, monkeypatch):
    api.create_repo(repo)
    monkeypatch.setenv("HF_TOKEN", hub.add_token("user", "fine", {repo: "write"}, value=f"hf_fine_{next(NUMBERS)}"))
    push(run, Destination(repo))
    assert files_of(api, repo) == WHOLE


def test_a_hub_that_always_fails_is_tried_a_bounded_number_of_times(hub, run, repo, caplog):
    fault = hub.faults.add(path="/commit/", status=503, times=None)
    with pytest.raises(PushError, match="failing or busy .*503") as lost:
        push(run, Destination(repo))
    assert fault.hits == retry.TRIES
    assert len(caplog.messages) >= retry.TRIES - 1
    assert re.search(r"could not be pushed to '[^']*': .* To push it later: python -m hf_mixup push", str(lost.value))


def test_a_server_that_requests_an_hour_is_not_waited_for(hub, run, repo, monkeypatch):
    monkeypatch.setattr(session, "MAX_WAIT", 0.01)
    fault = hub.faults.add(path="/preupload/", status=429, retry_after=3600, times=None)
    with pytest.raises(PushError, match="wait of 3600 s"):
        push(run, Destination(repo))
    assert fault.hits == retry.TRIES


def test_a_silent_server_is_not_waited_for(hub, run, repo, monkeypatch):
    monkeypatch.setitem(session.TIMEOUTS, "read", 0.2)
    monkeypatch.setattr(retry, "TRIES", 2)
    hub.faults.add(path="/api/repos/create", slow=1.0, times=None)
    with pytest.raises(PushError, match="could not be reached"):
        push(run, Destination(repo))


def test_the_token_is_in_no_message_even_if_the_server_repeats_it(hub, run, repo, caplog, monkeypatch):
    for status, times in ((500, 3), (403, None)):
        hub.faults.add(path="/commit/", status=status, times=times, message=f"No: Bearer {hub.token}")
    with pytest.raises(PushError, match="No: Bearer") as lost:
        push(run, Destination(repo))
    assert hub.token not in str(lost.value) + caplog.text


class TestTheCommand:
    """`python -m hf_mixup push`."""

    def test_it_pushes_to_the_destination_of_the_run(self, hub, api, run, repo, capsys):
        Destination(repo, revision="best", private=True).save(run)
        assert main([str(run)]) == 0
        assert capsys.readouterr().out == f"Pushed to {hub.url}/{repo}/tree/best\n"
        assert files_of(api, repo, "best") == WHOLE and api.repo_info(repo).private

    def test_options_override_the_destination_of_the_run(self, api, run, repo):
        Destination("user/elsewhere", private=True).save(run)
        assert main([str(run), "--repo", repo, "--revision", "v2"]) == 0
        assert files_of(api, repo, "v2") == WHOLE
        assert api.repo_info(repo).private  # as the run's own destination
        assert Destination.load(run) == Destination("user/elsewhere", private=True)  # unchanged
        assert main([str(run), "--repo", repo, "--no-private"]) == 0

    def test_the_pushed_card_loads_from_the_repository(self, api, run, repo):
        assert main([str(run), "--repo", repo, "--revision", "v2"]) == 0
        card = Path(api.hf_hub_download(repo, "README.md", revision="v2")).read_text()
        assert f'model="{repo}"' in card and 'revision="v2"' in card

    def test_runs_with_other_seeds_give_the_card_a_spread(self, api, run, repo, capsys):
        others = [run.with_name(f"seed-{seed}") for seed in (1, 2)]
        for seed, other in enumerate(others, 1):
            other.mkdir()
            shutil.copy(RECORD.with_name(f"quickstart-mixup-{seed}.json"), other / "run.json")
        assert main([str(run), "--repo", repo, "--seeds", *map(str, others)]) == 0
        assert "| std |" in Path(api.hf_hub_download(repo, "README.md")).read_text()
        shutil.copy(RECORD, others[0] / "run.json")
        assert main([str(run), "--repo", repo, "--seeds", str(others[0])]) == 2
        assert "seed" in capsys.readouterr().err

    def test_a_run_without_a_destination_needs_repo(self, run, capsys):
        assert main([str(run)]) == 2
        assert "give --repo" in capsys.readouterr().err

    def test_a_hub_that_fails_is_status_1_and_the_same_command_works_later(self, hub, api, run, repo, capsys):
        hub.faults.add(path="/commit/", status=500, times=None)
        assert main([str(run), "--repo", repo]) == 1
        assert "could not be pushed" in capsys.readouterr().err
        hub.faults.clear()
        assert main([str(run), "--repo", repo]) == 0
        assert files_of(api, repo) == WHOLE

    @pytest.mark.parametrize("name", sorted(WHOLE - {"recipe.yaml"}))
    def test_a_folder_without_a_file_is_refused_and_the_file_named(self, name, run, repo, capsys):
        (run / name).unlink()
        assert main([str(run), "--repo", repo]) == 2
        assert name in capsys.readouterr().err

    @pytest.mark.parametrize("name", sorted(WHOLE - CARDS))
    def test_a_truncated_file_is_refused_and_named(self, name, run, repo, capsys):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])
        assert main([str(run), "--repo", repo]) == 2
        assert name in capsys.readouterr().err

    def test_a_missing_shard_is_refused_and_named(self, run, repo, capsys):
        (run / "model.safetensors").rename(run / "model-00001-of-00002.safetensors")
        names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (run / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        assert main([str(run), "--repo", repo]) == 2
        assert "model-00002-of-00002.safetensors is missing" in capsys.readouterr().err

    def test_a_checkpoint_an_unfinished_run_and_a_missing_folder_are_refused(self, run, tmp_path, capsys):
        (run / "checkpoint-3").mkdir()
        (run / "run.json").write_text('{"schema_version": 1, "status": "running"}')
        for folder, message in (
            (run / "checkpoint-3", f"then push {run}"),
            (run, "--resume"),
            (tmp_path / "no", "no folder"),
        ):
            assert main([str(folder), "--repo", "user/x"]) == 2
            assert message in capsys.readouterr().err


def test_a_tag_or_a_commit_cannot_be_pushed_to(api, run, repo):
    api.create_repo(repo)
    api.create_tag(repo, tag="v9")
    for revision in ("v9", api.repo_info(repo).sha):
        with pytest.raises(PushError, match="is a tag or a commit"):
            push(run, Destination(repo, revision))


def test_an_invalid_branch_name_creates_no_repository(api, repo):
    for revision in ("a..b", "a b", "/a", "a~1", "a.lock", ""):
        with pytest.raises(PushRefused, match="is not a valid branch name"):
            check_access(Destination(repo, revision))
    assert not api.repo_exists(repo)
