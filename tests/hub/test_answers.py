"""Successful responses that are not the Hub's, endless redirects and slow servers, against a local Hub that fails."""

import gc
import itertools
import json
import weakref

import pytest
from huggingface_hub import CommitOperationAdd, get_session, hf_hub_download
from huggingface_hub.errors import HTTPError

from hf_mixup.hub import answers, retry, session

NUMBERS = itertools.count()
PAGE = "<!DOCTYPE html><html><body>Log in to the network</body></html>"
NOT_JSON = {
    "a page": {"body": PAGE},
    "a page that says it is text": {"body": f"\n {PAGE}", "content_type": "text/plain"},
    "a page that says it is JSON": {"body": PAGE, "content_type": "application/json"},
    "an empty body": {"body": "", "content_type": "application/json"},
    "text": {"body": "Log in", "content_type": "text/plain"},
    "a part of the JSON": {"truncate": 9},
}
in_each_form = pytest.mark.parametrize("fault", NOT_JSON.values(), ids=NOT_JSON)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    seconds = []
    monkeypatch.setattr(retry.time, "sleep", seconds.append)
    return seconds


@in_each_form
def test_an_answer_that_is_not_json_is_retried(fault, hub, api, waits):
    injected = hub.faults.add(path="/whoami", times=3, **fault)
    assert retry.retried(api.whoami, "request the user")["name"] == "user"
    assert injected.hits == 3 and waits == [1, 2, 4]


@in_each_form
def test_the_reason_names_the_host_and_says_what_answers(fault, hub, api):
    hub.faults.add(path="/whoami", times=None, **fault)
    with pytest.raises(answers.ForeignAnswer) as error:
        retry.retried(api.whoami, "request the user")
    said = retry.reason(error.value)
    assert f"127.0.0.1:{hub.port} sent " in said and "something between this machine and it" in said
    assert retry.is_transient(error.value) and "\n" not in said


def test_outside_retries_a_page_is_not_checked(hub):
    hub.faults.add(path="/whoami", body=PAGE)
    assert get_session().get(f"{hub.url}/api/whoami-v2").text == PAGE


def test_error_statuses_with_a_page_keep_their_status(hub, api):
    hub.faults.add(path="/whoami", status=403)
    with session.limited(), pytest.raises(HTTPError) as error:
        api.whoami()
    assert retry.status_of(error.value) == 403


@pytest.fixture
def repo(api):
    name = f"user/answers{next(NUMBERS)}"
    api.create_repo(name)
    files = {"config.json": json.dumps({"a": 1}).encode(), "model.safetensors": b"weights" * 999}
    api.create_commit(name, [CommitOperationAdd(*file) for file in files.items()], commit_message="two files")
    return name


@pytest.mark.parametrize("target", ["/again/resolve/main/x", "http://127.0.0.1:{port}/again/resolve/main/x", ""])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_redirects_in_a_circle_end(target, file, hub, repo, tmp_path):
    location = target.format(port=hub.port) or f"/{repo}/resolve/main/{file}"
    loop = hub.faults.add(path="/resolve/", times=None, redirect=location)
    with pytest.raises((HTTPError, OSError)) as error:
        retry.retried(
            lambda: hf_hub_download(repo, file, endpoint=hub.url, cache_dir=tmp_path), "download a file", tries=2
        )
    assert retry.is_transient(error.value) and loop.hits <= 2 * (answers.MAX_REDIRECTS + 2)
    assert "something between this machine and it" in retry.reason(error.value)


def test_many_redirected_requests_are_not_a_circle(hub, api, repo):
    with session.limited():
        for _ in range(answers.MAX_REDIRECTS + 5):  # huggingface_hub does not follow these
            api.get_paths_info(repo, "model.safetensors")
            address = f"{hub.url}/{repo}/resolve/main/model.safetensors"
            assert get_session().head(address, headers=api._build_hf_headers(), follow_redirects=False).is_redirect


@pytest.fixture
def slow_clock(monkeypatch):
    """A clock that advances by 3 s at each look."""
    seconds = itertools.count(0, 3.0)
    monkeypatch.setattr(answers, "clock", lambda: next(seconds))


def test_a_trickling_server_is_given_up_and_asked_again_on_a_new_connection(hub, api, slow_clock):
    trickle = hub.faults.add(path="/whoami", times=2, trickle=0.002)
    assert retry.retried(api.whoami, "request the user")["name"] == "user"
    assert trickle.hits == 2
    hub.faults.add(path="/whoami", times=None, trickle=0.002)
    with pytest.raises(TimeoutError, match=f"127.0.0.1:{hub.port} sent .* fewer than 1024 per second"):
        retry.retried(api.whoami, "request the user")


def test_a_download_of_weights_that_trickles_is_given_up(hub, repo, tmp_path, slow_clock):
    trickle = hub.faults.add(method="GET", path="^/_large/", trickle=0.002)
    download = retry.retried(
        lambda: hf_hub_download(repo, "model.safetensors", endpoint=hub.url, cache_dir=tmp_path), "download a file"
    )
    assert open(download, "rb").read() == b"weights" * 999 and trickle.hits == 1


def test_the_readers_own_time_does_not_count(hub, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(answers, "clock", lambda: now[0])
    hub.faults.add(path="/whoami", trickle=0.002)
    with session.limited(), get_session().stream("GET", f"{hub.url}/api/whoami-v2") as response:
        for _ in response.iter_bytes():
            now[0] += 2 * answers.WINDOW


def test_a_response_is_freed_as_early_as_without_the_checks(hub):
    def freed() -> bool:
        response = weakref.ref(get_session().get(f"{hub.url}/api/agent-harnesses"))
        return response() is None

    gc.disable()
    try:
        outside = freed()
        with session.limited():
            assert freed() == outside
    finally:
        gc.enable()
