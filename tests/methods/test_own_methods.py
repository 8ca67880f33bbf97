"""Methods of the user's own: a class, a name `module:Class` or `file.py:Class`, and entry points of packages."""

import json
import runpy
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from fixtures.cli import RECIPE, folder_of, recipe_of, record_of, start
from fixtures.training import Rows, make, timm_resnet
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import nn

import hf_mixup
from hf_mixup import BatchMixup, Method, available, load
from hf_mixup.cli import methods, tasks
from hf_mixup.components.references import is_reference, nested_names, references
from hf_mixup.errors import ConfigError, ModelError, TaskError
from hf_mixup.methods.mixup import Mixup
from hf_mixup.publish.export import rewrite_card

SOURCE = '''
from dataclasses import dataclass
import torch
from torch import nn
from hf_mixup import Method, Mix

@dataclass(eq=False)
class CutMix(Method):
    """Mixes with a learned brightness."""
    title = "Brightness (a test)"
    paper = "https://example.org/paper"
    share: float = 0.5

    def build(self, net):
        self.brightness = nn.Parameter(torch.zeros(()))

    def mix_batch(self, net, x, y, rng, out=None):
        partner = torch.roll(torch.arange(len(x)), 1)
        return torch.lerp(x[partner], x, self.share), Mix.pair(partner, torch.tensor([self.share]))

    def forward(self, net, x, y, rng):
        losses = super().forward(net, x + self.brightness, y, rng)
        return losses
'''


@dataclass(eq=False)
class Mine(Mixup):
    """A method defined in a script or notebook."""

    extra: float = 1.0


@pytest.fixture
def file(tmp_path):
    """A file with the name of one of the package's methods."""
    (tmp_path / "cutmix.py").write_text(SOURCE)
    return tmp_path / "cutmix.py"


def test_a_class_is_loaded_with_checked_arguments():
    method = load(Mine, alpha=0.5, extra=2)
    assert method.hyperparameters() | {"alpha": 0.5, "extra": 2} == method.hyperparameters()
    with pytest.raises(ValueError, match="Method 'Mine' has no argument 'alpa'. Did you mean 'alpha'"):
        load(Mine, alpa=0.5)
    with pytest.raises(ValueError, match="'Mine' does not accept extra='x': give a number"):
        load(Mine, extra="x")
    for wrong in (Mine.mix, int, 3):
        with pytest.raises(ValueError, match="is not a method"):
            load(wrong)


def test_a_class_of_the_users_own_is_never_taken_for_one_of_the_package(file):
    method = load(f"{file}:CutMix", share=0.25)
    assert method.name == f"{file}:CutMix" and type(method) is not type(load("cutmix"))
    assert load(Mine).name == f"{__name__}:Mine"
    assert load({"name": method.name, **method.hyperparameters()}).share == 0.25
    assert type(load(f"{file}:CutMix")) is type(method)  # imported once
    with pytest.raises(ConfigError, match="has no class 'CutMx' derived from Method. Did you mean 'CutMix'"):
        load(f"{file}:CutMx")
    with pytest.raises(ConfigError, match="could not be imported .there is no file"):
        load(f"{file.parent}/other.py:CutMix")
    with pytest.raises(ConfigError, match="'no_such_package' could not be imported"):
        load("no_such_package:CutMix")


def test_a_class_of_a_notebook_has_its_own_name(tmp_path):
    (tmp_path / "cutmix.py").write_text(SOURCE)
    assert runpy.run_path(str(tmp_path / "cutmix.py"), run_name="__main__")["CutMix"]().name == "__main__:CutMix"


def test_a_class_works_in_every_entrance(file, tmp_path):
    cls = type(load(f"{file}:CutMix"))
    images, targets = BatchMixup(Mine, 5)(torch.rand(4, 3, 8, 8), torch.arange(4))
    assert targets.sum(1).allclose(torch.ones(4))
    for method in (cls, cls(share=0.75), f"{file}:CutMix", {"name": f"{file}:CutMix", "share": 0.75}):
        trainer = make(tmp_path / "run", timm_resnet(), Rows(), method=method, max_steps=1)
        trainer.train()
        assert trainer.method.brightness.item() != 0
    nested = load("choice", methods=[{"name": f"{file}:CutMix"}, {"name": "cutmix"}])
    assert [part.name for part in nested.methods] == [f"{file}:CutMix", "cutmix"]
    again = load({"name": "choice", **json.loads(json.dumps(nested.hyperparameters()))})
    assert [type(part) for part in again.methods] == [type(part) for part in nested.methods]


