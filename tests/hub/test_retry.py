"""What is tried again, how long is waited, and what is said, against a real server that fails."""

import os

os.environ["HF_HUB_DISABLE_XET"] = "1"

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from fixtures import hub as hub_fixtures
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hf_mixup.hub import retry
from hf_mixup.testing import LocalHub

online, api = hub_fixtures.online, hub_fixtures.api


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited between tries, which do not pass."""
    seconds = []
    monkeypatch.setattr(retry.time, "sleep", seconds.append)
    return seconds


def test_what_succeeds_is_asked_once(hub, api, waits):
    before = len(hub.requests)
    assert retry.retried(api.whoami, "ask")["name"] == "user"
    assert [request.path for request in hub.requests[before:]].count("/api/whoami-v2") == 1 and not waits


@pytest.mark.parametrize(
    "fault", [{"status": status} for status in (408, 429, 500, 502, 503, 504)] + [{"drop": "before"}]
)
def test_what_may_pass_is_tried_again_after_longer_and_longer_waits(fault, hub, api, waits):
    injected = hub.faults.add(path="/whoami", times=3, **fault)
    assert retry.retried(api.whoami, "ask")["name"] == "user"
    assert injected.hits == 3 and waits == [1, 2, 4]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422])
def test_what_cannot_pass_is_raised_at_once(status, hub, api, waits):
    injected = hub.faults.add(path="/whoami", status=status, times=None)
    with pytest.raises(HfHubHTTPError) as error:
        retry.retried(api.whoami, "ask")
    assert injected.hits == 1 and not waits and not retry.may_pass(error.value)
    assert retry.status_of(error.value) == status


def test_a_status_that_is_not_final_here_is_tried_again(hub, api, waits):
    hub.faults.add(path="/whoami", status=412)
    assert retry.retried(api.whoami, "ask", also=(412,))


@pytest.mark.parametrize("asked, waited", [(7, 7), (10_000, retry.LONGEST), (0, 0)])
def test_as_long_is_waited_as_the_server_asks_but_not_for_ever(asked, waited, hub, api, waits):
    hub.faults.add(path="/whoami", status=429, retry_after=asked)
    retry.retried(api.whoami, "ask")
    assert waits == [waited]


def test_retry_after_may_be_a_date_and_nonsense_is_passed_over():
    class Response:
        def __init__(self, text):
            self.headers = {"Retry-After": text}

    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry._asked(Response(later)) <= 100
    assert retry._asked(Response("Wed, 21 Oct 2015 07:28:00 GMT")) == 0
    assert retry._asked(Response("soon")) is retry._asked(Response("")) is None


def test_no_try_begins_after_patience_has_ended(hub, api, waits):
    injected = hub.faults.add(path="/whoami", status=503, times=None)
    with pytest.raises(HfHubHTTPError):
        retry.retried(api.whoami, "ask", patience=1.5)
    assert injected.hits == 2 and waits == [1]


def test_nobody_there_is_tried_again_and_then_said(api, waits):
    api.endpoint = "http://127.0.0.1:9"
    with pytest.raises(HTTPError) as error:
        retry.retried(api.whoami, "ask")
    assert len(waits) == retry.TRIES - 1
    assert retry.may_pass(error.value) and retry.status_of(error.value) is None


def test_a_bug_is_not_tried_again(waits):
    def broken():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        retry.retried(broken, "ask")
    assert not waits


def test_a_silent_server_is_left_only_inside_and_the_callers_limits_stand(hub, monkeypatch):
    monkeypatch.setitem(retry.TIMEOUTS, "read", 0.1)
    hub.faults.add(path="/whoami", slow=0.4, times=None)
    with retry.impatient(), pytest.raises(HTTPError):
        get_session().get(f"{hub.url}/api/whoami-v2")
    with retry.impatient():
        assert get_session().get(f"{hub.url}/api/whoami-v2", timeout=5).status_code == 401
    assert get_session().get(f"{hub.url}/api/whoami-v2").status_code == 401


def test_the_reason_is_one_line_with_the_servers_words_and_no_secret(hub, api, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-mine")
    hub.faults.add(path="/whoami", status=403, message="No,\n a-secret-of-mine at https://me:pass@place/x?sig=1")
    with pytest.raises(HfHubHTTPError) as error:
        api.whoami()
    assert retry.reason(error.value) == "HfHubHTTPError 403: No, *** at https://place/x"


def test_a_forked_process_leaves_the_connections_it_inherits_alone(monkeypatch):
    with retry.impatient():  # as any request that is retried
        session = get_session()
    monkeypatch.setattr(session._transport, "close", lambda: os._exit(7))  # where it would wait for a lost thread
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
