"""The local Hub with many clients at once, idle connections, and forked processes that hold its sockets."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import HTTPError

from hf_mixup.testing import LocalHub

# A client that sends one request for each line of stdin, on one connection, and prints the statuses.
CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
for _ in sys.stdin:
    connection.request("GET", "/api/whoami-v2")
    response = connection.getresponse()
    response.read()
    print(response.status, id(connection.sock), flush=True)
"""


@pytest.mark.parametrize("clients", [20, 60])
def test_many_clients_at_once_create_push_and_read(hub, clients):
    def use(number: int) -> list[str]:
        api, repo = HfApi(endpoint=hub.url, token=hub.token), f"user/of-{clients}-{number}"
        api.create_repo(repo)
        for step in range(2):
            api.upload_file(repo_id=repo, path_in_repo=f"{step}.txt", path_or_fileobj=b"text")
            assert api.whoami()["name"] == "user"
        return [entry.rfilename for entry in api.model_info(repo).siblings if entry.rfilename != ".gitattributes"]

    with ThreadPoolExecutor(clients) as pool:
        assert list(pool.map(use, range(clients))) == [["0.txt", "1.txt"]] * clients


@pytest.mark.parametrize("clients", [20, 60])
def test_idle_connections_of_many_processes_stay_open(hub, clients):
    command = [sys.executable, "-S", "-c", CLIENT, str(hub.port)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **options) for _ in range(clients)]
    seen = [set() for _ in processes]
    for _ in range(3):
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process, lines in zip(processes, seen):
            lines.add(process.stdout.readline())
    assert all(len(lines) == 1 and next(iter(lines)).startswith("401 ") for lines in seen)
    for process in processes:
        process.communicate()


def test_the_server_keeps_idle_connections_longer_than_clients_do(hub):
    assert hub._server.config.timeout_keep_alive > get_session()._transport._pool._keepalive_expiry


@pytest.fixture
def forked():
    """`forked()` starts a fork of this process, which holds copies of all its sockets until the end of the test."""
    children = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
        children.append(child)

    yield fork
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_closed_connection_is_closed_although_a_fork_holds_a_copy(hub, forked):
    session, address = get_session(), f"{hub.url}/api/whoami-v2"
    assert session.get(address).status_code == 401
    forked()
    hub.faults.add(path="/whoami", drop="before")
    with pytest.raises(HTTPError) as error:
        session.get(address, timeout=30)
    assert "Timeout" not in type(error.value).__name__


def test_a_stopped_hub_refuses_connections_and_starts_again_although_a_fork_holds_its_sockets(tmp_path, forked):
    hub = LocalHub(tmp_path)
    with hub:
        forked()
    with pytest.raises(HTTPError, match="refused"):
        get_session().get(f"http://127.0.0.1:{hub.port}/api/whoami-v2", timeout=30)
    with hub:
        assert get_session().get(f"{hub.url}/api/whoami-v2", timeout=30).status_code == 401
