"""Streams from a failing Hub: transient errors are retried, and other errors become one paragraph."""

import itertools
import signal
import threading

import pytest
from fixtures.streams import NAMES, labels, loader_of, open_stream, point_to, write_parquet, write_tars
from huggingface_hub import HfApi

from hf_mixup.data import DataError, load_data
from hf_mixup.data.streaming import remote_files
from hf_mixup.hub import retry, session

NUMBERS = itertools.count()
TARS = {"image_column": "png", "label_column": "cls", "class_names": NAMES}
CANARY = "hf_canary_0123456789"


@pytest.fixture(autouse=True)
def here(hub, monkeypatch, tmp_path, online):
    point_to(hub, monkeypatch, tmp_path / "home", hub.token)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {"parquet": write_parquet(root / "parquet", (24, 16), 8), "tars": write_tars(root / "tars", (24, 16))}


@pytest.fixture
def pushed(hub, folders):
    """`pushed("parquet")`: the name of a new repository with these files."""

    def push(kind="parquet", **options) -> str:
        api, name = HfApi(endpoint=hub.url, token=hub.token), f"user/{kind}{next(NUMBERS)}"
        api.create_repo(name, repo_type="dataset", **options)
        api.upload_folder(repo_id=name, folder_path=folders[kind], repo_type="dataset")
        return name

    return push


def refused(act, *args, **options) -> str:
    """The error message: one paragraph without the token."""
    with pytest.raises(DataError) as caught:
        act(*args, **options)
    said = str(caught.value)
    assert "\n" not in said and "Traceback" not in said and "hf_user" not in said and CANARY not in said
    return said


