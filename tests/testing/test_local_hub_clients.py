"""The local Hub to transformers, timm, datasets and the command line, each in a process that reads the environment."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("hub_clients.py")
NAMES = re.findall(r"^def (check_\w+)", CHECKS.read_text(), re.MULTILINE)


def environment(folder: Path, hub: dict[str, str]) -> dict[str, str]:
    """This process's environment, with another Hub and a home of its own."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(folder / "home"), "NO_COLOR": "1"}
    return {**ours, **quiet, "OMP_NUM_THREADS": "1", **hub}


@pytest.fixture(scope="module")
def results(hub, tmp_path_factory):
    """What each check said."""
    folder = tmp_path_factory.mktemp("clients")
    for kind, options in (("secret", {"private": True}), ("gated", {"gated": "manual"})):
        repo = hub.store.create(type_of_data(f"bob/{kind}"), "bob")
        hub.store.save(repo, **options)
    faulty = r"^/datasets/user/faulty/resolve/.*\.parquet"
    hub.faults.add(method="GET", path=faulty, status=500)
    hub.faults.add(method="GET", path=faulty, status=429, retry_after=0)
    hub.faults.add(method="GET", path=faulty, drop="before")
    reply = subprocess.run(
        [sys.executable, CHECKS], env=environment(folder, hub.env), cwd=folder, capture_output=True, text=True
    )
    assert reply.returncode == 0, reply.stderr
    return json.loads(reply.stdout) | {"faults": [fault.hits for fault in hub.faults]}


def type_of_data(name: str):
    """A data set's entry that no client has asked for."""
    from hf_mixup.testing.repo import Repo

    return Repo("datasets", name)


@pytest.mark.parametrize("name", NAMES)
def test_clients(results, name):
    assert results[name] == "ok", results[name]


def test_the_stream_met_its_faults(results):
    assert results["faults"] == [1, 1, 1]


def test_every_hub_command_works_with_what_the_command_line_prints(tmp_path):
    command = [sys.executable, "-m", "hf_mixup.testing.hub", "--root", tmp_path / "hub", "--token", "hf_mine"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        exports = [server.stdout.readline() for _ in range(3)]
        lines = dict(re.fullmatch(r"export (\w+)=(\S+)\n", line).groups() for line in exports)
        assert lines["HF_TOKEN"] == "hf_mine" and lines["HF_HUB_DISABLE_XET"] == "1"
        (tmp_path / "weights.bin").write_bytes(b"weights" * 99)
        hf = Path(sys.executable).with_name("hf")
        for arguments in (["upload", "user/model", "weights.bin"], ["download", "user/model", "--local-dir", "again"]):
            reply = subprocess.run(
                [hf, *arguments], env=environment(tmp_path, lines), cwd=tmp_path, capture_output=True, text=True
            )
            assert reply.returncode == 0, reply.stderr
        assert (tmp_path / "again" / "weights.bin").read_bytes() == b"weights" * 99
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0
    assert "Ctrl-C" in server.stdout.read()
