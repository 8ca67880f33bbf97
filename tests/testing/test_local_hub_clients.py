"""The local Hub with transformers, timm, datasets and the hf command, each in its own process."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_mixup.testing.hub import main
from hf_mixup.testing.repo import Repo

CHECKS = Path(__file__).with_name("hub_clients.py")
NAMES = re.findall(r"^def (check_\w+)", CHECKS.read_text(), re.MULTILINE)


def environment(folder: Path, hub: dict[str, str]) -> dict[str, str]:
    """The environment of this process, with another Hub and HF_HOME."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(folder / "home"), "NO_COLOR": "1"}
    return {**ours, **quiet, "OMP_NUM_THREADS": "1", **hub}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A hub started from the command line."""
    root = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "hf_mixup.testing.hub", "--root", root, "--token", "hf_mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield server
        server.kill()


@pytest.fixture(scope="module")
def results(hub, served, tmp_path_factory):
    """The result of each check. `served` only starts its process here, at the same time, since both start slowly."""
    folder = tmp_path_factory.mktemp("clients")
    for kind, options in (("secret", {"private": True}), ("gated", {"gated": "manual"})):
        repo = hub.store.create(Repo("datasets", f"bob/{kind}"), "bob")
        hub.store.save(repo, **options)
    faulty = "^/datasets/user/faulty/resolve/.*train-0000"  # one fault for each file, since the client doubles its wait
    hub.faults.add(method="GET", path=faulty + "0", status=429, retry_after=0)
    hub.faults.add(method="GET", path=faulty + "1", drop="before")
    reply = subprocess.run(
        [sys.executable, CHECKS], env=environment(folder, hub.env), cwd=folder, capture_output=True, text=True
    )
    assert reply.returncode == 0, reply.stderr
    return json.loads(reply.stdout) | {"faults": [fault.hits for fault in hub.faults]}


@pytest.mark.parametrize("name", NAMES)
def test_clients(results, name):
    assert results[name] == "ok", results[name]


def test_the_faults_of_the_stream_were_injected(results):
    assert results["faults"] == [1, 1]


def test_hf_commands_work_with_the_printed_environment(served, tmp_path):
    exports = [served.stdout.readline() for _ in range(3)]
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
    served.send_signal(signal.SIGINT)
    assert served.wait(10) == 0
    assert "Ctrl-C" in served.stdout.read()


def test_the_command_line_refuses_a_folder_in_use(hub, capsys):
    assert main(["--root", str(hub.store.folder)]) == 2
    assert "error: Another hub serves" in capsys.readouterr().err
