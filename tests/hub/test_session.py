"""Timeouts and limits of requests inside `limited`, against a local Hub."""

import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hf_mixup.hub import session


@pytest.mark.parametrize("timeout", [{}, {"timeout": None}])
def test_a_silent_server_times_out_inside_and_not_outside(timeout, hub, monkeypatch):
    monkeypatch.setitem(session.TIMEOUTS, "read", 0.1)
    hub.faults.add(path="/whoami", slow=0.3, times=None)
    with session.limited(), pytest.raises(HTTPError):
        get_session().get(f"{hub.url}/api/whoami-v2", **timeout)
    assert get_session().get(f"{hub.url}/api/whoami-v2", **timeout).status_code == 401


def test_a_timeout_of_the_caller_is_kept(hub, monkeypatch):
    monkeypatch.setitem(session.TIMEOUTS, "read", 0.1)
    hub.faults.add(path="/whoami", slow=0.3)
    with session.limited():
        assert get_session().get(f"{hub.url}/api/whoami-v2", timeout=5).status_code == 401


def test_a_server_that_requests_a_long_wait_is_refused_inside_and_not_outside(hub):
    hub.faults.add(path="/whoami", status=429, retry_after=31, times=None, message="Too many requests")
    with session.limited(), pytest.raises(HfHubHTTPError, match="wait of 31 s") as error:
        get_session().get(f"{hub.url}/api/whoami-v2")
    assert error.value.response.json() == {"error": "Too many requests"}
    assert get_session().get(f"{hub.url}/api/whoami-v2").status_code == 429


def test_hooks_are_added_once_to_each_session():
    for _ in range(3):
        with session.limited():
            pass
    assert get_session().event_hooks["request"].count(session._set_timeouts) == 1


class Response:
    def __init__(self, **headers):
        self.headers = headers


def test_the_requested_wait_is_a_number_a_date_or_a_rate_limit():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    wait = session.requested_wait
    assert wait(Response(**{"Retry-After": "7"})) == 7
    assert 90 < wait(Response(**{"Retry-After": later})) <= 100
    assert wait(Response(**{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})) == 0
    assert wait(Response(**{"Retry-After": "soon"})) is wait(Response()) is None
    assert wait(Response(ratelimit='"api";r=0;t=55')) == 55
    assert wait(Response(ratelimit='"api";r=9;t=55')) is None


def test_a_forked_process_does_not_close_the_inherited_connections(monkeypatch):
    with session.limited():
        inherited = get_session()
    monkeypatch.setattr(inherited._transport, "close", lambda: os._exit(7))  # in a fork, close may wait forever
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
