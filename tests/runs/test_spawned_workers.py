"""Loader workers that are spawned, as on macOS and with Python 3.14, get everything by pickling."""

import pickle

import pytest
import torch
from fixtures.cli import folder_of, recipe_of
from fixtures.training import native_vit

from hf_mixup.config import parse
from hf_mixup.runs.run import build_trainer, load_run_data

KINDS = {
    "stored": {},
    "transformed": {"random_resized_crop": [0.5, 1.0]},
    "streamed": {"streaming": True},
    "streamed and transformed": {"streaming": True, "randaugment": "rand-m9-mstd0.5-inc1", "image_size": 16},
    "a processor of transformers": {"model": "saved"},
}


@pytest.fixture(params=KINDS)
def trainer(request, tmp_path):
    fields = dict(KINDS[request.param])
    if fields.get("model"):
        native_vit().save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "preprocessor_config.json").write_text(
            '{"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}'
        )
        fields |= {"model": str(tmp_path / "model"), "model_args": {"reset_classifier": True}, "image_size": 16}
    data = "sample" if fields.get("streaming") else folder_of(tmp_path / "data")
    config = parse([str(recipe_of(tmp_path / "recipe.yaml", data, **fields)), "--dataloader_num_workers", "1"])
    return build_trainer(config, load_run_data(config))[0]


def test_data_sets_can_be_pickled(trainer):
    for data in (trainer.train_dataset, trainer.eval_dataset):
        pickle.loads(pickle.dumps(data))


@pytest.mark.parametrize("trainer", ["streamed and transformed", "a processor of transformers"], indirect=True)
def test_a_spawned_worker_yields_the_same_batches(trainer):
    firsts = []
    for context in ("spawn", "fork"):
        loader = trainer.get_train_dataloader()
        loader.multiprocessing_context = context
        firsts.append(next(iter(loader)))
    assert firsts[0].keys() == firsts[1].keys()
    assert all(torch.equal(value, firsts[1][key]) for key, value in firsts[0].items())
