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
    """This process as the hub's user: what the environment would say, and no waiting between tries of ours."""
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(retry, "WAIT", 0.01)
    monkeypatch.setenv("HF_TOKEN", hub.token)
