"""The configuration in plain Python: defaults, validation, help, recipe hash."""

import json
from dataclasses import fields, replace

import pytest

from hf_mixup.config.config import MixupConfig, help_text, parse
from hf_mixup.errors import ConfigError

CANARY = "hf_canary0123456789"


@pytest.fixture
def write(tmp_path):
    """Function that writes a recipe and returns its path as text."""

    def write_recipe(text, name="recipe.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_recipe


def test_defaults_in_plain_python():
    config = MixupConfig(output_dir="x", method="cutmix")
    assert (config.method, config.output_dir, config.seed, config.image_size) == ("cutmix", "x", 0, 32)
    assert config.eval_strategy == config.save_strategy == config.logging_strategy == "epoch"
    assert not config.remove_unused_columns and config.ddp_find_unused_parameters is False
    assert config.report_to == [] and config.save_total_limit == 2


def test_every_field_of_ours_has_one_line_of_help():
    own = [item for item in fields(MixupConfig) if "within" in item.metadata]
    assert len(own) > 50
    assert all(item.metadata["help"].endswith(".") and "\n" not in item.metadata["help"] for item in own)


def test_dataclasses_replace_copies_a_configuration():
    config = MixupConfig(output_dir="x", method_args={"alpha": "1e-3"}, lr_scheduler_kwargs=None)
    copy = replace(config, output_dir="y")
    assert copy.recipe_dict() == config.recipe_dict()
    assert copy.method_args == {"alpha": 0.001}


def test_min_lr_is_passed_to_the_cosine_schedule_only():
    assert MixupConfig(output_dir="x", min_lr=1e-5).lr_scheduler_kwargs == {"min_lr": 1e-5}
    assert MixupConfig(output_dir="x", lr_scheduler_type="linear").lr_scheduler_kwargs is None
    with pytest.raises(ConfigError, match="min_lr is 1e-05, but the schedule linear does not support it"):
        MixupConfig(output_dir="x", min_lr=1e-5, lr_scheduler_type="linear")
    with pytest.raises(ConfigError, match="Give min_lr only"):
        MixupConfig(output_dir="x", min_lr=1e-5, lr_scheduler_kwargs={"min_lr_rate": 0.1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor=0.1", "Use label_smoothing"]),
        ({"dataloader_drop_last": True}, ["dataloader_drop_last=True", "lose its last rows"]),
        ({"remove_unused_columns": True}, ["remove_unused_columns=True", "image column"]),
        ({"loss": "mse"}, ["loss is 'mse'", "ce, bce"]),
        ({"eval_weights": "ema"}, ["eval_weights is 'ema'", "Set ema_decay"]),
        ({"eval_weights": "best"}, ["eval_weights is 'best'", "model, ema"]),
        ({"crop_mode": "wrap"}, ["crop_mode is 'wrap'", "constant, reflect"]),
        ({"label_smoothing": 1.0}, ["label_smoothing is 1.0", "[0, 1)"]),
        ({"label_smoothing": float("nan")}, ["label_smoothing is nan", "[0, 1)"]),
        ({"ema_decay": 1.0}, ["ema_decay is 1.0", "(0, 1)"]),
        ({"flip": -0.5}, ["flip is -0.5", "[0, 1]"]),
        ({"erasing": 1.5}, ["erasing is 1.5", "[0, 1]"]),
        ({"image_size": 0}, ["image_size is 0", "[1, 16384]"]),
        ({"image_size": 32.5}, ["image_size is 32.5", "an integer"]),
        ({"learning_rate": float("nan")}, ["learning_rate is nan", "[1e-12, 1000]"]),
        ({"learning_rate": 0.0}, ["learning_rate is 0.0", "[1e-12, 1000]"]),
        ({"per_device_train_batch_size": 0}, ["per_device_train_batch_size is 0", "[1, inf)"]),
        ({"mean": [0.5]}, ["mean is [0.5]", "three numbers"]),
        ({"std": [0.2, 0.0, 0.2]}, ["std is [0.2, 0.0, 0.2]", "(0, inf)"]),
        ({"random_resized_crop": [1.0, 0.08]}, ["random_resized_crop is [1.0, 0.08]", "two numbers"]),
        ({"resize": 30}, ["resize is 30", "32 px", "Give 32 or more"]),
        ({"resize": 40, "crop_padding": 4}, ["resize and crop_padding", "Leave one of them out"]),
        ({"eval_resize": 40, "eval_image_size": 64}, ["eval_resize is 40", "64 px", "Give 64 or more"]),
        ({"eval_resize": 40, "eval_crop_pct": 0.9}, ["eval_resize and eval_crop_pct", "Leave one of them out"]),
        ({"train_interpolation": "cubic"}, ["train_interpolation is 'cubic'", "bilinear, bicubic, nearest"]),
        ({"randaugment_ops": ["Rotate"]}, ["randaugment_ops is ['Rotate']", "set randaugment"]),
        ({"randaugment_ops": [], "randaugment": "rand-m9"}, ["randaugment_ops is []", "Name one operation or more"]),
        ({"aug_repeats": 0}, ["aug_repeats is 0", "[1, 256]"]),
        ({"aug_repeats": 3, "streaming": True}, ["aug_repeats is 3", "streaming"]),
        ({"class_balanced": True, "streaming": True}, ["class_balanced is True", "streaming"]),
        ({"warmup_epochs": 1, "warmup_steps": 9}, ["warmup_epochs is 1", "warmup_steps is 9", "one of them to 0"]),
        ({"warmup_epochs": 4, "num_train_epochs": 3}, ["warmup_epochs is 4", "(3)", "give fewer epochs"]),
        ({"min_lr": 0.1, "learning_rate": 0.01, "lr_scheduler_type": "cosine_with_min_lr"}, ["min_lr is 0.1", "above"]),
        *(({name: 0}, [f"{name} is 0", "(0, inf)"]) for name in ("save_steps", "eval_steps", "logging_steps")),
        *(({name: -1.0}, [f"{name} is -1", "(0, inf)"]) for name in ("save_steps", "eval_steps", "logging_steps")),
        ({"save_steps": float("nan")}, ["save_steps is nan", "(0, inf)"]),
        ({"shuffle_memory": "much"}, ["shuffle_memory is 'much'", "1GiB", "bytes"]),
        ({"stream_cache_size": 0}, ["stream_cache_size is 0", "1GiB"]),
        ({"eval_strategy": "sometimes"}, ["eval_strategy is 'sometimes'", "no, steps, epoch"]),
        ({"learning_rate": 1e4}, ["learning_rate is 10000.0", "[1e-12, 1000]"]),
        ({"eval_resize": 10**12}, ["eval_resize is 1000000000000", "[1, 16384]"]),
        ({"num_train_epochs": 0}, ["num_train_epochs is 0", "(0, 1e6]"]),
        ({"adam_beta2": 1.0}, ["adam_beta2 is 1.0", "[0, 1)"]),
        ({"dataloader_num_workers": 10**9}, ["dataloader_num_workers is 1000000000", "[0, 256]"]),
        ({"model": "x" * 300}, ["model is 'xxx", "at most 255 characters"]),
        ({"method_args": {"k": 2**63}}, ["method_args is", "expected a mapping"]),
        ({"method_args": {"name": "cutmix"}}, ["method_args.name is 'cutmix'", "`method`"]),
        ({"task_args": {"name": "cutmix"}}, ["task_args.name is 'cutmix'", "`task`"]),
        ({"optimizer_args": {"nesterov": True}}, ["optimizer_args is {'nesterov': True}", "set optimizer"]),
        ({"layer_decay": 0.7}, ["layer_decay is 0.7", "set optimizer"]),
        ({"optimizer": "sgd", "optimizer_args": {"lr": 1}}, ["optimizer_args.lr is 1", "learning_rate"]),
        ({"learning_rate": 10, "weight_decay": 0.2}, ["weight_decay is 0.2", "learning_rate is 10", "smaller"]),
        ({"eval_do_concat_batches": False}, ["eval_do_concat_batches=False is refused", "Leave it out"]),
        ({"resume_from_checkpoint": "x"}, ["resume_from_checkpoint=x is refused", "Use --resume"]),
        ({"method_args": {"net": object}}, ["method_args is", "plain data"]),
        ({"method_args": {"alpha": float("nan")}}, ["method_args is {'alpha': nan}", "finite"]),
    ],
)
def test_an_invalid_value_is_refused_with_the_value_and_what_to_do(values, words):
    with pytest.raises(ConfigError) as caught:
        MixupConfig(output_dir="x", **values)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_token_in_plain_python_is_refused_and_not_printed():
    with pytest.raises(ConfigError, match="hf auth login") as caught:
        MixupConfig(output_dir="x", hub_token=CANARY)
    assert CANARY not in str(caught.value)


def test_help_lists_every_field_and_exits_with_0(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0 and printed.strip() == help_text()
    shown = [line.split()[0] for line in printed.splitlines() if line.startswith("  --")]
    assert sorted(shown) == sorted(f"--{item.name}" for item in fields(MixupConfig))
    assert shown.index("--data") < shown.index("--method") < shown.index("--learning_rate")
    text = " ".join(printed.split())
    assert "Padding mode. Choices: constant, reflect. (default: constant)" in text
    assert "Probability of random erasing. Range: [0, 1]. (default: 0)" in text and "%%" not in text


# Recipe dict and hash


def test_the_recipe_dict_is_json_and_contains_our_fields_that_determine_the_result():
    config = MixupConfig(output_dir="x", bf16=True, use_cpu=True, accelerator_config={"split_batches": True})
    recipe = config.recipe_dict()
    assert json.loads(json.dumps(recipe, allow_nan=False)) == recipe
    own = {item.name for item in fields(MixupConfig)} - {item.name for item in fields(MixupConfig.__base__)}
    assert own - set(recipe) == {
        "class_names",  # added later, and recorded only if they are set
        "class_weights",
        "class_balanced",
        "shuffle_memory",
        "eval_fraction",
        "max_pixels",
        "allow_outside_files",
        "stream_cache",
        "stream_cache_size",
        "freeze",
        "log_images",
        "resume",
        "dry_run",
        "recipe",
        "hub_picture",
        "hub_create_pr",
        "trust_remote_code",
    }
    assert recipe["bf16"] is True and recipe["accelerator_config"]["split_batches"] is True
    assert recipe["lr_scheduler_type"] == "cosine_with_min_lr" and recipe["seed"] == 0
    assert not {name for name in recipe if "token" in name} - {"average_tokens_across_devices"}
    again = MixupConfig(output_dir="y", use_cpu=True, **recipe)
    assert again.recipe_hash() == config.recipe_hash()


def test_the_hash_is_independent_of_files_hardware_and_output(write):
    write("method: cutmix\nmethod_args: {alpha: 1}\n", "base.yaml")
    nested = parse([write("base: base.yaml\nlearning_rate: 1e-3\n", "nested.yaml")])
    flat = write("learning_rate: 0.001\nmethod: cutmix\nmethod_args: {alpha: 1.0}\n", "flat.yaml")
    unrelated = ["--output_dir", "there", "--resume", "--dry_run", "--use_cpu", "--dataloader_num_workers", "2"]
    unrelated += [
        "--logging_steps",
        "3",
        "--report_to",
        "tensorboard",
        "--save_total_limit",
        "9",
        "--hub_model_id",
        "a/b",
    ]
    unrelated += ["--per_device_eval_batch_size", "3", "--save_strategy", "no", "--disable_tqdm", "--run_name", "a"]
    assert nested.recipe_hash() == parse([flat]).recipe_hash() == parse([flat, *unrelated]).recipe_hash()
    assert len(nested.recipe_hash()) >= 12


@pytest.mark.parametrize(
    "word, way",
    [("--mixup_alpha", "method_args.alpha"), ("--shuffle_block", "shuffle_memory"), ("--smoothing", "label_smoothing")],
)
def test_fields_of_other_tools_and_of_version_0_1_name_their_successor(write, word, way):
    with pytest.raises(ConfigError, match=way):
        parse([write("method: mixup\n"), word, "0.2"])


@pytest.mark.parametrize(
    "argv", ["--method_args.alpha 0.2", "--seed 1", "--learning_rate 1", "--bf16 --use_cpu", "--adam_beta2 0.9"]
)
def test_the_hash_depends_on_settings_that_determine_the_result(write, argv):
    recipe = write("method: cutmix\nmethod_args: {alpha: 1}\n")
    assert parse([recipe, *argv.split()]).recipe_hash() != parse([recipe]).recipe_hash()


def test_fields_added_after_version_0_1_are_recorded_only_if_they_are_set():
    added = {"freeze": "backbone", "class_balanced": True, "class_weights": [1.0, 2.0], "class_names": ["a", "b"]}
    plain = MixupConfig(output_dir="x", use_cpu=True)
    assert not added.keys() & plain.recipe_dict().keys()
    for name, value in added.items():
        changed = MixupConfig(output_dir="x", use_cpu=True, **{name: value})
        assert changed.recipe_dict() == {**plain.recipe_dict(), name: value}
        assert changed.recipe_hash() != plain.recipe_hash()


@pytest.mark.parametrize(
    "recipe, expected", [("quickstart", "e1e4ae5df9e99b96"), ("imagenet/deit/deit_base/choice", "80f03cc1287dd45b")]
)
def test_the_hash_of_a_recipe_is_the_same_with_every_version_of_transformers(recipe, expected):
    assert parse([recipe, "--use_cpu"]).recipe_hash() == expected


def test_warmup_ratio_is_refused_with_every_version_of_transformers():
    with pytest.raises((ConfigError, TypeError), match="warmup_ratio"):
        MixupConfig(output_dir="x", warmup_ratio=0.1)
