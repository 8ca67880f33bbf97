"""`hf-mixup push` keeps the card that a person wrote, in the folder or in the repository, around our section."""

import re

import pytest
from fixtures.cli import folder_of, recipe_of, start
from huggingface_hub import ModelCard

from hf_mixup.cli.push import main as push
from hf_mixup.hub.card_section import CARD, END

PERSON = "---\nlicense: mit\ntags:\n- flowers\nlibrary_name: keras\n---\n\n# Flowers\n\nTaken in 2020.\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of a recipe and its finished run, `run`."""
    root = tmp_path_factory.mktemp("card")
    recipe_of(root / "recipe.yaml", folder_of(root / "data"), max_steps=1, save_strategy="no")
    assert start(root / "recipe.yaml", "--output_dir", root / "run") == 0
    return root


def on_hub(api, repo, revision=None) -> ModelCard:
    return ModelCard(open(api.hf_hub_download(repo, CARD, revision=revision)).read())


@pytest.mark.parametrize("place", ["folder", "hub", "branch", "both"])
def test_a_persons_card_is_kept_at_each_push(place, root, here, api):
    repo, branch = f"user/{place}", ["--revision", "other"] if place == "branch" else []
    revision = branch[1] if branch else None
    ours = (root / "run" / CARD).read_text()
    if place in ("folder", "both"):
        (root / "run" / CARD).write_text(PERSON)
    if place != "folder":
        api.create_repo(repo)
        if revision:
            api.create_branch(repo, branch=revision)
        text = PERSON.replace("2020", "2019") if place == "both" else PERSON
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=CARD, repo_id=repo, revision=revision)
    for _ in range(2):
        assert push([str(root / "run"), "--repo", repo, *branch]) == 0
        card = on_hub(api, repo, revision)
        assert card.text.lstrip().startswith("# Flowers\n\nTaken in 2020.") and card.text.count(END) == 1
        assert card.text.count("## Training") == 1 and ("2019" in card.text) == (place == "both")
        assert card.data.license == "mit" and card.data.library_name == "keras"
        assert {"flowers", "mixup", "hf_mixup"} <= {*card.data.tags} and card.data.eval_results
    (root / "run" / CARD).write_text(ours)


def test_what_a_person_changes_on_the_hub_after_a_push_is_kept(root, here, api):
    assert push([str(root / "run"), "--repo", "user/changed"]) == 0
    text = on_hub(api, "user/changed").content + "\nSee also another model.\n"
    text = text.replace("---\n", "---\nlicense: mit\n", 1)
    api.upload_file(path_or_fileobj=text.encode(), path_in_repo=CARD, repo_id="user/changed")
    assert push([str(root / "run"), "--repo", "user/changed"]) == 0
    card = on_hub(api, "user/changed")
    assert card.text.rstrip().endswith("See also another model.") and card.data.license == "mit"


def test_a_card_in_the_output_folder_is_kept_by_training(tmp_path, root):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CARD).write_bytes(b"# Caf\xe9\n")  # not UTF-8
    assert start(root / "recipe.yaml", "--output_dir", tmp_path / "run") == 0
    text = (tmp_path / "run" / CARD).read_text()
    assert "# Caf\u00e9\n" in text and text.count(END) == 1


def test_a_card_of_the_first_version_is_replaced_and_what_is_around_it_is_kept(root, here, api):
    ours = (root / "run" / CARD).read_text()
    unmarked = re.sub(r"<!-- hf_mixup:[^>]*-->\n+", "", ours)
    assert "<!--" not in unmarked
    (root / "run" / CARD).write_text(unmarked + "\nA line below.\n")
    assert push([str(root / "run"), "--repo", "user/first"]) == 0
    text = on_hub(api, "user/first").text
    assert text.count("The complete recipe") == 1 and text.rstrip().endswith("A line below.")
    (root / "run" / CARD).write_text(ours)


def test_a_card_that_cannot_be_read_is_an_error_of_one_paragraph(root, here, capfd):
    ours = (root / "run" / CARD).read_text()
    (root / "run" / CARD).unlink()
    (root / "run" / CARD).mkdir()
    assert push([str(root / "run"), "--repo", "user/unreadable"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    (root / "run" / CARD).rmdir()
    (root / "run" / CARD).write_text(ours)
