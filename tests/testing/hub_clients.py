"""Checks of transformers, timm, datasets and model cards with the Hub at HF_ENDPOINT; prints one JSON mapping.

Run by test_local_hub_clients.py in its own process, since these libraries read HF_ENDPOINT at import.
"""

import json
import sys
import traceback
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import timm
import torch
from huggingface_hub import DatasetCard, HfApi, ModelCard, ModelCardData, create_repo, metadata_update
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig, ViTImageProcessor

torch.set_num_threads(1)
ROWS = 60
# huggingface_hub 1 validates the cards that it pushes at huggingface.co, and uploaded files at HF_ENDPOINT
VALIDATES_AT_ENDPOINT = int(huggingface_hub.__version__.split(".")[0]) >= 2


def images(rows: int = ROWS) -> datasets.Dataset:
    noise = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
    columns = {"image": [Image.fromarray(pixels) for pixels in noise], "label": [row % 3 for row in range(rows)]}
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def labels(split) -> list[int]:
    return [row["label"] for row in split]


def push_card(card, repo: str, repo_type: str = "model"):
    if VALIDATES_AT_ENDPOINT:
        card.push_to_hub(repo)
    else:
        file = str(card).encode()
        HfApi().upload_file(repo_id=repo, repo_type=repo_type, path_or_fileobj=file, path_in_repo="README.md")


def check_model_card():
    create_repo("user/card")
    data = ModelCardData(license="mit", tags=["mixup"], library_name="timm")
    push_card(ModelCard(f"---\n{data.to_yaml()}\n---\n# A card\n"), "user/card")
    assert ModelCard.load("user/card").data.license == "mit"
    if VALIDATES_AT_ENDPOINT:
        metadata_update("user/card", {"pipeline_tag": "image-classification"})
        assert HfApi().model_info("user/card").pipeline_tag == "image-classification"
    assert "mixup" in ModelCard.load("user/card", ignore_metadata_errors=True).data.tags


def check_invalid_card():
    create_repo("user/invalid-card")
    try:
        push_card(ModelCard("---\nlicense: 3\n---\n"), "user/invalid-card")
    except ValueError as error:
        assert "license" in str(error)
    else:
        raise AssertionError("no ValueError")


def check_dataset_card():
    create_repo("user/dataset-card", repo_type="dataset")
    push_card(DatasetCard("---\nlicense: mit\n---\n# Data\n"), "user/dataset-card", "dataset")
    assert DatasetCard.load("user/dataset-card").data.license == "mit"


def check_transformers():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    model = AutoModelForImageClassification.from_config(config).eval()
    model.push_to_hub("user/resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).push_to_hub("user/resnet")
    again = AutoModelForImageClassification.from_pretrained("user/resnet").eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x).logits, again(x).logits)
    assert AutoImageProcessor.from_pretrained("user/resnet").size["height"] == 32


def check_timm():
    shape = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}
    model = timm.create_model("resnet18", num_classes=3, **shape).eval()
    timm.models.push_to_hf_hub(model, "user/timm", model_args=shape)
    again = timm.create_model("hf_hub:user/timm", pretrained=True).eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), again(x))


def check_datasets():
    data = images()
    data.push_to_hub("user/pictures", num_shards=3)
    data.select(range(9)).push_to_hub("user/pictures", split="test")
    loaded = datasets.load_dataset("user/pictures")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": ROWS, "test": 9}
    assert labels(loaded["train"]) == labels(data)
    assert np.array_equal(np.asarray(loaded["train"][5]["image"]), np.asarray(data[5]["image"]))


def check_streaming():
    images().push_to_hub("user/stream", num_shards=2)
    stream = datasets.load_dataset("user/stream", split="train", streaming=True)
    assert labels(stream) == labels(images())


def check_streaming_through_faults():
    """With faults, injected by the test, for the files of this data set: a 429 response and a closed connection."""
    images().push_to_hub("user/faulty", num_shards=2)
    stream = datasets.load_dataset("user/faulty", split="train", streaming=True)
    assert labels(stream) == labels(images())


def check_private_data_of_others():
    for streaming in (False, True):
        try:
            datasets.load_dataset("bob/secret", streaming=streaming)
        except datasets.exceptions.DatasetNotFoundError:
            continue
        raise AssertionError("no DatasetNotFoundError")


def check_gated_data_of_others():
    try:
        datasets.load_dataset("bob/gated")
    except datasets.exceptions.DatasetNotFoundError as error:
        assert "gated" in str(error)
    else:
        raise AssertionError("no DatasetNotFoundError")


def check_a_folder_of_images_as_data():
    create_repo("user/folder", repo_type="dataset")
    place = Path("folder")
    for name in ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        images(1)[0]["image"].save(place / name)
    HfApi().upload_folder(repo_id="user/folder", repo_type="dataset", folder_path=place)
    loaded = datasets.load_dataset("user/folder")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 2, "test": 1}
    assert loaded["train"].features["label"].names == ["cat", "dog"]


def main() -> None:
    results = {}
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                results[name] = "ok"
            except Exception:
                results[name] = traceback.format_exc()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