def test_a_class_is_an_inner_method_of_a_container(file):
    for container in (load("choice", methods=[Mine, "cutmix"]), load("regmixup", base=Mine)):
        assert isinstance(getattr(container, "base", None) or container.methods[0], Mine)
    with pytest.raises(ValueError, match="is not a method"):
        load("choice", methods=[int])


def test_a_file_imports_files_beside_it_and_modules_of_the_working_directory(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_it.py").write_text(SOURCE)
    (tmp_path / "outer.py").write_text(
        "from beside_it import CutMix\nclass Outer(CutMix):\n    class In(CutMix): pass\n"
    )
    assert load(f"{tmp_path}/outer.py:Outer").share == 0.5
    assert type(load(f"{tmp_path}/outer.py:Outer.In")).__name__ == "In"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "found_here.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path / "work")
    assert load("found_here:CutMix").name == "found_here:CutMix"


@pytest.mark.parametrize(
    "code, reason",
    [
        ("import sys; sys.exit(3)", "SystemExit: 3, in line 1 of"),
        ("{}['boom']", "KeyError: 'boom', in line 1 of"),
        ("def f(:", "invalid syntax"),
        ("from .other import X", "is given as package.module:Class"),
    ],
)
def test_a_file_that_cannot_be_imported_is_an_error_with_its_reason(code, reason, tmp_path):
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(ConfigError, match="own.py' could not be imported .*" + reason):
        load(f"{tmp_path}/own.py:Own")
    with pytest.raises(ValueError, match=r"is given as .*own.py:Class"):
        load(f"{tmp_path}/own.py")


def test_a_wrong_class_is_refused_when_it_is_loaded():
    hashed = dataclass(type("Wrong", (Mixup,), {"__module__": __name__, "__annotations__": {}}))
    named = type("Wrong", (Mixup,), {"name": "cutmix"})
    for cls, message in (
        (hashed, r"@dataclass\(eq=False\)"),
        (named, "defines `name`"),
        (Method, "has no `mix_batch`"),
    ):
        for method in (cls, cls()):
            with pytest.raises(ValueError, match=message):
                load(method)


def test_a_class_that_is_no_dataclass_has_the_arguments_of_its_init():
    class Plain(Mixup):
        def __init__(self, share=0.5):
            super().__init__()
            self.share = share

    method = load(Plain, share=0.25)
    assert method.hyperparameters() == {"share": 0.25} and load(Plain, **method.hyperparameters()).share == 0.25
    undecorated = type("Undecorated", (Mixup,), {"__annotations__": {"share": float}, "share": 0.5})
    with pytest.raises(ValueError, match="no argument 'share'.* if it is decorated with @dataclass"):
        load(undecorated, share=0.25)


def test_fields_of_any_type_are_accepted_and_recorded_if_json_holds_them(tmp_path, capsys):
    @dataclass(eq=False)
    class Odd(Mixup):
        unresolved: "OnlyForTypeCheckers" = 1  # noqa: F821
        network: nn.Module = field(default_factory=lambda: nn.Linear(2, 2))
        state: float = field(init=False, default=1.0)
        alpha: tuple[float, float] = (0.2, 0.4)

    values = load(Odd, unresolved=2).hyperparameters()
    assert values == {"per_image": False, "pairing": "shift", "prob": 1.0, "alpha": [0.2, 0.4], "unresolved": 2}
    assert load(Odd, **values).unresolved == 2
    (tmp_path / "own.py").write_text(SOURCE.replace("share: float = 0.5", "share: float = float('inf')"))
    recipe = recipe_of(tmp_path / "recipe.yaml", method=f"{tmp_path}/own.py:CutMix")
    assert start(recipe, "--output_dir", tmp_path / "run") == 2
    assert "has share = inf, which a run record cannot hold" in capsys.readouterr().err


def returning(value, part="forward"):
    return type("Own", (Mixup,), {part: lambda self, *args, **kwargs: value, "__module__": __name__})


@pytest.mark.parametrize(
    "cls, message",
    [
        (returning(None), "`forward` of method .* returns None: return a dict of scalars"),
        (returning({}), "returns an empty dict: return a dict"),
        (returning({"mix": torch.zeros(3)}), r"returns a tensor \(3,\) of type torch.float32 as 'mix'"),
        (
            returning(torch.zeros(3), "mix_batch"),
            "`mix_batch` of method .* returns Tensor: return the mixed",
        ),
    ],
)
def test_a_method_that_returns_what_cannot_be_used_is_an_error(cls, message, tmp_path):
    with pytest.raises(TaskError, match=message):
        make(tmp_path, timm_resnet(), Rows(), method=cls, max_steps=1).train()


def test_a_collator_refuses_a_class_with_its_own_forward(file):
    with pytest.raises(ValueError, match="requires a training step"):
        BatchMixup(f"{file}:CutMix", 5)


def install(folder: Path, entry_points: str) -> None:
    """A distribution in `folder` that announces these entry points."""
    info = folder / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def test_entry_points_of_installed_packages_are_listed_and_loaded(tmp_path, monkeypatch):
    (tmp_path / "their_package.py").write_text(SOURCE)
    install(tmp_path, "[hf_mixup.methods]\nbrightness = their_package:CutMix\nmixup = their_package:CutMix\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "brightness" in available() and available() == sorted(available())
    method = load("brightness", share=0.1)
    assert method.name == "brightness" and method.share == 0.1
    assert type(load("mixup")) is Mixup  # the package's own method wins
    with pytest.raises(ValueError, match="Did you mean 'brightness'"):
        load("brightnes")


def test_an_entry_point_that_cannot_be_imported_does_not_hide_the_others(tmp_path, monkeypatch, capsys):
    install(tmp_path, "[hf_mixup.methods]\nbroken = no_such_package:X\n[hf_mixup.tasks]\nbroken = no_such_package:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for verb, other in ((methods, "cutmix"), (tasks, "multilabel")):
        assert verb.main([]) == 0
        shown = capsys.readouterr().out
        assert other in shown and "'no_such_package' could not be imported" in shown


@pytest.fixture
def run(file, tmp_path):
    """A finished run with a method of the user's own, from the command line."""
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), save_strategy="steps", save_steps=1)
    argv = [recipe, "--method", f"{file}:CutMix", "--method_args.share", 0.75, "--output_dir", tmp_path / "run"]
    assert start(*argv, "--num_train_epochs", 2) == 0
    return tmp_path / "run", [*argv, "--num_train_epochs", 2]


def test_a_run_with_a_method_in_a_file_is_recorded_resumed_and_loaded(run, file):
    folder, argv = run
    entry = record_of(folder)["method"]
    assert entry["name"] == "./cutmix.py:CutMix" and entry["args"]["share"] == 0.75
    card = ModelCard.load(folder / "README.md")
    assert "[Brightness \\(a test\\)](https://example.org/paper)" in card.text and str(file.parent) not in card.content
    expected = load_file(folder / "model.safetensors")
    for name in ("run.json", "model.safetensors", "checkpoint-6/manifest.json"):
        assert (folder / name).is_file()
    (folder / "run.json").write_text(json.dumps(record_of(folder) | {"status": "running"}))
    shutil.rmtree(folder / "checkpoint-6")
    assert start(*argv, "--resume") == 0
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    with pytest.raises(ModelError, match=r"'./cutmix.py:CutMix'.*pass it as load_pretrained\(..., method=THE_CLASS\)"):
        hf_mixup.load_pretrained(str(folder))
    cls = type(load(f"{file}:CutMix"))
    method = hf_mixup.load_pretrained(str(folder), method=cls)[2]
    assert isinstance(method, cls) and method.share == 0.75
    assert torch.equal(method.brightness, load_file(folder / "method.safetensors")["brightness"])


def test_a_container_of_own_methods_is_loaded_with_their_classes(file, tmp_path):
    inner = json.dumps([{"name": f"{file}:CutMix", "share": 0.75}, "mixup"])
    recipe = recipe_of(tmp_path / "recipe.yaml", folder_of(tmp_path / "data"), max_steps=1)
    argv = [recipe, "--method", "choice", "--method_args.methods", inner, "--output_dir", tmp_path / "run"]
    assert start(*argv) == 0
    with pytest.raises(ModelError, match=r"'./cutmix.py:CutMix'.*pass it as load_pretrained\(..., method=THE_CLASS\)"):
        hf_mixup.load_pretrained(str(tmp_path / "run"))
    cls = type(load(f"{file}:CutMix"))
    for given in (cls, [cls, Mine]):
        method = hf_mixup.load_pretrained(str(tmp_path / "run"), method=given)[2]
        assert isinstance(method.methods[0], cls) and method.methods[0].share == 0.75


def test_a_repository_may_not_name_code(run, tmp_path):
    """Neither a record nor the recipe beside it imports a file."""
    folder, _ = run
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + SOURCE)
    record = record_of(folder)
    for entry in (
        {"name": f"{folder}/evil.py:CutMix", "args": {}},
        {"name": "choice", "args": {"methods": [{"name": f"{folder}/evil.py:CutMix"}]}},
        {"name": "regmixup", "args": {"base": {"name": f"{folder}/evil.py:CutMix"}}},
        {"name": "choice", "args": {"methods": [f"{folder}/evil.py:CutMix"]}},
        {"name": "regmixup", "args": {"base": f"{folder}/evil.py:CutMix"}},
        {"name": "regmixup", "args": {"base": {"name": "choice", "methods": [f"{folder}/evil.py:CutMix"]}}},
    ):
        (folder / "run.json").write_text(json.dumps(record | {"method": entry}))
        with pytest.raises(ModelError, match="which hf_mixup .* does not have"):
            hf_mixup.load_pretrained(str(folder))
        with pytest.raises(Exception, match="does not have|is Python code"):
            rewrite_card(folder)
        name, arguments = entry["name"], json.dumps(entry["args"])
        (folder / "recipe.yaml").write_text(json.dumps(RECIPE | {"method": name, "method_args": entry["args"]}))
        assert start(folder / "recipe.yaml", "--output_dir", tmp_path / "new") == 2, arguments
        (tmp_path / "above.yaml").write_text(f"base: {folder}/recipe.yaml\n")
        assert start(tmp_path / "above.yaml", "--output_dir", tmp_path / "new") == 2, arguments
    assert not (tmp_path / "ran").exists()


