"""Cells and cards that name files: only those of the data set are read; images in base64 are decoded."""

import base64
import io
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures.cli import recipe_of, start
from fixtures.streams import loader_of
from PIL import Image

from hf_mixup.data import DataError, Images, load_data
from hf_mixup.data.image_paths import ImageDecodeError, is_inside, read_image_file
from hf_mixup.publish.reshard import shuffled_copy

STREAMING = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(grey=7):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, "PNG")
    return buffer.getvalue()


def write(root, images, dtype=None):
    """A training split whose image column holds these cells, and an evaluation split of two images."""
    root.mkdir(exist_ok=True)
    good = base64.b64encode(png()).decode() if isinstance(images[0], str) else png()
    for split, column in (("train", pa.array(images, dtype)), ("test", pa.array([good] * 2))):
        pq.write_table(pa.table({"image": column, "label": [0, 1] * (len(column) // 2)}), root / f"{split}.parquet")
    return root


def values(root, streaming, **options):
    """The grey levels of the training images."""
    data = load_data(data=str(root), streaming=streaming, **options)
    if streaming:
        return [
            int(image.max()) for batch in loader_of(data, size=2, home=data.home) for image in batch["pixel_values"]
        ]
    images = Images(data.train, "image", "label", 4, home=data.home)
    return [int(images[row]["pixel_values"].max()) for row in range(len(images))]


@pytest.fixture
def server():
    """A web server on this machine and the paths that were requested."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(png(9))))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else png(9))

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()


OUTSIDE = [
    "{root}/secret.png",
    "../secret.png",
    "in/../../secret.png",
    "file:{root}/secret.png",
    "file://{root}/secret.png",
    "{root}/secret.png::{root}/data/x.zip",
    "zip://a.png::{root}/secret.zip",
    "{url}/x.png",
    "zip://a.png::{url}/x.zip",
    "hf://datasets/other/private/x.png",
]


@STREAMING
@pytest.mark.parametrize("path", OUTSIDE)
def test_local_cells_may_not_name_other_files_and_urls(tmp_path, server, streaming, path):
    url, requests = server
    (tmp_path / "secret.png").write_bytes(png(9))
    path = path.format(root=tmp_path, url=url)
    root = write(tmp_path / "data", [path] * 2)
    with pytest.raises(DataError) as caught:
        values(root, streaming)
    assert path[-40:] in str(caught.value) and "--allow_outside_files true" in str(caught.value)
    assert not requests


@STREAMING
def test_allow_outside_files_reads_them(tmp_path, server, streaming):
    (tmp_path / "secret.png").write_bytes(png(8))
    root = write(tmp_path / "data", [str(tmp_path / "secret.png"), f"{server[0]}/x.png"])
    assert sorted(values(root, streaming, allow_outside_files=True)) == [8, 9]


@STREAMING
def test_relative_paths_and_links_in_the_folder_are_its_files(tmp_path, streaming):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(png(11))
    root = write(tmp_path / "data", ["images/0.png", "linked/1.png"])
    for more in ("validation-0", "validation-1"):  # most files are parquet files
        (root / f"{more}.parquet").write_bytes((root / "test.parquet").read_bytes())
    (root / "images").mkdir()
    (root / "images" / "0.png").write_bytes(png(10))
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    assert sorted(values(root, streaming)) == [10, 11]


@STREAMING
def test_bytes_are_not_replaced_by_a_file_with_the_same_name(tmp_path, monkeypatch, streaming):
    root = tmp_path / "data"
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    write(root, [{"bytes": png(5), "path": "0.png"}] * 2, cell)
    (root / "0.png").write_bytes(png(200))
    (root / "test.parquet").write_bytes((root / "train.parquet").read_bytes())
    monkeypatch.chdir(root)
    data = load_data(data=str(root), streaming=streaming)
    assert Images(data.eval, "image", "label", 4, home=data.home)[0]["pixel_values"].max() == 5


@pytest.mark.parametrize("file_name", ["../../secret.png", "{root}/secret.png"])
@STREAMING
def test_metadata_files_may_not_name_other_files(tmp_path, file_name, streaming):
    (tmp_path / "secret.png").write_bytes(png(9))
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "0.png").write_bytes(png())
        lines = ["file_name,label", "0.png,a", f"{file_name.format(root=tmp_path)},b"]
        (tmp_path / "data" / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="secret.png"):
        data = load_data(data=str(tmp_path / "data"), streaming=streaming, num_examples=2 if streaming else None)
        Images(data.eval, "image", "label", 4, home=data.home).load()


PATTERNS = ["{url}/x.parquet", "hf://datasets/other/private/*.parquet", "/etc/*", "../other/*.parquet"]


@pytest.mark.parametrize("pattern", PATTERNS)
@STREAMING
def test_the_card_of_a_folder_may_not_name_other_files(tmp_path, server, pattern, streaming):
    url, requests = server
    root = write(tmp_path / "data", [png()] * 2)
    write(tmp_path / "other", [png()] * 2)
    files = f"- split: train\n    path: '{pattern.format(url=url)}'\n  - split: test\n    path: test.parquet"
    card = f"---\nhomepage: https://a.example\nconfigs:\n- config_name: default\n  data_files:\n  {files}\n---\n"
    (root / "README.md").write_text(card)
    with pytest.raises(DataError, match=r"README.md holds the path .*allow_outside_files"):
        load_data(data=str(root), streaming=streaming)
    assert not requests
    if pattern.startswith(".."):
        assert len(load_data(data=str(root), allow_outside_files=True).train) == 4


def test_a_card_that_names_files_of_its_folder_loads_also_through_a_link(tmp_path):
    root = write(tmp_path / "data", [png()] * 2)
    configs = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: tr*.parquet\n"
    (root / "README.md").write_text(f"---\n{configs}  - split: test\n    path: test.parquet\n---\n")
    (tmp_path / "link").symlink_to(root)
    assert len(load_data(data=str(tmp_path / "link")).train) == 2


@pytest.mark.parametrize(
    "path, inside",
    [
        ("hf://datasets/a/b@1/x.png", True),
        ("zip://x.png::hf://datasets/a/b@1/x.zip", True),
        ("hf://datasets/a/b@1/../../c/x.png", False),
        ("/etc/passwd::hf://datasets/a/b@1/x.zip", False),
        ("file:///etc/passwd::hf://datasets/a/b@1/x.zip", False),
        ("hf://datasets/a/c@1/x.png", False),
    ],
)
def test_paths_of_a_hub_data_set(path, inside):
    assert is_inside(path, "hf://datasets/a/b@1/") is inside


def test_a_shuffled_copy_does_not_hold_other_files(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    cell = {"bytes": None, "path": str(tmp_path / "secret.png")}
    features = datasets.Features({"image": datasets.Image(), "more": datasets.List(datasets.Image())})
    good = {"bytes": png(), "path": None}
    for name, row in (("image", {"image": cell, "more": [good]}), ("more", {"image": good, "more": [good, cell]})):
        root = tmp_path / name
        root.mkdir()
        datasets.Dataset.from_list([row], features=features).to_parquet(tmp_path / "embedded.parquet")
        plain = datasets.Features({"image": features["image"].pa_type and PLAIN, "more": datasets.List(PLAIN)})
        datasets.Dataset.from_list([row], features=plain).to_parquet(root / "train.parquet")
        table = pq.read_table(root / "train.parquet")
        schema = table.schema.with_metadata(pq.read_schema(tmp_path / "embedded.parquet").metadata)
        pq.write_table(table.cast(schema), root / "train.parquet")
        with pytest.raises(DataError, match="A cell holds the path .*secret.png"):
            shuffled_copy(str(root))


PLAIN = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def test_a_recipe_of_a_downloaded_run_may_not_allow_other_files(tmp_path, capsys):
    recipe = recipe_of(tmp_path / "recipe.yaml", allow_outside_files=True)
    (tmp_path / "run.json").write_text("{}")
    assert start(recipe, "--output_dir", tmp_path / "out") == 2
    assert "pass --allow_outside_files true on the command line" in capsys.readouterr().err


@STREAMING
def test_images_in_base64_are_decoded(tmp_path, streaming):
    text = base64.b64encode(png(6)).decode()
    folded = base64.encodebytes(png(6)).decode()
    cells = [text, f"data:image/png;base64,{text}", folded, text]
    assert values(write(tmp_path / "text", cells), streaming) == [6] * 4
    assert values(write(tmp_path / "bytes", [cell.encode() for cell in cells]), streaming) == [6] * 4


def test_damaged_base64_and_missing_files_are_one_short_paragraph(tmp_path):
    text = base64.b64encode(png(6) * 90).decode()
    with pytest.raises(ImageDecodeError, match="base64 that is damaged"):
        read_image_file(text[:-3])
    for path in (f"{text[2:]}", "x\0y.png", "nothing.png", "."):
        with pytest.raises(ImageDecodeError) as caught:
            read_image_file(path, str(tmp_path))
        assert len(str(caught.value)) < 400
