"""Model cards: valid, safe for any class and folder names, with results over one or several seeds."""

import json

import pytest
import yaml
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from fixtures.cli import ROOT, picture, recipe_of, record_of, start
from huggingface_hub import ModelCard, ModelCardData, constants, parse_eval_result_entries
from markdown_it import MarkdownIt
from transformers import AutoConfig

from hf_mixup.config import parse
from hf_mixup.errors import CardError
from hf_mixup.hub.markdown import clean, code, escaped
from hf_mixup.publish.export import rewrite_card, shows_images
from hf_mixup.publish.model_card import eval_results, hub_id, recipe

NASTY = [
    "</details><script>alert(1)</script>",
    "| a |",
    "[x](http://evil.example)",
    "--- \nlicense: x\n---\n",
    "\U0001f98a fox",
    "\u202egnp.exe",
    "a\0b",
    "no",
    "null",
    "1e3",
    "```\n# head",
    "<img src=x onerror=y>",
    "&lt;b&gt;",
    "{{ 7 * 7 }}{% raw %}",
    "www.evil.example",
    " padded ",
    "~~x~~ **x** $x$ :x:",
    "\u05e9\u05dc\u05d5\u05dd",
]
FOLDER = "| x | <b> `a` \u202e _c_ {{ 1 }} --- license: x"
KEYS = {"datasets", "library_name", "metrics", "pipeline_tag", "tags", "model-index"}


