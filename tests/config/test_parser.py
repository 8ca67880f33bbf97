"""Recipes and command lines: precedence, types and error messages."""

import pytest

from hf_mixup.config.config import parse
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


def message(*argv):
    """The error message of `parse` for invalid arguments: one line."""
    with pytest.raises(ConfigError) as caught:
        parse(list(argv))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Types


def test_1e_3_is_a_number(write):
    recipe = write("learning_rate: 1e-3\nmin_lr: 1e-6\nmethod_args: {alpha: 1e-1, list: [1E2, '16']}\nmax_steps: 1e3\n")
    config = parse([recipe])
    assert (config.learning_rate, config.min_lr, config.max_steps) == (1e-3, 1e-6, 1000)
    assert config.method_args == {"alpha": 0.1, "list": [100.0, "16"]}
    assert parse([recipe, "--learning_rate", "2e-3", "--method_args.alpha", "5e-1"]).method_args["alpha"] == 0.5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("image_size: wide", ["image_size is 'wide'", "an integer"]),
        ("learning_rate: fast", ["learning_rate is 'fast'", "a number"]),
        ("streaming: maybe", ["streaming is 'maybe'", "true or false"]),
        ("streaming: 1", ["streaming is 1", "true or false"]),
        ("mean: 0.5", ["mean is 0.5", "a list of numbers"]),
        ("revision: 1234567", ["revision is 1234567", "text (in quotes)"]),
        ("label_column: no", ["label_column is False", "text (in quotes)"]),
        ("method_args: 0.2", ["method_args is 0.2", "a mapping"]),
        ("method_args: {when: 2020-01-01}", ["method_args is", "plain data"]),
        ("model_args: &a {inside: *a}", ["not valid YAML", "an alias refers to a value that contains it"]),
        ("num_examples: .inf", ["num_examples is inf", "an integer"]),
        ("optim: best", ["optim is 'best'", "adamw_torch"]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_field_value_file_and_type(write, line, words):
    recipe = write(line)
    text = message(recipe)
    assert [word for word in [*words, recipe] if word not in text] == []


@pytest.mark.parametrize("word", ["true", "yes", "True", "'yes'"])
def test_yes_and_true_are_true(write, word):
    assert parse([write(f"streaming: {word}")]).streaming is True
    assert parse([write("data: sample"), "--streaming", word.strip("'")]).streaming is True


def test_a_bare_no_is_a_strategy_and_a_bare_false_a_flag(write):
    config = parse([write("eval_strategy: no\nsave_strategy: no\nstreaming: no\n")])
    assert config.eval_strategy == config.save_strategy == "no" and config.streaming is False


def test_null_stands_for_the_default(write):
    config = parse(
        [write("image_size: null\nrevision: null\nmethod: null\nsave_total_limit: null\noutput_dir: null\n")]
    )
    assert (config.image_size, config.revision, config.method, config.output_dir) == (
        32,
        None,
        "mixup",
        "outputs/recipe",
    )
    assert config.save_total_limit is None  # a field whose None is not its default


# Command line


def test_the_command_line_overrides_the_recipe(write):
    recipe = write(
        "learning_rate: 0.1\nimage_size: 64\nmodel: resnet18\nmodel_args: {layers: [1, 1], channels: [8, 8]}\n"
    )
    config = parse([recipe, "--learning_rate", "1e-3", "--model_args.channels", "[16,32]", "--streaming", "--flip=0"])
    assert (config.learning_rate, config.image_size, config.streaming, config.flip) == (1e-3, 64, True, 0)
    assert config.model_args == {"layers": [1, 1], "channels": [16, 32]}


def test_a_list_is_several_words_or_one_word_in_brackets(write):
    recipe = write("data: sample")
    for argv in (["--mean", "0.1", "0.2", "0.3"], ["--mean", "[0.1, 0.2, 3e-1]"], ["--mean=[0.1,0.2,0.3]"]):
        assert parse([recipe, *argv]).mean == [0.1, 0.2, 0.3]
    assert parse([recipe, "--model_args.channels", "16", "32"]).model_args == {"channels": [16, 32]}
    assert parse([recipe, "--random_resized_crop", "8e-2", "1"]).random_resized_crop == [0.08, 1]
    assert parse([recipe, "--include_for_metrics", "loss"]).include_for_metrics == ["loss"]


def test_text_on_the_command_line_is_unchanged(write):
    config = parse(
        [write("data: sample"), "--revision", "012345", "--run_name", "no", "--randaugment=rand-m9-mstd0.5-inc1"]
    )
    assert (config.revision, config.run_name, config.randaugment) == ("012345", "no", "rand-m9-mstd0.5-inc1")


def test_dotted_arguments_of_any_depth_and_negative_numbers(write):
    argv = ["--method_args.base.alpha", "0.2", "--method_args.base.name", "mixup", "--method_args.shift", "-1"]
    config = parse([write("method: regmixup"), *argv, "--max-steps", "-1"])
    assert config.method_args == {"base": {"alpha": 0.2, "name": "mixup"}, "shift": -1}


def test_another_method_on_the_command_line_drops_the_recipes_arguments(write):
    recipe = write("method: mixup\nmethod_args: {alpha: 1.0, per_image: true}\n")
    assert parse([recipe, "--method_args.alpha", "0.2", "--method", "cutmix"]).method_args == {"alpha": 0.2}
    assert parse([recipe, "--method", "mixup"]).method_args == {"alpha": 1.0, "per_image": True}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--lerning_rate", "1"], ["'lerning_rate'", "the command line", "learning_rate"]),
        (["--lr", "1"], ["'lr'", "learning_rate"]),
        (["--warmup_ratio", "0.1"], ["'warmup_ratio'", "warmup_steps"]),
        (["--alpha=0.2"], ["'alpha'", "method_args.alpha"]),
        (["stray"], ["'stray'", "the command line"]),
        (["--method"], ["--method", "requires a value"]),
        (["--model", "a", "b"], ["--model", "one value, not 2", "'a b'"]),
        (["--seed.x", "1"], ["seed", "accepts no keys"]),
        (["--image_size", "wide"], ["image_size is 'wide' in the command line", "an integer"]),
        (["--model_args", "{layers: [1"], ["--model_args", "not valid YAML"]),
        (["--recipe", "other"], ["'recipe'", "the command line"]),
    ],
)
def test_an_invalid_option_is_refused_by_name(write, argv, words):
    text = message(write("data: sample"), *argv)
    assert [word for word in words if word not in text] == []


