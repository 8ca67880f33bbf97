"""The model card of a user's script: ours, with upstream's arguments; what a person wrote in it is kept."""

import pytest
from fixtures.hub import api, hub, logged_in, online  # noqa: F401
from fixtures.training import Rows, native_vit, timm_resnet
from huggingface_hub import ModelCard
from torch import nn
from transformers import TrainingArguments

from hf_mixup import MixupTrainer
from hf_mixup.hub.card_section import CARD

PERSON = "---\nlicense: mit\ntags:\n- flowers\n---\n\n# Flowers\n\nTaken in 2020.\n"


def trainer_of(folder, model=None, method="cutmix", **changes) -> MixupTrainer:
    usual = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", "report_to": "none"}
    args = TrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, **usual | changes)
    model = timm_resnet() if model is None else model
    return MixupTrainer(model, args, train_dataset=Rows(16), eval_dataset=Rows(8), method=method)


def test_the_card_has_the_method_its_arguments_paper_tags_and_results(tmp_path):
    trainer = trainer_of(tmp_path, method={"name": "cutmix", "alpha": 0.25})
    trainer.train()
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.pipeline_tag == "image-classification"
    assert {"mixup", "cutmix", "hf_mixup", "generated_from_trainer"} <= {*card.data.tags}
    for text in ("method `cutmix`", '"alpha": 0.25', "arxiv.org/abs/1905.04899", "| loss |", "seed: 42"):
        assert text in card.text
    assert "More information needed" not in card.text


ARGUMENTS = {
    "language": "en",
    "license": "apache-2.0",
    "tags": "birds",
    "finetuned_from": "google/vit-base-patch16-224",
    "tasks": "image-classification",
    "dataset_tags": "user/birds",
    "dataset": "Birds",
    "dataset_args": "small",
}


def test_the_arguments_of_upstream_are_honoured(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, native_vit())
    trainer.create_model_card(model_name="My birds", **ARGUMENTS)
    card = ModelCard.load(tmp_path / CARD)
    values = card.data.to_dict()
    assert values["license"] == "apache-2.0" and values["base_model"] == "google/vit-base-patch16-224"
    assert "en" in values["language"] and values["datasets"] == ["user/birds"] and "birds" in values["tags"]
    assert "# My birds" in card.text and "on Birds, fine-tuned from" in card.text


def test_a_network_without_configuration_and_a_method_of_a_local_teacher_have_a_card(tmp_path):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    trainer_of(tmp_path, network).create_model_card(tags=["a"])
    text = (tmp_path / CARD).read_text()
    assert "library_name: hf_mixup" in text and "The model was not evaluated." in text


def test_a_card_in_the_folder_is_kept_and_ours_is_not_duplicated(tmp_path):
    (tmp_path / CARD).write_text(PERSON)
    trainer = trainer_of(tmp_path)
    for _ in range(2):
        trainer.create_model_card(license="apache-2.0")
    card = ModelCard.load(tmp_path / CARD)
    assert card.text.lstrip().startswith("# Flowers\n\nTaken in 2020.") and card.text.count("## Method") == 1
    assert card.data.license == "mit" and {"flowers", "cutmix"} <= {*card.data.tags}


def test_the_record_of_the_run_in_the_folder_is_named_and_a_damaged_one_is_not(tmp_path):
    trainer = trainer_of(tmp_path)
    for record, named in (('{"recipe_hash": "0123456789abcdef"}', True), ("{", False), ("", False)):
        (tmp_path / "run.json").write_text(record)
        trainer.create_model_card()
        assert ("0123456789abcdef" in (tmp_path / CARD).read_text()) == named


@pytest.mark.usefixtures("logged_in")
@pytest.mark.parametrize("place", ["main", "branch"])
def test_a_card_on_the_hub_is_kept_by_push_to_hub(place, tmp_path, hub, api):  # noqa: F811
    repo, revision = f"user/{place}", None if place == "main" else "other"
    api.create_repo(repo)
    if revision:
        api.create_branch(repo, branch=revision)
    api.upload_file(path_or_fileobj=PERSON.encode(), path_in_repo=CARD, repo_id=repo, revision=revision)
    pushing = {"push_to_hub": True, "hub_model_id": repo, "hub_token": hub.token, "hub_revision": revision}
    trainer = trainer_of(tmp_path / "run", save_strategy="steps", save_steps=1, **pushing)
    trainer.train()
    for message in ("First", "Second"):
        trainer.push_to_hub(commit_message=message, language="en", model_name="Birds", tags="birds")
        card = ModelCard(open(api.hf_hub_download(repo, CARD, revision=revision)).read())
        assert "Taken in 2020." in card.text and "# Birds" in card.text and card.text.count("## Method") == 1
        assert card.data.license == "mit" and {"flowers", "birds", "cutmix"} <= {*card.data.tags}
    titles = [entry.title for entry in api.list_repo_commits(repo, revision=revision)]
    assert "First" in titles
    if place == "main":  # the branch of checkpoints starts from main, with the card of a person
        assert CARD in api.list_repo_files(repo, revision="checkpoints")


@pytest.mark.usefixtures("logged_in")
def test_push_to_hub_creates_the_repository_if_the_arguments_do_not_push(tmp_path, api):  # noqa: F811
    trainer_of(tmp_path / "late").push_to_hub("Late")
    assert "## Method" in open(api.hf_hub_download("user/late", CARD)).read()
