"""A hub for each file of tests; `online` points no client at it: pass its address, or run with `hub_environment`."""

import hub_fixtures
import pytest
from huggingface_hub import constants

from hf_mixup import retry
from hf_mixup.testing import LocalHub

api, online = hub_fixtures.api, hub_fixtures.online


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub"), {"user": ["org"], "bob": []}) as hub:
        yield hub


@pytest.fixture
def logged_in(hub, online, monkeypatch):
    """This process as the hub's user."""
    log_in(hub, monkeypatch)


def log_in(hub, monkeypatch, token: str | None = None) -> None:
    """What the environment would say, and no waiting between tries of ours."""
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(retry, "WAIT", 0.01)
    monkeypatch.setenv("HF_TOKEN", token or hub.token)