def test_without_a_recipe_the_error_shows_an_example():
    assert "quickstart --method cutmix" in message()
    assert "The first argument must be the recipe" in message("--method", "cutmix")


def test_errors_of_training_arguments_become_config_errors(write):
    recipe = write("load_best_model_at_end: true\neval_strategy: steps\n")
    assert "load_best_model_at_end requires" in message(recipe).replace("--", "")


# Recipes


def test_the_name_of_a_recipe_sets_the_output_folder(write):
    config = parse([write("data: sample", "cutmix.yaml")])
    assert (config.recipe, config.output_dir) == ("cutmix.yaml", "outputs/cutmix")
    assert parse([write("output_dir: here")]).output_dir == "here"


def test_a_packaged_recipe_is_found_by_name_and_an_unknown_name_lists_the_nearest():
    config = parse(["quickstart"])
    assert (config.recipe, config.data, config.output_dir) == ("quickstart", "sample", "outputs/quickstart")
    text = message("quickstrat.yaml")
    assert "'quickstrat.yaml'" in text and "quickstart" in text


def test_arguments_of_a_base_are_merged_by_key_and_other_fields_replaced(write):
    write("model_args: {layers: [1, 1], stem: {width: 8, pad: 1}}\nmean: [0.1, 0.2, 0.3]\nseed: 1\n", "base.yaml")
    write("seed: 2\nflip: 0\n", "more/second.yaml")
    config = parse(
        [write("base: [base.yaml, more/second.yaml]\nmodel_args: {stem: {pad: 0}}\nmean: [0.5, 0.5, 0.5]\n")]
    )
    assert config.model_args == {"layers": [1, 1], "stem": {"width": 8, "pad": 0}}
    assert (config.seed, config.flip, config.mean) == (2, 0, [0.5, 0.5, 0.5])


