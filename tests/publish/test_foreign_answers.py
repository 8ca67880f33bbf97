"""Pushes and downloads of models through a network that answers in place of the Hub."""

import itertools
import shutil

import pytest
import torch
from fixtures.cli import ROOT
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from hf_mixup.cli.push import main
from hf_mixup.errors import FAILED, ModelUnreachable
from hf_mixup.hub import retry
from hf_mixup.hub.download import fetch

NUMBERS = itertools.count()
pytestmark = pytest.mark.usefixtures("logged_in")
RECORD = ROOT / "hub_cards" / "records" / "quickstart" / "quickstart-mixup-0.json"
ANSWERS = {
    "page": {"body": "<!doctype html><html>Log in</html>"},
    "empty": {"body": "", "content_type": "application/json"},
    "cut": {"truncate": 5},
}
STEPS = ["/api/whoami", "/repos/create", "/preupload/", "/lfs/objects/batch", "/commit/"]
each_answer = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run of minimal size."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntags:\n- mixup\n---\n\n# A run\n")
    (folder / "config.json").write_text("{}")
    shutil.copy(RECORD, folder / "run.json")
    save_file({"weight": torch.arange(1000.0)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def repo():
    return f"user/answers-{next(NUMBERS)}"


@pytest.mark.parametrize("step", STEPS)
@each_answer
def test_a_push_survives_two_answers_and_commits_once(hub, api, run, repo, step, answer):
    fault = hub.faults.add(path=step, times=2, **answer)
    assert main([str(run), "--repo", repo]) == 0
    cut_commit = step == "/commit/" and "truncate" in answer  # was made: it is not made again
    assert fault.hits == (1 if cut_commit else 2)
    assert [entry.title for entry in api.list_repo_commits(repo)] == ["Run", "initial commit"]
    assert load_file(fetch(repo) / "model.safetensors")["weight"].equal(torch.arange(1000.0))


@pytest.mark.parametrize("step", [*STEPS, "^/_large/"])
@pytest.mark.parametrize("answer", [ANSWERS["page"], {"redirect": ""}], ids=["page", "circle"])
def test_a_push_that_never_reaches_the_hub_ends_with_status_1(hub, run, repo, step, answer, monkeypatch, capsys):
    monkeypatch.setattr(retry, "TRIES", 2)
    if "redirect" in answer:
        answer = {"redirect": "/circle" + step.strip("^")}
    for path in (step, "^/circle/"):
        hub.faults.add(path=path, times=None, **answer)
    assert main([str(run), "--repo", repo]) == FAILED
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "something between this machine and it" in said and f":{hub.port} sent " in said
    assert "To push it later" in said


@pytest.mark.parametrize("path", ["/api/models/", "/resolve/", "^/_large/"])
@each_answer
def test_a_download_is_repeated_and_then_ends_with_the_host(hub, run, repo, path, answer, monkeypatch, tmp_path):
    assert main([str(run), "--repo", repo]) == 0
    if path == "/resolve/" and "truncate" in answer:
        return  # a redirect has no body
    fault = hub.faults.add(path=path, times=2, **answer)
    assert load_file(fetch(repo) / "model.safetensors")["weight"].equal(torch.arange(1000.0)) and fault.hits == 2
    assert fetch(repo)  # also from the cache
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    hub.faults.add(path=path, times=None, **answer)
    with pytest.raises(ModelUnreachable, match="something between this machine and it"):
        fetch(repo)
    hub.faults.clear()
    assert load_file(fetch(repo) / "model.safetensors")["weight"].equal(torch.arange(1000.0))


def test_a_page_that_was_downloaded_is_no_part_of_the_file(hub, run, repo):
    assert main([str(run), "--repo", repo]) == 0
    hub.faults.add(path="^/_large/", times=None, body="Log in to the network", content_type="text/plain")
    with pytest.raises(ModelUnreachable):
        fetch(repo)
    hub.faults.clear()
    assert load_file(fetch(repo) / "model.safetensors")["weight"].equal(torch.arange(1000.0))
