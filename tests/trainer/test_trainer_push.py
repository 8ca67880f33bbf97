"""A user's script with plain TrainingArguments uploads to the Hub during training and by `trainer.push_to_hub()`."""

import pytest
from fixtures.hub import api, hub, logged_in, online  # noqa: F401
from fixtures.training import Rows, alike, timm_resnet
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_mixup import MixupTrainer
from hf_mixup.hub.destination import CHECKPOINTS


@pytest.mark.usefixtures("logged_in")
def test_trainer_push_to_hub_uploads_the_model_without_training_args(tmp_path, hub, api):  # noqa: F811
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    pushing = {"push_to_hub": True, "hub_model_id": "user/script", "hub_token": hub.token}
    args = TrainingArguments(
        str(tmp_path / "run"), **saving, **pushing, use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = MixupTrainer(timm_resnet(), args, train_dataset=Rows(16))
    trainer.train()
    if args.push_to_hub:
        trainer.push_to_hub()
    names = api.list_repo_files("user/script")
    assert {"model.safetensors", "config.json"} <= {*names}
    assert not [name for name in (*names, *api.list_repo_files("user/script", revision=CHECKPOINTS)) if "args" in name]
    assert alike(load_file(api.hf_hub_download("user/script", "model.safetensors")), trainer.model.state_dict())
