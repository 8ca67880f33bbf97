"""Recipes in YAML with their bases, and command-line options that override them."""

import difflib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, get_args, get_origin

from ..components.references import references
from ..errors import ConfigError
from ..plain_data import Damaged, parse_yaml, read_text
from .types import accepted_types, convert, expected, is_enum, short_repr

Fields = Mapping[str, Field]
COMMAND_LINE = "the command line"
COMPONENTS = ("model", "method", "optimizer", "task")  # each has a field `<name>_args`
ARGUMENTS = tuple(f"{name}_args" for name in COMPONENTS)
REMOVED = {"shuffle_block": "use shuffle_memory, the memory for shuffling in bytes or as 1GiB, or leave it out"}
OF_THE_DATA = ("revision", "data_config")  # no other data set has this commit or this configuration
SYNONYMS = {  # names in other libraries, and the field or argument here
    "alpha": "method_args.alpha",
    "mixup_alpha": "method_args.alpha",
    "cutmix_alpha": "method_args.alpha",
    "smoothing": "label_smoothing",
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "workers": "dataloader_num_workers",
    "clip_grad": "max_grad_norm",
    "dataset": "data",
    "drop": "model_args.drop_rate",
    "dropout": "model_args.drop_rate",
    "max_epochs": "num_train_epochs",
    "wd": "weight_decay",
    "drop_path": "model_args.drop_path_rate",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "opt": "optimizer",
    "warmup_ratio": "warmup_steps (a value below 1 is a share of all steps)",
}


def load_yaml(text: str, where: str) -> Any:
    """The value of a YAML text: plain data only, no code runs. `where` is for messages. Raises ConfigError."""
    try:
        return parse_yaml(text)
    except Damaged as error:
        raise ConfigError(f"{where}{error}.") from None


def recipes_folder() -> Path:
    """The folder of the package's recipes."""
    spec = importlib.util.find_spec("hf_mixup.recipes")
    if spec:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).resolve().parents[2] / "recipes"  # in a source checkout


def recipe_names() -> list[str]:
    """The names of the package's recipes, sorted, for example `cifar10/mixup`."""
    folder = recipes_folder()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
    return [name for name in names if not name.startswith("accelerate/")]


def find_recipe(name: str) -> Path:
    """Path of a recipe: a file, or the name of one of the package's recipes, for example `cifar10/mixup`."""
    folder = recipes_folder()
    for path in (Path(name), folder / name, folder / f"{name}.yaml"):
        if os.path.isfile(path):  # false, not an error, for a name that is too long
            return path
    near = difflib.get_close_matches(name.removesuffix(".yaml"), recipe_names(), n=3, cutoff=0.0)
    raise ConfigError(f"There is no recipe file {name!r}. Nearest recipes of the package: {', '.join(near) or 'none'}.")


