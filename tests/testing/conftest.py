"""A local Hub for each test file, and clients that use only this Hub."""

import itertools
import os

os.environ["HF_HUB_DISABLE_XET"] = "1"

import pytest
from fixtures import hub as hub_fixtures
from huggingface_hub import CommitOperationAdd, HfApi

from hf_mixup.testing import LocalHub

PART_SIZE = 4000
api, online = hub_fixtures.api, hub_fixtures.online
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with LocalHub(folder, {"user": ["org"], "bob": []}, part_size=PART_SIZE) as hub:
        yield hub


@pytest.fixture
def anonymous(hub):
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def bob(hub):
    return HfApi(endpoint=hub.url, token=hub.add_token("bob"))


@pytest.fixture
def repo(api):
    """A new model repository with one regular and one large file."""
    name = f"user/repo-{next(NUMBERS)}"
    api.create_repo(name)
    files = {"words/hello.txt": b"hello", "model.safetensors": b"large" * 100}
    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    api.create_commit(name, additions, commit_message="two files")
    return name