def all_end() -> bool:
    """Whether all prefetching threads end within seconds."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("hf_mixup")]
    for thread in ours:
        thread.join(5)
    return not any(thread.is_alive() for thread in ours)


def read(name: str, **options) -> list[int]:
    return labels(loader_of(open_stream(name, **options)))


def test_a_stream_requests_each_byte_range_once(hub, pushed):
    name = pushed()
    data, before = open_stream(name), len(hub.requests)
    assert sorted(labels(loader_of(data))) == list(range(40))
    paths = [request.path for request in hub.requests[before:]]
    assert len([path for path in paths if "/_large/" in path]) in (5, 6)
    # one request per row group, one of which may be split in two; no footer is read again


def test_addresses_are_resolved_and_footers_read_once(hub, pushed):
    name = pushed()
    assert sorted(read(name)) == list(range(40))
    remote_files._addresses.clear()
    for known in (False, True):
        before = len(hub.requests)
        assert sorted(read(name)) == list(range(40))
        paths = [request.path for request in hub.requests[before:]]
        resolved = len([path for path in paths if "/resolve/" in path and "train-" in path])
        assert resolved == 0 if known else 2 <= resolved <= 5  # two files, in five requests at the same time
    assert len([path for path in paths if "/_large/" in path]) in (5, 6)  # of the second pass: no footer


def test_an_expired_address_is_resolved_again(hub, pushed):
    name = pushed()
    assert sorted(read(name)) == list(range(40))
    expired = hub.faults.add(path="^/_large/", status=403)
    before = len(hub.requests)
    assert sorted(read(name)) == list(range(40))
    paths = [request.path for request in hub.requests[before:]]
    assert expired.hits == 1 and any("/resolve/" in path and "train-" in path for path in paths)


def test_both_kinds_of_shards_stream_from_a_hub(pushed):
    assert sorted(read(pushed())) == list(range(40))
    tars = pushed("tars")
    for rows in ([24, 16], "count"):
        assert sorted(read(tars, rows_per_shard=rows, **TARS)) == list(range(40))
    assert sorted(read(tars, num_examples=40, **TARS)) == list(range(40))


TRANSIENT = [
    {"status": 500, "times": 2},
    {"status": 503, "times": 2},
    {"status": 429, "retry_after": 1, "times": 2},
    {"drop": "before"},
    {"drop": 60, "times": 2},
    {"truncate": 60, "times": 2},
    {"slow": 0.2},
]


@pytest.mark.parametrize("kind", ["parquet", "tars"])
def test_transient_errors_while_reading_do_not_change_the_batches(hub, pushed, kind):
    name = pushed(kind)
    data = open_stream(name, **({"rows_per_shard": [24, 16], **TARS} if kind == "tars" else {}))
    wanted = labels(loader_of(data))
    for fault, path in itertools.product(TRANSIENT, ("/resolve/", "^/_large/")):
        if path == "/resolve/" and ("truncate" in fault or fault.get("drop") == 60):
            continue  # a redirect has no body to truncate
        happened = hub.faults.add(method="GET", path=path, **fault)
        remote_files._addresses.clear()
        assert labels(loader_of(data)) == wanted, fault
        assert happened.hits == fault.get("times", 1)


@pytest.mark.parametrize("path", ["/api/datasets/user/[a-z0-9]+$", "/revision/", "/tree/", "/paths-info/", "/_large/"])
def test_transient_errors_while_opening_do_not_change_the_batches(hub, pushed, tmp_path, monkeypatch, path):
    name = pushed()
    wanted = read(name)
    for number, fault in enumerate(({"status": 500}, {"status": 503, "times": 2}, {"drop": "before"})):
        point_to(hub, monkeypatch, tmp_path / f"home{number}", hub.token)
        happened = hub.faults.add(path=path, **fault)
        assert read(name) == wanted
        assert happened.hits or path in ("/tree/", "/revision/")  # datasets caches these responses
        hub.faults.clear()


def test_the_error_names_a_shard_that_cannot_be_read(hub, pushed, monkeypatch):
    monkeypatch.setattr("hf_mixup.data.streaming.remote_files.TRIES", 3)
    data = open_stream(pushed())
    for status, said in ((404, "choose a revision that has the file"), (500, "--resume"), (403, "hf auth login")):
        fault = hub.faults.add(path="/resolve/.*train-00001", status=status, times=None)
        for workers in (0, 2):
            remote_files._addresses.clear()
            message = refused(list, loader_of(data, workers=workers))
            assert (
                f"{data.path}@{data.revision}/train-00001-of-00002.parquet cannot be read" in message
                and said in message
            )
        assert fault.hits >= 6 if status == 500 else fault.hits <= 6  # three unit slices in each pass
        hub.faults.clear()
    assert all_end()


def test_ctrl_c_works_during_a_retry(hub, pushed, monkeypatch):
    data = open_stream(pushed())
    hub.faults.add(path="^/_large/", status=503, times=None)
    monkeypatch.setattr(retry, "WAIT", 60.0)
    monkeypatch.setattr(session, "MAX_WAIT", 60.0)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        list(loader_of(data))
    signal.signal(signal.SIGALRM, before)
    assert all_end()


def test_the_error_names_a_truncated_parquet_file(hub, pushed, folders):
    name, api = pushed(), HfApi(endpoint=hub.url, token=hub.token)
    content = (folders["parquet"] / "train-00001-of-00002.parquet").read_bytes()
    for short in (content[:-9], content[:6], b""):
        api.upload_file(
            repo_id=name, path_or_fileobj=short, path_in_repo="train-00001-of-00002.parquet", repo_type="dataset"
        )
        said = refused(open_stream, name)
        assert "train-00001-of-00002.parquet" in said and "not a complete parquet file" in said


def test_missing_repositories_revisions_and_splits_have_their_own_messages(pushed):
    name = pushed()
    assert "no revision 'v9'" in refused(open_stream, name, revision="v9")
    assert f"no revision '{'0' * 40}'" in refused(open_stream, name, revision="0" * 40)
    said = refused(open_stream, "user/nothing")
    assert "'user/nothing' is neither a local folder nor readable on the Hub" in said and "exist either" not in said
    said = refused(open_stream, "uoft-cs/cifar100")  # a suggested id that this Hub does not have
    assert "Did you mean" not in said
    said = refused(open_stream, name, data_config="large")
    assert "'large' not found" in said and "data_config=" in said
    assert "no split 'trian', only ['test', 'train']. Did you mean 'train'?" in refused(
        open_stream, name, train_split="trian"
    )


@pytest.mark.parametrize("streaming", [True, False])
def test_errors_of_private_and_gated_data_sets_suggest_a_login(hub, pushed, tmp_path, monkeypatch, streaming):
    name = pushed()
    api = HfApi(endpoint=hub.url, token=hub.token)
    bob = hub.add_token("bob")
    api.update_repo_settings(name, gated="manual", repo_type="dataset")
    for token in (None, bob):
        point_to(hub, monkeypatch, tmp_path / "gated", token)
        said = refused(load_data, data=name, streaming=streaming)
        assert "gated" in said and "hf auth login" in said
    api.update_repo_settings(name, gated=False, private=True, repo_type="dataset")
    for token in (None, bob, CANARY):
        point_to(hub, monkeypatch, tmp_path / "private", token)
        assert "hf auth login" in refused(load_data, data=name, streaming=streaming)
    point_to(hub, monkeypatch, tmp_path / "own", hub.token)
    assert load_data(data=name, streaming=streaming).train_rows == 40
    point_to(hub, monkeypatch, tmp_path / "passed", None)
    data = load_data(data=name, streaming=streaming, token=hub.token)
    assert not streaming or sorted(labels(loader_of(data))) == list(range(40))


def test_losing_access_while_reading_is_an_error(hub, pushed, monkeypatch, tmp_path):
    name = pushed()
    data = open_stream(name)
    HfApi(endpoint=hub.url, token=hub.token).update_repo_settings(name, private=True, repo_type="dataset")
    monkeypatch.delenv("HF_TOKEN")
    hub.faults.add(path="^/_large/", status=403, times=None)  # the addresses expire
    said = refused(list, loader_of(data))
    assert "train-0000" in said and "hf auth login" in said


@pytest.mark.parametrize("streaming", [True, False])
def test_permanent_server_errors_suggest_to_try_later(hub, pushed, tmp_path, monkeypatch, streaming):
    name = pushed()
    for path, status in (("/api/datasets", 500), ("/resolve/", 503), ("/_large/", 503), ("/resolve/", 429)):
        point_to(hub, monkeypatch, tmp_path / f"{path[1:4]}{status}", hub.token)
        hub.faults.add(path=path, status=status, times=None)
        said = refused(load_data, data=name, streaming=streaming)
        assert ("cannot be" in said or "could not be" in said) and "again later" in said, said
        hub.faults.clear()


def test_the_evaluation_split_is_stored_once(hub, pushed):
    name = pushed()
    open_stream(name)
    before = len(hub.requests)
    open_stream(name)
    assert not [request.path for request in hub.requests[before:] if "test-0" in request.path]
