"""Wrong recipes, arguments, data sets and folders: one message, exit status 2, and nothing is written."""

import io
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from fixtures.cli import content, folder_of, picture, recipe_of, record_of, start
from timm.layers import BatchNormAct2d
from timm.models import create_model, register_model

from hf_mixup.errors import MixupError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("data"))


@pytest.fixture
def refused(tmp_path, data, capfd):
    """`refused("--alpha", "1")`: the message of the command line, which exits with 2 and writes nothing."""

    def run(*argv, recipe=None, output=tmp_path / "run") -> str:
        before = content(tmp_path)
        recipe = recipe or recipe_of(tmp_path / "recipe.yaml", data)
        before["recipe.yaml"] = recipe.read_bytes() if recipe.is_file() else None
        assert start(recipe, "--output_dir", output, *argv) == 2
        lines = [line for line in capfd.readouterr().err.splitlines() if "examples/s" not in line and line.strip()]
        assert len(lines) == 1, lines
        assert "Traceback" not in lines[0]
        assert content(tmp_path) == {name: text for name, text in before.items() if text is not None}
        assert not (tmp_path / "run").is_dir() or any((tmp_path / "run").iterdir())
        return lines[0]

    return run


def parquet_of(root: Path, labels: list, column: str = "label", images: list[bytes] | None = None) -> Path:
    """Create a data set of parquet files, with the same labels in both splits."""
    root.mkdir()
    if images is None:
        buffer = io.BytesIO()
        picture(0).save(buffer, "PNG")
        images = [buffer.getvalue()] * len(labels)
    cells = pa.array(
        [{"bytes": image, "path": None} for image in images], pa.struct({"bytes": "binary", "path": "string"})
    )
    for split in ("train", "test"):
        parquet.write_table(pa.table({"image": cells, column: labels}), root / f"{split}-00000.parquet")
    return root


ARGUMENTS = {
    "unknown key": (["--lerning_rate", "1"], "lerning_rate", "learning_rate"),
    "argument of the method": (["--alpha", "1"], "alpha", "method_args.alpha"),
    "unknown method": (["--method", "cutmx"], "cutmx", "cutmix"),
    "unknown argument": (["--method_args.alhpa", "1"], "alhpa", "alpha"),
    "alpha below zero": (["--method_args.alpha", "-1"], "-1", "0 (no mixing) or above"),
    "alpha not finite": (["--method_args.alpha", ".inf"], "inf", "finite"),
    "alpha not a number": (["--method_args.alpha", "abc"], "'abc'", "number"),
    "alpha a list": (["--method_args.alpha", "[1, 2]"], "[1, 2]", "number"),
    "probability of two": (["--method_args.prob", "2"], "2", "0 to 1"),
    "weights below zero": (["--method", "choice", "--method_args.weights", "[1, -1]"], "-1", "finite"),
    "too few weights": (["--method", "choice", "--method_args.weights", "[1]"], "1 weights", "one per method"),
    "no methods": (["--method", "choice", "--method_args.methods", "[]"], "0 methods", "one per method"),
    "unknown argument inside": (
        ["--method", "choice", "--method_args.methods", "[{name: mixup, alhpa: 1}]"],
        "alhpa",
        "alpha",
    ),
    "unknown method inside": (["--method", "choice", "--method_args.methods", "[{name: mixp}]"], "mixp", "mixup"),
    "no name inside": (["--method", "choice", "--method_args.methods", "[{alpha: 1}]"], "alpha", '"name"'),
    "unknown argument of a base": (
        ["--method", "transmix", "--method_args.base", "{name: cutmix, alhpa: 1}"],
        "alhpa",
        "alpha",
    ),
    "unknown base": (["--method", "transmix", "--method_args.base", "{name: cutmi}"], "cutmi", "cutmix"),
    "attention of a CNN": (["--method", "transmix"], "resnet18", "ViT"),
    "too many layers": (["--method", "manifoldmix", "--method_args.layers", "[0, 9]"], "9", "layers up to 4"),
    "unknown layer": (["--method", "automix", "--method_args.layer", "stem9"], "stem9", "layer3"),
    "unknown model": (["--model", "resnt18"], "resnt18", "resnet18"),
    "unknown model_args": (["--model_args.lyers", "[1]"], "lyers", "Leave it out"),
    "no such model folder": (["--model", "./nowhere/model", "--model_args", "{}"], "./nowhere/model", "config.json"),
    "no such model": (["--model", "nobody/nothing", "--model_args", "{}"], "nobody/nothing", "Check the name"),
    "no such data": (["--data", "./nowhere/data"], "./nowhere/data", "sample"),
    "no such data on the Hub": (["--data", "nobody/nothing"], "nobody/nothing", "Try again later"),
    "no image column": (["--image_column", "img"], "img", "image"),
    "no label column": (["--label_column", "lable"], "lable", "label"),
    "no eval split": (["--eval_split", "tset"], "tset", "'test'"),
    "no train split": (["--train_split", "trian"], "trian", "'train'"),
    "a batch of one": (["--per_device_train_batch_size", "1"], "resnet18", "raise per_device_train_batch_size"),
    "a batch too large": (["--per_device_train_batch_size", "13"], "13", "at most 12"),
    "unknown optimizer": (["--optimizer", "sdg"], "sdg", "registry"),
    "unknown optimizer_args": (["--optimizer_args.nestrov", "true"], "nestrov", "optimizer"),
    "unknown schedule argument": (
        ["--lr_scheduler_type", "cosine", "--lr_scheduler_kwargs", "{cycles: 1}"],
        "cycles",
        "lr_scheduler_kwargs",
    ),
    "a warm-up longer than the run": (["--warmup_steps", "400", "--max_steps", "9"], "400 steps", "the run has 9"),
    "a warm-up of more epochs": (["--warmup_epochs", "1", "--max_steps", "1"], "the run has 1", "warmup_epochs"),
    "an optimizer's argument": (["--optimizer", "lamb", "--optimizer_args.betas", "abc"], "betas", "optimizer 'lamb'"),
    "a drop path beyond one": (["--model_args.drop_path_rate", "4"], "4", "cannot compute"),
    "a schedule above one": (
        ["--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", "{lr_end: 1e-9, power: -1}"],
        "lr_scheduler",
        "lr_scheduler_kwargs",
    ),
    "a step that overflows": (
        ["--method", "automix", "--method_args.lam_channel", "true", "--class_weights", "1e30", "1e38"],
        "class_weights",
        "learning_rate",
    ),
    "a tracker that is not installed": (["--report_to", "mlflow"], "'mlflow'", "pip install mlflow"),
    "an unknown tracker": (["--report_to", "wandbb"], "'wandbb'", "Did you mean 'wandb'"),
    "alpha of another library": (["--mixup_alpha", "0.2"], "mixup_alpha", "method_args.alpha"),
    "a learning rate of another library": (["--lr", "0.2"], "'lr'", "learning_rate"),
    "a batch size of another library": (["--eval_batch_size", "8"], "eval_batch_size", "per_device_eval_batch_size"),
    "a weight decay of another library": (["--wd", "0.2"], "'wd'", "weight_decay"),
    "a magnitude beyond all": (["--randaugment", "rand-m99999"], "99999", "give at most 30"),
    "a drop rate above 1": (["--model_args.drop_rate", "7"], "7.0", "model_args"),
    "layers without blocks": (["--model_args.layers", "0", "0"], "layer3", "model_args"),
    "one channel": (["--model_args.in_chans", "1"], "in_chans is 1", "leave it out"),
    "unknown best metric": (["--metric_for_best_model", "top3"], "top3", "top5"),
    "unknown task": (["--task", "clasification"], "clasification", "classification"),
    "a token": (["--hub_token", "hf_abcdefgh"], "hub_token", "HF_TOKEN"),
    "another number of classes": (["--model", "{model}", "--model_args", "{}"], "10 classes", "reset_classifier"),
}


