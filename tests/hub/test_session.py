"""Timeouts and limits of requests inside `limited`, against a local Hub."""

import gc
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub import HfFileSystem, close_session, get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from hf_mixup.hub import retry, session


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


def test_a_garbage_collection_in_the_connection_pool_may_close_an_unclosed_stream(hub, api, monkeypatch):
    api.create_repo("user/stream", repo_type="dataset")
    api.upload_file(repo_id="user/stream", repo_type="dataset", path_in_repo="a.bin", path_or_fileobj=os.urandom(2**22))
    files = HfFileSystem(endpoint=hub.url, token=hub.token)
    with session.limited():
        pool = get_session()._transport._pool
    assign = pool._assign_requests_to_connections  # runs while the pool's lock is held
    monkeypatch.setattr(pool, "_assign_requests_to_connections", lambda: (gc.collect(), assign())[1])
    statuses = []

    def request():
        file = files.open("datasets/user/stream/a.bin", block_size=0)
        file.read(10)
        file.myself = file  # a cycle, which only a garbage collection ends
        del file
        statuses.append(get_session().get(f"{hub.url}/api/whoami-v2").status_code)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(60)
    assert statuses == [401]


def test_a_forked_process_can_use_the_inherited_pool_although_a_thread_of_its_parent_held_the_lock():
    with session.limited():
        inherited = get_session()
    held, done = threading.Event(), threading.Event()

    def hold():
        with inherited._transport._pool._optional_thread_lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        with inherited._transport._pool._optional_thread_lock:
            os._exit(0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_downloads_in_other_threads_have_timeouts_too(hub, monkeypatch):
    monkeypatch.setitem(session.TIMEOUTS, "read", 0.1)
    hub.faults.add(path="/whoami", slow=0.3, times=None)
    with session.limited(), ThreadPoolExecutor(1) as pool, pytest.raises(HTTPError):
        pool.submit(get_session().get, f"{hub.url}/api/whoami-v2").result()


def test_a_session_that_another_thread_closed_is_used_again(hub, api, monkeypatch):
    monkeypatch.setattr(retry, "WAIT", 0.0)
    closed = []

    def call():
        client = get_session()
        if not closed:
            closed.append(close_session())
        return client.get(f"{hub.url}/api/whoami-v2").status_code

    assert retry.retried(call, "request the user") == 401