def read_recipe(path: Path, fields: Fields, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a recipe file, merged over those of its bases; null stands for the default.

    `above`: the recipes that have this one as their base.
    """
    chain = (*above, Path(os.path.normpath(path)))
    if chain[-1].resolve() in [other.resolve() for other in above]:
        raise ConfigError(
            f"The bases of these recipes form a cycle: {' -> '.join(map(str, chain))}. Remove one `base`."
        )
    try:
        text = read_text(path)
    except Damaged as error:
        base = f" It is the base of {above[-1]}; the path is relative to that file." if above else ""
        raise ConfigError(f"Cannot read the recipe {chain[-1]}: {error}.{base}") from None
    values = load_yaml(text, str(path))
    if not isinstance(values, dict):
        found = "empty" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path} is {found}, not a mapping. A recipe has lines such as `method: cutmix`.")
    bases = values.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"base is {short_repr(bases)} in {path}, expected a path or a list of paths.")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, read_recipe(path.parent / base, fields, chain), fields)
    values = {check_key(key, fields, str(path)): value for key, value in values.items()}
    if above:  # `load_config` checks the recipe itself, without what the command line overrides
        check_published(path, values)
    return merge(merged, {key: convert(fields[key], value, str(path)) for key, value in values.items()}, fields)


def check_published(path: Path, recipe: dict[str, Any]) -> None:
    """Raise ConfigError if the recipe of a run's folder, which may have been downloaded, names Python code, or lets
    data read any file."""
    if not (path.parent / "run.json").is_file():
        return
    if recipe.get("allow_outside_files"):
        raise ConfigError(
            f"{path} sets allow_outside_files, and is in the folder of a run, which may have been downloaded. If you "
            "trust its data, pass --allow_outside_files true on the command line."
        )
    for name in ("task", "method"):
        for value in references([recipe.get(name), recipe.get(f"{name}_args")]):
            raise ConfigError(
                f"{path} names the {name} {value!r}, which is Python code, and is in the folder of a run, which "
                f"may have been downloaded. Read the code; if you trust it, pass --{name} {recipe.get(name)} on the "
                "command line, or copy the recipe to another folder."
            )


def merge(base: dict[str, Any], child: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """The base updated with the child.

    Arguments are merged by key, or dropped if their component changes. OF_THE_DATA are dropped if `data` changes.
    """
    merged = dict(base)
    if "data" in child and child["data"] != base.get("data", child["data"]):
        for name in OF_THE_DATA:
            merged.pop(name, None)
    for name in COMPONENTS:
        before = merged.get(name) or fields[name].default
        if name in child and (child[name] or fields[name].default) != before:
            merged.pop(f"{name}_args", None)
    for key, value in child.items():
        merged[key] = _merge_arguments(merged.get(key), value) if key in ARGUMENTS else value
    return merged


def _merge_arguments(old: Any, new: Any) -> Any:
    """The new value; mappings are merged by key, unless the new one names another inner method."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if "name" in old and new.get("name", old["name"]) != old["name"]:
        return new
    return {**old, **{key: _merge_arguments(old.get(key), value) for key, value in new.items()}}


def check_key(key: Any, fields: Fields, where: str) -> str:
    """The key, if it is a field that may be set in `where`; else raise ConfigError."""
    if key == "hub_token":
        raise ConfigError(
            f"hub_token is refused in {where}, because shell histories and run records would contain it. Set the "
            "environment variable HF_TOKEN, or log in once with `hf auth login`."
        )
    if key == "trust_remote_code" and where != COMMAND_LINE:
        raise ConfigError(
            f"trust_remote_code is refused in {where}, because a recipe may come from an unknown source. Read the "
            "model's code, then pass --trust_remote_code true on the command line."
        )
    if key in REMOVED:
        raise ConfigError(f"{key} in {where} was removed: {REMOVED[key]}.")
    if key not in fields or key in SYNONYMS:  # older transformers still have warmup_ratio
        near = SYNONYMS.get(key) or difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)[0]
        raise ConfigError(f"Unknown key {short_repr(key)} in {where}. Nearest known key: {near}.")
    return key


def parse_options(argv: list[str], fields: Fields) -> dict[str, Any]:
    """Values of options: `--field value`, `--field=value`, `--flag`, `--list a b`, `--method_args.alpha 1`."""
    where, values, position = COMMAND_LINE, {}, 0
    while position < len(argv):
        option, equals, value = argv[position].partition("=")
        stop = next((i for i in range(position + 1, len(argv)) if argv[i].startswith("--")), len(argv))
        words = ([value] if equals else []) + argv[position + 1 : stop]
        position = stop
        key, *inner = option.removeprefix("--").split(".")
        key = check_key(key.replace("-", "_"), fields, where)
        if inner and key not in ARGUMENTS:
            raise ConfigError(f"Unknown option {option} on {where}: {key} accepts no keys. Use --{key}.")
        parsed = _option_value(words, option, None if inner else fields[key])
        for part in reversed(inner):
            parsed = {part: parsed}
        values[key] = convert(fields[key], _merge_arguments(values.get(key), parsed), where)
    return values


def _option_value(words: list[str], option: str, field: Field | None) -> Any:
    """The value of one option: text if the field accepts text, else parsed as YAML."""
    types = accepted_types(field.type) if field else ()
    lists = [kind for kind in types if get_origin(kind) is list]
    as_text = any(kind is str or is_enum(kind) or get_args(kind) == (str,) for kind in types)
    place = f"{option} on the command line"
    if not words:
        if not field or bool in types or "const" in field.metadata:
            return True
        raise ConfigError(f"{place} requires a value: {expected(field)}.")
    if len(words) > 1 and field and not lists:
        raise ConfigError(f"{place} takes one value, not {len(words)}: {short_repr(' '.join(words))}.")
    if words == ["null"]:
        return None
    if len(words) == 1 and words[0][:1] in ("[", "{") and (not field or lists or dict in types):
        return load_yaml(words[0], place)
    parsed = [word if as_text else load_yaml(word, place) for word in words]
    return parsed if len(words) > 1 or (lists and str not in types) else parsed[0]