def test_a_link_of_a_record_cannot_leave_the_markdown(run):
    folder, _ = run
    record = record_of(folder)
    for link in ("javascript:alert(1)", "https://x.org) [y](https://evil.org", 3):
        entry = record["method"] | {"link": link, "title": "<b>x</b>"}
        (folder / "run.json").write_text(json.dumps(record | {"method": entry}))
        rewrite_card(folder)
        text = (folder / "README.md").read_text()
        assert "evil.org" not in text and "javascript" not in text and "<b>" not in text


def test_the_methods_of_the_package_have_no_entry_points():
    assert Method.__subclasses__() and all(":" not in name for name in available())


@pytest.mark.parametrize("name", ["a.b:C", "file.py:C", "../my files/f.py:C.D", r"C:\\runs\\f.py:C"])
def test_a_reference_ends_with_the_name_of_a_class(name):
    arguments = {"base": {"name": "cutmix"}, "methods": [{"name": name}]}
    assert is_reference(name) and references(arguments) == [name] and nested_names(arguments) == ["cutmix", name]


@pytest.mark.parametrize("name", ["cutmix", "hf_hub:timm/resnet18", r"C:\\runs", "file.py:", "a text: of words", ":"])
def test_other_texts_with_a_colon_are_no_references(name):
    assert not is_reference(name) and references({"teacher": name}) == []
