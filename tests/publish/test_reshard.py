"""A shuffled copy of a data set on the Hub."""

from fixtures.streams import point_to, write_parquet
from huggingface_hub import HfApi

from hf_mixup.cli.main import main
from hf_mixup.data import load_data


def labels(data: str) -> list[int]:
    return load_data(data=data).train["label"][:]


def test_a_copy_is_pushed_to_a_new_repository(tmp_path, hub, monkeypatch, online, capsys):
    point_to(hub, monkeypatch, tmp_path / "home", hub.token)
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("user/sorted", repo_type="dataset")
    folder = write_parquet(tmp_path / "data", (30,), 10)
    api.upload_folder(repo_id="user/sorted", folder_path=folder, repo_type="dataset")
    words = ["reshard", "user/sorted", "--repo", "user/mixed", "--private"]
    assert main(words) == 0
    assert f"{hub.url}/datasets/user/mixed" in capsys.readouterr().out
    assert api.repo_info("user/mixed", repo_type="dataset").private
    assert sorted(labels("user/mixed")) == labels("user/sorted") != labels("user/mixed")
    assert main(words) == 2
    assert "The data set 'user/mixed' exists: choose another name" in capsys.readouterr().err
