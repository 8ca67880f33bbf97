"""Retries, waits and messages, against a local Hub that fails."""

import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hf_mixup.hub import retry, session


@pytest.fixture
def waits(monkeypatch):
    """The waits between tries in seconds; time.sleep returns at once."""
    seconds = []
    monkeypatch.setattr(retry.time, "sleep", seconds.append)
    return seconds


def test_a_request_that_succeeds_is_sent_once(hub, api, waits):
    before = len(hub.requests)
    assert retry.retried(api.whoami, "request the user")["name"] == "user"
    assert [request.path for request in hub.requests[before:]].count("/api/whoami-v2") == 1 and not waits


@pytest.mark.parametrize(
    "fault", [{"status": status} for status in (408, 429, 500, 502, 503, 504)] + [{"drop": "before"}]
)
def test_transient_errors_are_retried_after_doubling_waits(fault, hub, api, waits):
    injected = hub.faults.add(path="/whoami", times=3, **fault)
    assert retry.retried(api.whoami, "request the user")["name"] == "user"
    assert injected.hits == 3 and waits == [1, 2, 4]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 422])
def test_other_errors_are_raised_at_once(status, hub, api, waits):
    injected = hub.faults.add(path="/whoami", status=status, times=None)
    with pytest.raises(HfHubHTTPError) as error:
        retry.retried(api.whoami, "request the user")
    assert injected.hits == 1 and not waits and not retry.is_transient(error.value)
    assert retry.status_of(error.value) == status


def test_a_status_in_also_is_retried(hub, api, waits):
    hub.faults.add(path="/whoami", status=412)
    assert retry.retried(api.whoami, "request the user", also=(412,))


@pytest.mark.parametrize("requested, waited", [(7, 7), (10_000, session.MAX_WAIT), (0, 0)])
def test_the_wait_is_the_requested_one_up_to_a_limit(requested, waited, hub, api, waits):
    hub.faults.add(path="/whoami", status=429, retry_after=requested)
    retry.retried(api.whoami, "request the user")
    assert waits == [waited]


def test_no_try_starts_after_patience(hub, api, waits):
    injected = hub.faults.add(path="/whoami", status=503, times=None)
    with pytest.raises(HfHubHTTPError):
        retry.retried(api.whoami, "request the user", patience=1.5)
    assert injected.hits == 2 and waits == [1]


def test_a_refused_connection_is_retried_and_then_raised(api, waits):
    api.endpoint = "http://127.0.0.1:9"
    with pytest.raises(HTTPError) as error:
        retry.retried(api.whoami, "request the user")
    assert len(waits) == retry.TRIES - 1
    assert retry.is_transient(error.value) and retry.status_of(error.value) is None


def test_a_bug_is_not_retried(waits):
    def broken():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        retry.retried(broken, "request the user")
    assert not waits


def test_the_reason_is_one_line_with_the_servers_message_and_no_secret(hub, api, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-mine")
    hub.faults.add(path="/whoami", status=403, message="No,\n a-secret-of-mine at https://me:pass@place/x?sig=1")
    with pytest.raises(HfHubHTTPError) as error:
        api.whoami()
    assert retry.reason(error.value) == "HfHubHTTPError 403: No, *** at https://place/x"
