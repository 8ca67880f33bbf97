"""A hub for each file of tests; `online` points no client at it: pass its address, or run with `hub_environment`."""

import hub_fixtures
import pytest

from hf_mixup.testing import LocalHub

api, online, here = hub_fixtures.api, hub_fixtures.online, hub_fixtures.here


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LocalHub(tmp_path_factory.mktemp("hub"), {"user": ["org"], "bob": []}) as hub:
        yield hub


@pytest.fixture
def logged_in(hub, online, monkeypatch):
    """This process as the hub's user."""
    hub_fixtures.log_in(hub, monkeypatch)
