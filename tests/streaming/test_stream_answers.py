"""Streams and data sets through a network that answers in place of the Hub, or whose storage has moved."""

import itertools

import pytest
from fixtures.cli import command, hub_environment, recipe_of
from fixtures.streams import NAMES, labels, loader_of, open_stream, point_to, write_parquet, write_tars
from huggingface_hub import HfApi

from hf_mixup.data import load_data
from hf_mixup.data.streaming import remote_files
from hf_mixup.errors import FAILED, DataUnreachable
from hf_mixup.hub import retry

NUMBERS = itertools.count()
PAGE = "<html><body>Log in to the network</body></html>" * 1000  # longer than the files
ANSWERS = {
    "page": {"body": PAGE},
    "text": {"body": "x" * 10**5, "content_type": "text/plain"},
    "empty": {"body": "", "content_type": "application/octet-stream"},
    "cut": {"truncate": 9},
    "circle": {"redirect": "/_large/again"},
}
each_answer = pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
TARS = {"image_column": "png", "label_column": "cls", "class_names": NAMES, "rows_per_shard": "count"}


@pytest.fixture(autouse=True)
def here(hub, monkeypatch, tmp_path, online):
    point_to(hub, monkeypatch, tmp_path / "home", hub.token)
    monkeypatch.setattr(retry, "WAIT", 0.01)


@pytest.fixture
def pushed(hub, tmp_path):
    def push(write=write_parquet) -> str:
        api, name = HfApi(endpoint=hub.url, token=hub.token), f"user/answers{next(NUMBERS)}"
        api.create_repo(name, repo_type="dataset")
        api.upload_folder(repo_id=name, folder_path=write(tmp_path / name[5:], (24, 16)), repo_type="dataset")
        return name

    return push


@pytest.mark.parametrize("write, options", [(write_parquet, {}), (write_tars, TARS)], ids=["parquet", "tars"])
@pytest.mark.parametrize("answer", [ANSWERS[name] for name in ("page", "text", "empty", "cut")])
def test_files_and_their_footers_are_read_again(hub, pushed, write, options, answer):
    name = pushed(write)
    fault = hub.faults.add(path="^/_large/", times=2, **answer)
    data = open_stream(name, **options)
    if fault.hits < 2:
        remote_files._addresses.clear()
    assert sorted(labels(loader_of(data))) == list(range(40)) and fault.hits == 2


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("path", ["/api/datasets/", "/paths-info/|/tree/", "/resolve/", "^/_large/"])
@each_answer
def test_other_requests_are_repeated_and_then_end_with_the_host(hub, pushed, monkeypatch, path, streaming, answer):
    if "truncate" in answer and path == "/resolve/":
        return  # a redirect has no body
    monkeypatch.setattr(remote_files, "TRIES", 3)
    name = pushed()
    for start in ("^/_large/again", path):
        hub.faults.add(path=start, times=None, **answer)
    with pytest.raises(DataUnreachable) as error:
        list(loader_of(open_stream(name))) if streaming else load_data(data=name)
    said = str(error.value)
    assert f":{hub.port} sent " in said and "something between this machine and it" in said and "\n" not in said
    assert error.value.exit_status == FAILED


def test_a_server_without_range_requests_sends_whole_files(hub, pushed, monkeypatch):
    data = open_stream(pushed())
    get = remote_files.get_session().get

    def without_ranges(url, headers, **options):
        return get(url, headers={name: value for name, value in headers.items() if name != "Range"}, **options)

    monkeypatch.setattr(remote_files.get_session(), "get", without_ranges)
    assert sorted(labels(loader_of(data))) == list(range(40))


def test_a_kept_address_whose_server_is_gone_is_resolved_again(hub, pushed):
    data = open_stream(pushed())
    assert sorted(labels(loader_of(data))) == list(range(40))
    gone = {url: address.replace(str(hub.port), "9") for url, address in remote_files._addresses.items()}
    remote_files._addresses.update(gone)
    assert gone and sorted(labels(loader_of(data))) == list(range(40))


def test_a_command_ends_with_status_1(hub, pushed, tmp_path):
    recipe = recipe_of(tmp_path / "recipe.yaml", pushed(), streaming=True)
    hub.faults.add(times=None, body=PAGE)
    environment = hub_environment(hub, tmp_path / "process")
    process = command(recipe, "--output_dir", tmp_path / "run", environment=environment)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "something between this machine and it" in said and "Traceback" not in said
