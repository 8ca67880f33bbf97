"""hf-mixup reshard: a shuffled copy of a data set in a folder."""

import datasets
import pytest
from fixtures.cli import folder_of
from fixtures.streams import write_parquet

from hf_mixup.cli.main import main
from hf_mixup.data import load_data
from hf_mixup.publish import reshard


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(data: str, split: str) -> list[tuple[int, bytes]]:
    found = load_data(data=data) if split == "train" else load_data(data=data, eval_split=split)
    column = (found.train if split == "train" else found.eval).cast_column("image", datasets.Image(decode=False))
    return [(row["label"], row["image"]["bytes"]) for row in column]


def test_a_copy_has_the_same_rows_in_another_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reshard, "FILE_BYTES", 2000)
    monkeypatch.setattr(reshard, "GROUP_BYTES", 700)
    data = str(write_parquet(tmp_path / "data", (60,), 20))
    copies = [str(tmp_path / name) for name in ("one", "two", "three")]
    for copy, seed in zip(copies, "001"):
        assert main(["reshard", data, "--out", copy, "--seed", seed]) == 0
    assert f"--data {copies[0]} --streaming true" in capsys.readouterr().out
    one, two, three = (rows(copy, "train") for copy in copies)
    assert one == two != three and one != rows(data, "train")
    assert sorted(one) == sorted(three) == sorted(rows(data, "train"))
    assert rows(copies[0], "test") == rows(data, "test")
    stream = load_data(data=copies[0], streaming=True).train
    assert len({unit.file for unit in stream.units}) >= 3 and max(unit.rows for unit in stream.units) <= 10


def test_image_files_are_embedded(tmp_path):
    data = folder_of(tmp_path / "data")
    assert main(["reshard", str(data), "--out", str(tmp_path / "copy")]) == 0
    original, copied = load_data(data=str(data)), load_data(data=str(tmp_path / "copy"))
    assert copied.classes == original.classes and copied.splits == original.splits
    assert all(content for _, content in rows(str(tmp_path / "copy"), "train"))


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "Give --out FOLDER or --repo NAME"),
        (["--out", "x", "--repo", "y"], "Give --out FOLDER or --repo NAME"),
        (["--out", "x", "--splits", "trian"], "has no split 'trian'. Did you mean 'train'?"),
        (["--out", "."], "is not an empty folder"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["reshard", "sample", *words]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
