"""Fixtures for tests that talk to a hub from this process; each folder's conftest.py has its own `hub`."""

import os

os.environ["HF_HUB_DISABLE_XET"] = "1"

import pytest
from huggingface_hub import HfApi, constants

from hf_mixup.hub import retry


@pytest.fixture(autouse=True)
def online(hub, monkeypatch, tmp_path):
    """What huggingface_hub reads from the environment when it is imported, which here was for tests without a Hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    agents = tmp_path / "agents.json"  # else asked of the real Hub, for the client's name in its requests
    agents.write_text('{"standardEnvVars": [], "harnesses": {}}')
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(agents))
    yield
    hub.faults.clear()


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def here(hub, monkeypatch):
    """This process talks to the hub, as its first user."""
    log_in(hub, monkeypatch)
    return hub


def log_in(hub, monkeypatch, token: str | None = None) -> None:
    """What the environment would say, and no waiting between tries of ours."""
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(retry, "WAIT", 0.01)
    monkeypatch.setenv("HF_TOKEN", token or hub.token)
