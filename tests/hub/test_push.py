"""A run pushed to a Hub and loaded from there, over HTTP and with the real clients."""

import json

import pytest
from cli import command, folder_of, hub_environment, python, recipe_of, record_of
from huggingface_hub import HfApi, constants

from hf_mixup.testing import LocalHub

LOAD = """
import json, sys
from PIL import Image
from transformers import pipeline
classify = pipeline("image-classification", model="user/run")
print(json.dumps(classify(Image.open(sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """The hub, the folder of a run that was pushed to it as user/run, and what the run printed."""
    root = tmp_path_factory.mktemp("push")
    recipe = recipe_of(root / "recipe.yaml", folder_of(root / "data"), method="automix", max_steps=2)
    with LocalHub(root / "hub") as hub:
        environment = hub_environment(hub, root / "home")
        words = ("--output_dir", root / "run", "--push_to_hub", "--hub_model_id", "user/run")
        process = command(recipe, *words, environment=environment)
        output, said = process.communicate()
        assert process.returncode == 0, said
        yield hub, root, environment, output + said


def test_the_repository_holds_the_run_and_no_checkpoint(pushed, monkeypatch):
    hub, *_ = pushed
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = set(HfApi(endpoint=hub.url, token=hub.token).list_repo_files("user/run"))
    assert files >= {"README.md", "config.json", "model.safetensors", "method.safetensors", "run.json"}
    assert not [name for name in files if name.startswith("checkpoint")]


def test_the_address_is_printed_and_the_token_is_not(pushed):
    hub, _, _, output = pushed
    assert f"{hub.url}/user/run" in output
    assert hub.token not in output


def test_a_pipeline_loads_it_by_its_name_alone(pushed):
    _, root, environment, _ = pushed
    picture = root / "data" / "test" / "cat" / "0.png"
    process = python("-c", LOAD, picture, environment=environment)
    output, said = process.communicate()
    assert process.returncode == 0, said
    answers = json.loads(output.splitlines()[-1])
    assert {answer["label"] for answer in answers} == {"cat", "dog"}
    assert record_of(root / "run")["status"] == "finished"
