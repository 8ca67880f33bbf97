"""Injected failures that huggingface_hub retries, and those that it raises."""

import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hf_mixup.testing import LocalHub

CONTENT = b"large" * 100
OLD_CLIENT = int(huggingface_hub.__version__.split(".")[0]) < 2
not_retried_by_1 = pytest.mark.skipif(OLD_CLIENT, reason="huggingface_hub 1 does not retry after a lost connection")


def upload(api, repo: str):
    return api.upload_file(path_or_fileobj=b"new" * 100, path_in_repo="new.bin", repo_id=repo)


@pytest.fixture
def short_waits(monkeypatch):
    """huggingface_hub waits at most 0.01 s between its tries."""
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01)))


def case(name: str, *marks, **fault):
    return pytest.param(fault, id=name, marks=marks)


UPLOADS = [
    case("preupload 500", method="POST", path="/preupload/", status=500),
    case("batch 429", method="POST", path="/objects/batch", status=429, retry_after=0),
    case("upload 500", method="PUT", path="^/_large/", status=500),
    case("upload dropped", not_retried_by_1, method="PUT", path="^/_large/", drop="before"),
    case("upload response dropped", not_retried_by_1, method="PUT", path="^/_large/", drop="after"),
    case("verify 503", method="POST", path="/verify", status=503),
]


@pytest.mark.parametrize("options", UPLOADS)
def test_the_client_retries_an_upload_after(api, hub, repo, options, short_waits):
    fault = hub.faults.add(**options)
    upload(api, repo)
    assert fault.hits == 1
    assert "new.bin" in api.list_repo_files(repo)


def download(api, repo: str) -> bytes:
    return Path(api.hf_hub_download(repo, "model.safetensors", etag_timeout=0.4)).read_bytes()


RAISED = {
    "commit 500": (upload, dict(method="POST", path="/commit/", status=500)),
    "commit 503": (upload, dict(method="POST", path="/commit/", status=503, retry_after=1)),
    "commit dropped": (upload, dict(method="POST", path="/commit/", drop="before")),
    "create 500": (lambda api, repo: api.create_repo("user/never"), dict(path="/repos/create", status=500)),
    "whoami 429": (lambda api, repo: api.whoami(), dict(path="whoami", status=429, retry_after=1)),
    "head dropped": (download, dict(method="HEAD", path="/resolve/", drop="before")),
    "content 503": (download, dict(method="GET", path="^/_large/", status=503)),
    "info 500": (lambda api, repo: api.snapshot_download(repo), dict(path=r"/repo-\d+/revision/", status=500)),
}


@pytest.mark.parametrize("name", RAISED)
def test_the_client_does_not_retry_after(api, hub, repo, name):
    call, options = RAISED[name]
    fault = hub.faults.add(times=None, **options)
    start = time.perf_counter()
    with pytest.raises((HTTPError, OSError)):
        call(api, repo)
    assert fault.hits == 1 and time.perf_counter() - start < 2
    assert "new.bin" not in api.list_repo_files(repo)


def test_a_commit_whose_response_is_lost_is_made(api, hub, repo):
    hub.faults.add(method="POST", path="/commit/", drop="after")
    with pytest.raises(HTTPError):
        upload(api, repo)
    assert "new.bin" in api.list_repo_files(repo)


DOWNLOADS = [
    case("head 500", method="HEAD", path="/resolve/", status=500),
    case("head 429", method="HEAD", path="/resolve/", status=429, retry_after=0),
    case("head too slow", method="HEAD", path="/resolve/", slow=1.0),
    case("content 429", method="GET", path="^/_large/", status=429, retry_after=0),
    case("content dropped", not_retried_by_1, method="GET", path="^/_large/", drop="before"),
    case("content cut off", not_retried_by_1, method="GET", path="^/_large/", drop=200),
]


@pytest.mark.parametrize("options", DOWNLOADS)
def test_the_client_retries_a_download_after(api, hub, repo, options, short_waits):
    fault = hub.faults.add(**options)
    assert download(api, repo) == CONTENT
    assert fault.hits == 1


def test_a_truncated_response_is_detected(api, hub, repo):
    hub.faults.add(method="GET", path="^/_large/", truncate=200)
    with pytest.raises(OSError, match="[Cc]onsistency|200"):
        download(api, repo)


def test_faults_apply_in_order_until_used_up(api, hub, repo):
    first = hub.faults.add(method="get", path=f"/api/models/{repo}$", status=503, times=2)
    second = hub.faults.add(path=f"/api/models/{repo}", status=418, message="I am a teapot")
    for expected in (503, 503, 418):
        with pytest.raises(HfHubHTTPError) as error:
            api.model_info(repo)
        assert error.value.response.status_code == expected
    assert "I am a teapot" in str(error.value)
    assert api.model_info(repo).id == repo
    assert (first.hits, second.hits) == (2, 1)


def test_the_log_has_all_requests(api, hub, repo):
    hub.faults.add(path="whoami", slow=0.2)
    start = len(hub.requests)
    api.whoami()
    logged = hub.requests[start]
    assert (logged.method, logged.path, logged.status) == ("GET", "/api/whoami-v2", 200)
    assert logged.fault is not None and "hf_hub" in logged.agent
    hub.faults.add(path="whoami", drop="before")
    with pytest.raises(HTTPError):
        api.whoami()
    assert hub.requests[-1].status is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "Choose one of status"),
        ({"status": 500, "drop": 1}, "Choose one of status"),
        ({"status": 200}, "is not an error"),
        ({"drop": "sometimes"}, "Unknown drop='sometimes'"),
        ({"drop": -1}, "Unknown drop=-1"),
    ],
)
def test_an_invalid_fault_is_refused_with_a_message(hub, wrong, message):
    with pytest.raises(ValueError, match=message):
        hub.faults.add(**wrong)


def test_the_hub_stops_during_a_slow_response(tmp_path):
    hub = LocalHub(tmp_path).start()
    hub.faults.add(slow=60)
    slow = threading.Thread(target=lambda: pytest.raises(HTTPError, HfApi(hub.url, hub.token).whoami))
    slow.start()
    while not hub.requests:
        time.sleep(0.01)
    start = time.perf_counter()
    hub.stop()
    slow.join(5)
    assert time.perf_counter() - start < 4 and not slow.is_alive()
