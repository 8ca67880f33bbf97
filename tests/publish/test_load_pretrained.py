"""Load pushed runs over HTTP, continue training from them, and refuse invalid repositories with a message."""

import json
import re
import shutil

import pytest
import torch
from fixtures.cli import folder_of, recipe_of, record_of, start
from fixtures.training import Rows, native_resnet, native_vit
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, TrainingArguments, ViTConfig, ViTImageProcessor

import hf_mixup
from hf_mixup.errors import ModelError
from hf_mixup.hub.download import fetch, origin
from hf_mixup.models import build_model, save_published

SIZE = {"image_size": 16}
SHAPE = ("--model_args", "{}")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture(scope="module")
def data(root):
    return folder_of(root / "data")


@pytest.fixture(scope="module")
def pushed(hub, root, data):
    """The folder of an AutoMix run, also pushed to the repository user/run."""
    recipe = recipe_of(root / "recipe.yaml", data, method="automix", max_steps=2)
    assert start(recipe, "--output_dir", root / "run") == 0
    send(hub, "user/run", root / "run")
    return root / "run"


def send(hub, repo, folder, **settings):
    """Create a repository with the files of a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns="checkpoint-*")
        if settings:
            api.update_repo_settings(repo, **settings)


def changed(pushed, folder, **files):
    """A copy of the published run with other contents of these files; None deletes a file."""
    shutil.copytree(pushed, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    for name, content in files.items():
        file = folder / {"run": "run.json", "config": "config.json", "method": "method.safetensors"}[name]
        if name == "config" and content is not None:
            content = json.loads(file.read_text()) | content
        file.unlink()
        if content is not None:
            file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(folder)


def same(model, other) -> bool:
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def test_a_pushed_run_is_loaded_with_its_generator(pushed, here, tmp_path):
    model, processor, method = hf_mixup.load_pretrained("user/run")
    assert method.name == "automix" and method.loaded
    saved = load_file(pushed / "method.safetensors")
    assert any(name.startswith("generator.") for name in saved)
    assert all(torch.equal(value, saved[name]) for name, value in method.state_dict().items())
    assert same(model, hf_mixup.load_pretrained(str(pushed))[0])
    assert processor(torch.zeros(3, 40, 40), return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 16)
    mixed, mix = method.train().mix(hf_mixup.Net(model), torch.randn(4, 3, 16, 16), torch.eye(4, 2), torch.Generator())
    assert mix.mask.shape == (4, 1, 16, 16)


def test_only_the_files_that_are_read_are_downloaded(pushed, here):
    before = len(here.requests)
    hf_mixup.load_pretrained("user/run")
    paths = [request.path for request in here.requests[before:]]
    got = {path.rsplit("/", 1)[1] for path in paths if "/resolve/" in path}
    assert {"config.json", "model.safetensors", "method.safetensors", "run.json"} == got


def test_a_revision_has_the_weights_of_its_time(pushed, here, api, tmp_path):
    before = api.model_info("user/run").sha
    weights = load_file(pushed / "model.safetensors")
    later = tmp_path / "model.safetensors"
    save_file({name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}, later)
    now = api.upload_file(path_or_fileobj=later, path_in_repo="model.safetensors", repo_id="user/run", revision="main")
    try:
        old, new = (hf_mixup.load_pretrained("user/run", revision=revision)[0] for revision in (before, now.oid))
        assert same(old, hf_mixup.load_pretrained(str(pushed))[0]) and not same(old, new)
    finally:
        send(here, "user/run", pushed)


def test_transient_errors_are_retried(pushed, here, monkeypatch):
    monkeypatch.setattr("hf_mixup.hub.retry.WAIT", 0.01)
    for status in (500, 503):
        here.faults.add(path="/api/models/user/run", status=status)
    here.faults.add(method="GET", path="/resolve/.*config.json", drop="before")
    assert hf_mixup.load_pretrained("user/run")[2].name == "automix"
    assert all(fault.hits for fault in here.faults)


def test_each_error_of_the_hub_has_a_message_with_what_to_do(pushed, here, monkeypatch):
    send(here, "user/secret", pushed, private=True)
    send(here, "user/gated", pushed, gated="manual")
    for repo, revision, message in (
        ("user/nothing", None, "no such model repository.*Check the name.*hf auth login"),
        ("user/run", "v9", "no revision 'v9'"),
        ("user/bad--name..", None, "is not a valid repository name"),
    ):
        with pytest.raises(ModelError, match=message):
            hf_mixup.load_pretrained(repo, revision)
    monkeypatch.setenv("HF_TOKEN", here.add_token("bob"))
    with pytest.raises(ModelError, match="'user/gated' is gated: request access"):
        hf_mixup.load_pretrained("user/gated")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "nowhere")
    with pytest.raises(ModelError, match="if it is private, log in"):
        hf_mixup.load_pretrained("user/secret")
    with pytest.raises(ModelError, match="HF_TOKEN") as error:
        hf_mixup.load_pretrained("user/gated")
    assert here.token not in str(error.value)


def test_without_a_connection_the_cached_files_are_used(pushed, here, monkeypatch):
    hf_mixup.load_pretrained("user/run")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hf_mixup.load_pretrained("user/run")[2].name == "automix"
    with pytest.raises(ModelError, match="'user/other'.*not in the local cache and offline mode is on"):
        hf_mixup.load_pretrained("user/other")


def test_a_folder_takes_precedence_over_a_repository_of_the_same_name(pushed, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = build_model("resnet18", classes=["a", "b"], **SIZE, model_args={"layers": [1] * 4, "channels": [8] * 4})
    save_published(*other, tmp_path / "user" / "run")
    before = len(here.requests)
    model, _, method = hf_mixup.load_pretrained("user/run")
    assert method is None and model.config.id2label[0] == "a" and len(here.requests) == before
    with pytest.raises(ModelError, match="is a local folder and has no revisions"):
        hf_mixup.load_pretrained("user/run", revision="main")
    with pytest.raises(ModelError, match="no folder './user/rum'. Did you mean 'user/run'"):
        hf_mixup.load_pretrained("./user/rum")
    with pytest.raises(ModelError, match="no folder 'run'"):
        hf_mixup.load_pretrained("run")


def test_models_of_others_have_no_method(here, tmp_path):
    for number, model in enumerate((native_resnet(), native_vit())):
        model.save_pretrained(tmp_path / str(number))
        (tmp_path / str(number) / "run.json").write_text('{"run": 7}')
        send(here, f"user/stock{number}", tmp_path / str(number))
        with pytest.raises(ModelError, match="preprocessor_config.json"):
            hf_mixup.load_pretrained(f"user/stock{number}")
        pixels = {"mean": [0.5] * 3, "std": [0.5] * 3}
        loaded, _ = build_model(f"user/stock{number}", classes=list("abcde"), **SIZE, **pixels)
        assert same(loaded, model)
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / str(number))
        send(here, f"user/stock{number}", tmp_path / str(number))
        loaded, processor, method = hf_mixup.load_pretrained(f"user/stock{number}")
        assert same(loaded, model) and processor.size["height"] == 16 and method is None


def nested(depth):
    """Arguments of nested `choice` methods."""
    return {"methods": [{"name": "choice", **nested(depth - 1)}]} if depth else {"methods": ["mixup"]}


RUN = {"schema_version": 1, "recipe_hash": "0" * 16}


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("method", None, "method.safetensors of .* is missing: download it again"),
        ("method", b"\x10\0\0\0\0\0\0\0{}", "method.safetensors of .* is damaged"),
        ("run", b"{", "run.json of .* is damaged"),
        ("run", b"[" * 99999, "run.json of .* is damaged"),
        ("run", b" " * (2**24 + 1), "larger than 16 MiB"),
        ("run", [1], "holds a list, not a mapping"),
        ("run", RUN | {"schema_version": 3, "method": {}}, "another version of hf_mixup"),
        ("run", RUN | {"method": {"name": "warpmix", "args": {}}}, "method 'warpmix', which hf_mixup .* does not have"),
        ("run", RUN | {"method": {"name": "../../evil", "args": {}}}, "does not have: update"),
        ("run", RUN | {"method": {"name": "_base", "args": {}}}, "does not have: update"),
        ("run", RUN | {"method": ["mixup"]}, "method None"),
        ("run", RUN | {"method": {"name": "mixup", "args": {"alhpa": 1}}}, "wrong arguments.*'alhpa'"),
        ("run", RUN | {"method": {"name": "mixup", "args": 7}}, "wrong arguments"),
        ("run", RUN | {"method": {"name": "mixup", "args": {"alpha": "x"}}}, "wrong arguments"),
        ("run", RUN | {"method": {"name": "choice", "args": nested(400)}}, "wrong arguments"),
        ("run", RUN | {"method": {"name": "samix", "args": {}}}, "does not fit its model"),
        ("config", {"architecture": "hf_hub:user/run"}, "architecture 'hf_hub:user/run', which timm"),
        ("config", {"architecture": "resnet18", "model_args": {"checkpoint_path": "/x"}}, "not those of a network"),
        ("config", {"architecture": "resnet18", "model_args": {"channels": [10**5] * 4}}, "describes .* parameters"),
        ("config", {"architecture": "resnet18", "model_args": {"block": "os.system"}}, "could not be built"),
        ("config", {"architecture": "resnet18", "num_classes": 10**12}, "num_classes 1000000000000"),
        ("config", None, "no config.json"),
    ],
)
def test_an_invalid_repository_is_refused_with_a_message(pushed, tmp_path, file, content, message):
    with pytest.raises(ModelError, match=message) as error:
        hf_mixup.load_pretrained(changed(pushed, tmp_path / "run", **{file: content}))
    assert len(str(error.value)) < 1500


def test_damaged_weights_are_refused_with_a_message(pushed, tmp_path):
    folder = changed(pushed, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="weights of .* are damaged|could not be loaded"):
        hf_mixup.load_pretrained(folder)


def test_a_downloaded_record_cannot_choose_a_teacher(pushed, here, tmp_path):
    send(here, "user/teacher", pushed)
    for number, teacher in enumerate(("user/teacher", str(pushed), "./run")):
        made = {"name": "choice", "args": {"methods": [{"name": "attentivemix", "teacher": teacher}]}}
        folder = changed(pushed, tmp_path / str(number), run=RUN | {"method": made}, method=None)
        send(here, f"user/taught{number}", folder)
        before = len(here.requests)
        with pytest.raises(ModelError, match=f"names a teacher, {teacher!r}, .*teachers=True"):
            hf_mixup.load_pretrained(f"user/taught{number}")
        assert not [request for request in here.requests[before:] if "user/teacher" in request.path]
    method = hf_mixup.load_pretrained("user/taught0", teachers=True)[2]
    assert same(method.methods[0].eye.model, hf_mixup.load_pretrained(str(pushed))[0])


def test_training_continues_with_the_loaded_method(pushed, tmp_path):
    model, _, method = hf_mixup.load_pretrained(str(pushed))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    args = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", learning_rate=0.1)
    trainer = hf_mixup.MixupTrainer(model, args, train_dataset=Rows(8, classes=2), method=method)
    assert trainer.step.method is method
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    trainer.train()
    now = method.state_dict()
    moved = [
        name for name, value in now.items() if name.startswith("generator.") and not torch.equal(value, before[name])
    ]
    assert moved
    assert all((now[name] - before[name]).abs().max() < 0.5 for name in moved if now[name].is_floating_point())


def test_a_loaded_method_for_other_classes_is_refused(pushed, tmp_path):
    method = hf_mixup.load_pretrained(str(pushed))[2]
    model, _ = build_model("resnet18", classes=list("abc"), **SIZE)
    trainer = hf_mixup.MixupTrainer(model, TrainingArguments(str(tmp_path), use_cpu=True), method=method)
    with pytest.raises(ValueError, match="'automix' was loaded with a state that does not fit"):
        _ = trainer.step


def test_a_run_starts_from_the_weights_of_a_repository(pushed, here, root, data, tmp_path, capfd):
    recipe = recipe_of(tmp_path / "recipe.yaml", data, max_steps=1, method="cutmix")
    argv = ("--model", "user/run", *SHAPE)
    assert start(recipe, "--output_dir", tmp_path / "same", *argv) == 0
    assert record_of(tmp_path / "same")["model"]["base_model"] == "user/run"
    card = ModelCard.load(tmp_path / "same" / "README.md")
    assert card.data.base_model == "user/run" and "https://huggingface.co/user/run" in card.text
    assert start(recipe, "--output_dir", tmp_path / "large", *argv, "--image_size", "24") == 0

    # from a folder of known and one of unknown origin
    assert start(recipe, "--output_dir", tmp_path / "third", "--model", tmp_path / "same", *SHAPE) == 0
    assert ModelCard.load(tmp_path / "third" / "README.md").data.base_model == "user/run"
    assert start(recipe, "--output_dir", tmp_path / "none", "--model", root / "run", *SHAPE) == 0
    assert ModelCard.load(tmp_path / "none" / "README.md").data.base_model is None
    assert origin(snapshot_download("user/run")) == "user/run"


def test_other_classes_need_a_new_classifier(pushed, here, tmp_path, capfd):
    other = recipe_of(tmp_path / "a.yaml", folder_of(tmp_path / "other", classes=("eel", "fox", "gnu")), max_steps=1)
    renamed = recipe_of(tmp_path / "b.yaml", folder_of(tmp_path / "renamed", classes=("eel", "fox")), max_steps=1)
    for recipe, message in ((other, "2 classes, but the data has 3"), (renamed, "other classes than the data")):
        assert start(recipe, "--output_dir", tmp_path / "refused", "--model", "user/run", *SHAPE) == 2
        printed = capfd.readouterr().err
        assert message in printed and "reset_classifier" in printed and "Traceback" not in printed
    new = ("--model_args", "{reset_classifier: true}")
    assert start(other, "--output_dir", tmp_path / "new", "--model", "user/run", *new) == 0
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["label_names"] == ["eel", "fox", "gnu"] and "reset_classifier" not in config["model_args"]
    model = hf_mixup.load_pretrained(str(tmp_path / "new"))[0]
    assert model.timm_model.get_classifier().out_features == 3
    kept = ("--model_args", "{reset_classifier: false}")
    assert start(renamed, "--output_dir", tmp_path / "kept", "--model", "user/run", *kept) == 0


@pytest.mark.parametrize("kind", ["vit", "resnet", "own"])
def test_every_kind_of_model_is_published_and_fine_tuned(kind, here, data, tmp_path):
    recipe = recipe_of(tmp_path / "recipe.yaml", data, max_steps=1)
    if kind == "own":
        first = ("--model", "mini_resnet", *SHAPE)
    else:
        shape = {"num_labels": 2, "id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
        made = native_vit() if kind == "vit" else native_resnet()
        made = type(made)((ViTConfig if kind == "vit" else ResNetConfig).from_dict(made.config.to_dict() | shape))
        made.save_pretrained(tmp_path / "stock")
        first = ("--model", tmp_path / "stock", *SHAPE, "--mean", *[0.5] * 3, "--std", *[0.5] * 3)
    assert start(recipe, "--output_dir", tmp_path / "first", *first) == 0
    send(here, f"user/{kind}", tmp_path / "first")
    assert start(recipe, "--output_dir", tmp_path / "second", "--model", f"user/{kind}", *SHAPE) == 0
    model, processor, method = hf_mixup.load_pretrained(f"user/{kind}")
    assert method.name == "mixup" and not list(method.state_dict())
    card = (tmp_path / "second" / "README.md").read_text()
    assert re.search(rf"^base_model: user/{kind}$", card, re.M)
    assert ("import hf_mixup  # registers the architecture" in card) == (kind == "own")
    assert f"library_name: {'timm' if kind == 'own' else 'transformers'}\n" in card


def test_a_revision_may_be_part_of_the_name(pushed, here, api, tmp_path):
    api.create_branch("user/run", branch="v1", exist_ok=True)
    assert fetch("user/run@v1") == fetch("user/run", "v1")
    assert origin("user/run@v1") == "user/run"
    with pytest.raises(ModelError, match="has no revision 'v7'"):
        fetch("user/run@v7")


def test_an_invalid_configuration_value_is_named(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **small)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": "NaN"}))
    with pytest.raises(ModelError, match="hidden_size"):
        hf_mixup.load_pretrained(str(tmp_path))