@pytest.fixture(scope="module")
def ten_classes(tmp_path_factory):
    """The folder of a finished run with ten classes."""
    folder = tmp_path_factory.mktemp("ten")
    assert (
        start(recipe_of(folder / "r.yaml", eval_strategy="no"), "--output_dir", folder / "run", "--max_steps", 1) == 0
    )
    return folder / "run"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments_are_reported_with_the_value_and_the_way_out(name, refused, request):
    argv, value, way_out = ARGUMENTS[name]
    if "{model}" in argv:
        argv = [str(request.getfixturevalue("ten_classes")) if word == "{model}" else word for word in argv]
    message = refused(*argv)
    assert value in message and way_out in message
    assert "abcdefgh" not in message


FILES = {
    "a list": ("- mixup\n", "not a mapping"),
    "empty": ("", "not a mapping"),
    "broken": ("method: [mixup\n", "line 2"),
    "unknown key": ("metod: mixup\n", "method"),
    "missing base": ("base: nowhere.yaml\n", "nowhere.yaml"),
    "its own base": ("base: recipe.yaml\n", "recipe.yaml -> "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_recipe_is_refused(name, tmp_path, refused):
    text, expected = FILES[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert expected in refused(recipe=recipe)


def test_the_message_for_a_missing_recipe_names_similar_ones(tmp_path, refused):
    assert "quickstart" in refused(recipe=Path("quikstart.yaml"))


@pytest.mark.parametrize("labels", [[0, 1, 2, 7], [0, 1, None, 1], [0, 1, -1, 1]])
def test_a_label_outside_the_classes_is_reported_with_its_row(labels, tmp_path, refused):
    root = parquet_of(tmp_path / "data", [0, 1, 2, 1])
    table = parquet.read_table(root / "test-00000.parquet").set_column(1, "label", pa.array(labels, pa.int64()))
    parquet.write_table(table, root / "test-00000.parquet")
    wrong = next(row for row, label in enumerate(labels) if label not in (0, 1, 2))
    message = refused("--data", root)
    assert f"Row {wrong}" in message and repr(labels[wrong]) in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_that_does_not_decode_is_reported_with_its_row_before_anything_is_written(split, tmp_path, refused):
    root = folder_of(tmp_path / "data")
    (root / split / "dog" / "1.png").write_bytes(b"no image")
    message = refused("--data", root)
    assert "Row 7" in message and repr(split) in message and "skip_corrupt" in message


def test_an_image_that_does_not_decode_in_training_is_reported_and_nothing_is_written(tmp_path, refused):
    root = folder_of(tmp_path / "data")
    (root / "train" / "dog" / "1.png").write_bytes(b"no image")
    assert "Row 7" in refused("--data", root, "--random_resized_crop", 0.5, 1)


def test_images_that_do_not_decode_are_skipped_and_counted_with_skip_corrupt(tmp_path):
    root = folder_of(tmp_path / "data")
    for name in ("train/dog/1.png", "train/cat/0.png", "test/dog/3.png"):
        (root / name).write_bytes(b"no image")
    recipe = recipe_of(tmp_path / "recipe.yaml", root, skip_corrupt=True)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    text = (tmp_path / "run" / "run.json").read_text()
    assert '"skipped": {\n      "train": 2,\n      "eval": 1\n    }' in text


def test_an_empty_split_is_refused(tmp_path, refused):
    root = parquet_of(tmp_path / "data", [0, 1, 0, 1])
    table = parquet.read_table(root / "train-00000.parquet")
    parquet.write_table(table.slice(0, 0), root / "train-00000.parquet")
    assert "empty" in refused("--data", root)


def test_a_data_set_without_an_evaluation_split_is_refused(tmp_path, refused):
    message = refused("--data", folder_of(tmp_path / "data", splits=("train",)))
    assert all(words in message for words in ("eval_fraction: 0.1", "train[:90%]", "eval_strategy: no"))


def test_without_evaluation_no_evaluation_split_is_required(tmp_path, capsys):
    data = folder_of(tmp_path / "data", splits=("train",))
    recipe = recipe_of(tmp_path / "recipe.yaml", data, eval_strategy="no", max_steps=2, per_device_train_batch_size=4)
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    record = record_of(tmp_path / "run")
    assert record["status"] == "finished" and record["final"] == {} and record["data"]["eval_split"] is None
    assert "The run was not evaluated." in (tmp_path / "run" / "README.md").read_text()
    assert "loss" not in capsys.readouterr().out
    assert start(recipe, "--output_dir", tmp_path / "dry", "--dry_run") == 0


def test_without_logs_no_loss_is_printed(tmp_path, data, capsys):
    recipe = recipe_of(tmp_path / "recipe.yaml", data, logging_strategy="no")
    assert start(recipe, "--output_dir", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "top1" in printed and "train loss" not in printed


def test_a_name_that_is_too_long_is_no_recipe(capsys):
    assert start("x" * 300) == 2
    assert "There is no recipe file" in capsys.readouterr().err


def test_a_stream_of_unknown_length_requires_num_examples_or_max_steps(tmp_path, refused):
    message = refused("--data", folder_of(tmp_path / "data"), "--streaming")
    assert "num_examples" in message and "max_steps" in message


def test_an_output_folder_with_a_run_of_another_recipe_is_refused_and_unchanged(tmp_path, ten_classes, refused):
    shutil.copytree(ten_classes, tmp_path / "run")
    message = refused()
    assert "another recipe" in message and "data was 'sample'" in message
    assert "another recipe" in refused("--resume")


def test_an_output_folder_with_a_foreign_model_or_record_is_refused_and_unchanged(tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"weights")
    assert "choose another" in refused()
    for text in ("{", "[]", '{"schema_version": 99}'):
        (tmp_path / "run" / "run.json").write_text(text)
        assert "choose another" in refused("--resume")


def test_an_output_folder_that_is_a_file_or_cannot_be_written_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("precious")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        assert "choose another" in refused(output=output)
    if Path("/proc/self").is_dir():
        assert "/proc/self/run" in refused(output=Path("/proc/self/run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_an_output_folder_without_permission_is_refused(tmp_path, refused):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "choose another" in refused(output=tmp_path / "locked" / "run")


class Broken(BatchNormAct2d):
    """A layer that raises an error in training only."""

    def forward(self, x):
        if self.training:
            raise EOFError("a bug deep inside")
        return super().forward(x)


@register_model
def broken_resnet(pretrained=False, **arguments):
    return create_model("resnet18", norm_layer=Broken, **arguments)


def test_an_error_that_is_not_of_the_package_keeps_its_traceback(tmp_path, data):
    recipe = recipe_of(tmp_path / "recipe.yaml", data)
    arguments = ["--model", "broken_resnet", "--model_args", "{layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}"]
    with pytest.raises(EOFError, match="a bug deep inside") as caught:
        start(recipe, "--output_dir", tmp_path / "run", *arguments)
    assert not isinstance(caught.value, MixupError)
    assert not (tmp_path / "run").exists()