def named_folder(root, names):
    """A local data set with these class names, two images each."""
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    rows = {
        "image": [picture(i) for i in range(2 * len(names))],
        "label": [i % len(names) for i in range(2 * len(names))],
    }
    for split in ("train", "test"):
        root.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows, features).to_parquet(root / f"{split}.parquet")
    return root


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    """The folder of a run on a data set with malicious class and folder names."""
    root = tmp_path_factory.mktemp("nasty")
    data = named_folder(root / FOLDER, NASTY)
    made = recipe_of(root / "recipe.yaml", data, max_steps=1, hub_picture=True)
    assert start(made, "--output_dir", root / "run") == 0
    return root / "run"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The folder of a run on the sample."""
    root = tmp_path_factory.mktemp("sample")
    made = recipe_of(root / "recipe.yaml", max_steps=1, per_device_train_batch_size=40, method="cutmix")
    assert start(made, "--output_dir", root / "run") == 0
    return root / "run"


def test_class_names_are_stored_unchanged(nasty):
    assert json.loads((nasty / "config.json").read_text())["label_names"] == NASTY
    assert AutoConfig.from_pretrained(nasty).id2label == dict(enumerate(NASTY))


def test_names_cannot_change_the_front_matter(nasty):
    card = ModelCard.load(nasty / "README.md", ignore_metadata_errors=False)
    block = (nasty / "README.md").read_text(encoding="utf-8").split("\n---\n")[0]
    assert yaml.safe_load(block).keys() == KEYS - {"datasets"}
    assert ModelCardData(**yaml.safe_load(block)).to_dict() == card.data.to_dict()
    assert {result.dataset_type for result in card.data.eval_results} == {"imagefolder"}
    [name] = {result.dataset_name for result in card.data.eval_results}
    assert name == "the local data set | x | <b> `a` _c_ {{ 1 }} --- license: x"


def test_names_cannot_add_tags_links_or_tables_to_the_page(nasty):
    text = ModelCard.load(nasty / "README.md").text
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(text)
    inner = [child for token in tokens for child in token.children or []]
    html = {token.content.strip() for token in [*tokens, *inner] if token.type.startswith("html")}
    tags = {line for block in html for line in block.splitlines()}
    ours = ("<summary>The ", "<!-- hf_mixup: ")
    assert {line for line in tags if not line.startswith(ours)} == {"<details>", "</details>"}
    links = [child.attrs["href"] for child in inner if child.type == "link_open"]
    assert links == ["https://arxiv.org/abs/1710.09412"]
    assert [child.attrs["src"] for child in inner if child.type == "image"] == ["mixed.png"]
    assert not [child for child in inner if child.type in ("s_open", "strong_open", "em_open")]
    assert [token.content for token in tokens if token.type == "heading_open"] == [""] * 5
    assert len([token for token in tokens if token.type == "th_open"]) == 6
    shown = "".join(child.content for child in inner)
    assert ", ".join(map(clean, NASTY)) in shown
    assert "http://evil" not in text and "www.evil" not in text  # some renderers turn these into links
    assert not [letter for letter in text if letter in "\u202e\0"]


def test_no_text_closes_its_code_block():
    for text in ("a\n```\nb", "`````", "~~~", ""):
        [token] = MarkdownIt("commonmark").parse(code(text, "yaml"))
        assert token.type == "fence" and token.content.rstrip("\n") == text


def test_clean_text_is_one_short_line_of_visible_letters():
    assert clean("a\u2028b\u200b\ud800c\td") == "a b c d"
    assert len(clean("x" * 999)) == 200 and escaped("a|b") == "a\\|b"


def test_the_hub_accepts_every_card(nasty, sample, api):
    api.create_repo("user/cards")
    for folder in (nasty, sample):  # the client has the Hub validate the metadata before an upload
        api.upload_file(repo_id="user/cards", path_or_fileobj=folder / "README.md", path_in_repo="README.md")


@pytest.mark.parametrize("run", ["nasty", "sample"])
def test_the_recipe_beside_the_card_is_that_of_the_run(run, request):
    folder = request.getfixturevalue(run)
    before = record_of(folder)
    again = parse([str(folder / "recipe.yaml"), "--use_cpu"])
    assert again.recipe_dict() == before["recipe"]
    if run == "sample":
        assert again.recipe_hash() == before["recipe_hash"]
    assert recipe(before) in (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_names_its_repository_if_known(sample):
    before = (sample / "README.md").read_text()
    rewrite_card(sample, "user/run", revision="v1")
    text = (sample / "README.md").read_text()
    assert 'model="user/run", revision="v1")' in text and "hf_hub:user/run@v1" in text
    rewrite_card(sample)
    assert (sample / "README.md").read_text() == before


def like(run: dict, seed: int, top1: float) -> dict:
    """A run of the same recipe with another seed."""
    final = run["final"] | {"top1": top1}
    return run | {"seed": seed, "recipe": run["recipe"] | {"seed": seed}, "final": final}


def test_several_seeds_have_a_mean_and_a_spread(sample, tmp_path):
    run = record_of(sample)
    second = tmp_path / "second"
    second.mkdir()
    (second / "run.json").write_text(json.dumps(like(run, 7, run["final"]["top1"] + 0.2)))
    rewrite_card(sample, others=[second, like(run, 3, run["final"]["top1"] + 0.1)])
    text = (sample / "README.md").read_text()
    rewrite_card(sample)
    top1 = run["final"]["top1"]
    for first, value in (("0", top1), ("3", top1 + 0.1), ("7", top1 + 0.2), ("mean", top1 + 0.1), ("std", 0.1)):
        assert f"| {first} | test | 500 | {value:.4f} |" in text
    assert "3 runs that differ only in their seed; std divides by 2." in text
    single = "the spread over seeds is not known"
    assert single not in text and single in (sample / "README.md").read_text()
    assert ModelCard(text).data.eval_results[0].metric_value == round(top1, 6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recipe": {"seed": 1, "method": "mixup"}}, "not of the same recipe.*method"),
        ({"seed": 0}, "two runs with seed 0"),
        ({"status": "running"}, "not finished"),
        ({"data": {"path": "sample", "revision": "other"}}, "data revision"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_refused(sample, change, message):
    run = record_of(sample)
    other = like(run, 1, 0.5)
    other |= {key: other[key] | value if isinstance(value, dict) else value for key, value in change.items()}
    before = (sample / "README.md").read_text()
    with pytest.raises(CardError, match=message):
        rewrite_card(sample, others=[other])
    assert (sample / "README.md").read_text() == before


def test_a_folder_without_a_finished_run_has_no_card(tmp_path):
    with pytest.raises(CardError, match="is not the folder of a finished run"):
        rewrite_card(tmp_path)


def test_results_on_data_of_the_hub_have_an_eval_results_file(sample):
    run = record_of(sample)
    assert eval_results(run) is None and not (sample / ".eval_results").exists()
    run["data"] |= {"path": "user/pics", "config": None, "revision": "a" * 40}
    [entry] = parse_eval_result_entries(yaml.safe_load(eval_results(run)))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("user/pics", "default", "a" * 40)
    assert entry.value == round(run["final"]["top1"], 6) and "split test, seed 0" in entry.notes


def test_paths_that_are_not_repositories_have_no_hub_id():
    for path in ("./pics", "/pics", "~/pics", "a/b/c", "my pics", "a--b/..", ""):
        assert hub_id(path) is None


def test_by_default_only_public_images_are_shown(api, here):
    for name, settings in (("open", {}), ("secret", {"private": True}), ("gated", {"gated": "manual"})):
        api.create_repo(f"user/{name}", repo_type="dataset")
        if settings:
            api.update_repo_settings(f"user/{name}", repo_type="dataset", **settings)
    assert shows_images(None, "sample") and shows_images(None, "user/open") and shows_images(True, "./pics")
    for path in ("./pics", "user/secret", "user/gated", "user/missing"):
        assert not shows_images(None, path)
    assert not shows_images(False, "sample")


def test_no_images_are_shown_without_a_connection(here, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not shows_images(None, "user/open")


@pytest.mark.parametrize("fields", [{"streaming": True}, {"random_resized_crop": [0.5, 1.0]}, {"hub_picture": False}])
def test_streams_and_random_crops_have_a_picture(fields, tmp_path):
    made = recipe_of(tmp_path / "recipe.yaml", max_steps=1, **fields)
    assert start(made, "--output_dir", tmp_path / "run") == 0
    shown = "hub_picture" not in fields
    assert (tmp_path / "run" / "mixed.png").is_file() == shown
    assert ("mixed.png" in (tmp_path / "run" / "README.md").read_text()) == shown


def test_hub_picture_does_not_change_the_recipe_hash(sample, nasty):
    assert (sample / "mixed.png").is_file() and (nasty / "mixed.png").is_file()
    argv = [str(ROOT / "recipes" / "quickstart.yaml"), "--use_cpu"]
    assert parse([*argv, "--hub_picture", "false"]).recipe_hash() == parse(argv).recipe_hash()