@pytest.mark.parametrize("name", ["method", "model", "task", "optimizer"])
def test_arguments_of_a_base_are_dropped_if_their_component_changes(write, name):
    write(f"{name}: a\n{name}_args: {{x: 1, y: 2}}\n", "base.yaml")
    assert getattr(parse([write(f"base: base.yaml\n{name}: b\n{name}_args: {{x: 3}}")]), f"{name}_args") == {"x": 3}
    same = parse([write(f"base: base.yaml\n{name}: a\n{name}_args: {{x: 3}}")])
    assert getattr(same, f"{name}_args") == {"x": 3, "y": 2}


def test_the_revision_of_a_base_is_dropped_if_the_data_changes(write):
    recipe = write("data: user/a\nrevision: abc\ndata_config: large\nimage_column: img\n")
    other = parse([recipe, "--data", "user/b"])
    assert (other.revision, other.data_config, other.image_column) == (None, None, "img")
    same = parse([recipe, "--data", "user/a"])
    assert (same.revision, same.data_config) == ("abc", "large")
    assert parse([recipe, "--data", "user/b", "--revision", "v1"]).revision == "v1"


def test_arguments_of_an_inner_method_are_dropped_if_its_name_changes(write):
    write("method: regmixup\nmethod_args: {eta: 0.1, base: {name: mixup, alpha: 1}}\n", "base.yaml")
    config = parse([write("base: base.yaml\nmethod_args: {base: {name: cutmix}}\n")])
    assert config.method_args == {"eta": 0.1, "base": {"name": "cutmix"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochz: 3", ["'epochz'", "recipe.yaml", "Nearest known key"]),
        ("1: 3", ["Unknown key 1", "recipe.yaml"]),
        ("- method", ["recipe.yaml", "a list", "not a mapping"]),
        ("", ["recipe.yaml", "empty", "not a mapping"]),
        ("seed: 1\nmethod: a\nseed: 2\n", ["recipe.yaml", "line 3", "'seed' is given twice"]),
        ("method_args: {a: 1, a: 2}", ["recipe.yaml", "'a' is given twice"]),
        ("method: [", ["recipe.yaml", "not valid YAML"]),
        ("seed: !!timestamp 2020-99-99", ["recipe.yaml", "not valid YAML"]),
        ("method: !!python/object/apply:os.getcwd []", ["recipe.yaml", "not valid YAML", "python/object"]),
        ("base: {a: 1}", ["base is {'a': 1}", "recipe.yaml", "a path or a list of paths"]),
        ("base: none.yaml", ["none.yaml", "No such file", "base of", "recipe.yaml"]),
    ],
)
def test_an_invalid_recipe_is_refused_with_file_and_reason(write, text, words):
    error = message(write(text))
    assert [word for word in words if word not in error] == []


def test_an_error_in_a_base_names_the_base(write):
    base = write("image_size: wide", "base.yaml")
    assert base in message(write("base: base.yaml\nimage_size: 32\n"))


def test_a_cycle_of_bases_is_refused(write):
    write("base: two.yaml", "one.yaml")
    text = message(write("base: one.yaml", "two.yaml"))
    assert text.index("two.yaml") < text.index("one.yaml") < text.rindex("two.yaml")
    assert text.count(" -> ") == 2


# Tokens


@pytest.mark.parametrize(
    "argv", [["--hub_token", CANARY], [f"--hub-token={CANARY}"], ["--hub_token", CANARY, "x"], [CANARY]]
)
def test_a_token_on_the_command_line_is_refused_and_not_printed(write, argv):
    assert CANARY not in message(write("data: sample"), *argv)


@pytest.mark.parametrize(
    "line",
    [
        f"hub_token: {CANARY}",
        f"hub_token: [{CANARY}]",
        f"hub_token: a: {CANARY}",
        f"hub_token={CANARY}",
        f"method_args: {{token: {CANARY}}}",
        f"image_size: {CANARY}",
    ],
)
def test_a_token_in_a_recipe_is_refused_and_not_printed(write, line):
    assert CANARY not in message(write(line))


def test_the_recipe_in_the_folder_of_a_run_may_not_name_code(tmp_path):
    """Such a folder may have been downloaded, with the file that the recipe names."""
    (tmp_path / "recipe.yaml").write_text("task: own.py:Task\n")
    assert parse([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path)]).task == "own.py:Task"
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="names the task 'own.py:Task', which is Python code"):
        parse([str(tmp_path / "recipe.yaml")])
    assert parse([str(tmp_path / "recipe.yaml"), "--task", "own.py:Task"]).task == "own.py:Task"
