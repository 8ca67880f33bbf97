"""Reading recipes: YAML files with their bases, the command line over them, values by the type of their field."""

import difflib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from hf_mixup.config.types import convert, expected, is_enum, kinds, short

from ..errors import ConfigError

Fields = Mapping[str, Field]
COMMAND_LINE = "the command line"
NAMED = ("model", "method", "optimizer", "task")  # each has a field of arguments, `<name>_args`
ARGUMENTS = tuple(f"{name}_args" for name in NAMED)
ELSEWHERE = {  # what people type, out of habit, and what it is called here
    "alpha": "method_args.alpha",
    "batch_size": "per_device_train_batch_size",
    "drop_path": "model_args.drop_path_rate",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "opt": "optimizer",
    "warmup_ratio": "warmup_steps (below 1 it is a share of all steps)",
}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML forbids and PyYAML overlooks."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return node


def load_yaml(text: str, where: str) -> Any:
    """The value that YAML text stands for: plain data only, nothing is executed."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        # the lines themselves stay out of the message: one of them may hold a secret
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: this is not valid YAML: {error.problem}.") from None
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise ConfigError(f"{where}: this is not valid YAML ({type(error).__name__}).") from None


def packaged() -> Path:
    """Folder of the recipes that come with the package."""
    spec = importlib.util.find_spec("hf_mixup.recipes")
    if spec:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(__file__).resolve().parents[2] / "recipes"  # a source checkout has them beside the package


def find(name: str) -> Path:
    """Path of a recipe: a file, or one that comes with the package by its name, as in `cifar10/mixup`."""
    folder = packaged()
    for path in (Path(name), folder / name, folder / f"{name}.yaml"):
        if path.is_file():
            return path
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
    names = [known for known in names if not known.startswith("accelerate/")]
    near = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=3, cutoff=0.0)
    raise ConfigError(
        f"There is no recipe file {name!r}. The nearest recipes of the package: {', '.join(near) or 'none'}."
    )


def read(path: Path, fields: Fields, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a recipe file says, over what its bases say; null where it asks for the default."""
    chain = (*above, Path(os.path.normpath(path)))
    if chain[-1].resolve() in [other.resolve() for other in above]:
        raise ConfigError(f"These recipes are each other's base: {' -> '.join(map(str, chain))}. Take one `base` out.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        asked = f" It is the base of {above[-1]}, and looked for beside it." if above else ""
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"Cannot read the recipe {chain[-1]}: {reason}.{asked}") from None
    values = load_yaml(text, str(path))
    if not isinstance(values, dict):
        found = "empty" if values is None else f"a {type(values).__name__}"
        raise ConfigError(f"{path} is {found}, not a mapping. A recipe has lines such as `method: cutmix`.")
    bases = values.pop("base", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"base is {short(bases)} in {path}, expected a path or a list of paths.")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = merge(merged, read(path.parent / base, fields, chain), fields)
    values = {known(key, fields, str(path)): value for key, value in values.items()}
    return merge(merged, {key: convert(fields[key], value, str(path)) for key, value in values.items()}, fields)


def merge(base: dict[str, Any], child: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """The child over the base: arguments key by key unless what they are arguments of changes, the rest replaced."""
    merged = dict(base)
    for name in NAMED:
        before = merged.get(name) or fields[name].default
        if name in child and (child[name] or fields[name].default) != before:
            merged.pop(f"{name}_args", None)
    for key, value in child.items():
        merged[key] = _over(merged.get(key), value) if key in ARGUMENTS else value
    return merged


def _over(old: Any, new: Any) -> Any:
    """The new value, with those keys of the old one that it does not give."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if (
        "name" in old and new.get("name", old["name"]) != old["name"]
    ):  # another inner method: they are not its arguments
        return new
    return {**old, **{key: _over(old.get(key), value) for key, value in new.items()}}


def known(key: Any, fields: Fields, where: str) -> str:
    """The key itself if it is a field that may be set there."""
    if key == "hub_token":
        raise ConfigError(
            f"hub_token is not taken from {where}: what is written there is kept in histories and run records. Set the "
            "environment variable HF_TOKEN, or log in once with `hf auth login`."
        )
    if key == "trust_remote_code" and where != COMMAND_LINE:
        raise ConfigError(
            f"trust_remote_code is not taken from {where}: a recipe may come from anywhere, and only you can trust "
            "code. Read the code of the model, and say --trust_remote_code true on the command line."
        )
    if key not in fields:
        near = ELSEWHERE.get(key) or difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)[0]
        raise ConfigError(f"Unknown key {short(key)} in {where}. The nearest known one: {near}.")
    return key


def words(argv: list[str], fields: Fields) -> dict[str, Any]:
    """What the command line says: `--field value`, `--field=value`, `--flag`, `--list a b`, `--method_args.alpha 1`."""
    where, values, position = COMMAND_LINE, {}, 0
    while position < len(argv):
        option, equals, value = argv[position].partition("=")
        stop = next((i for i in range(position + 1, len(argv)) if argv[i].startswith("--")), len(argv))
        given = ([value] if equals else []) + argv[position + 1 : stop]
        position = stop
        key, *inner = option.removeprefix("--").split(".")
        key = known(key.replace("-", "_"), fields, where)
        if inner and key not in ARGUMENTS:
            raise ConfigError(f"{key} on {where} has no parts, so {option} is not known. Give {key} as a whole.")
        parsed = _word(given, option, None if inner else fields[key])
        for part in reversed(inner):
            parsed = {part: parsed}
        values[key] = convert(fields[key], _over(values.get(key), parsed), where)
    return values


def _word(given: list[str], option: str, field: Field | None) -> Any:
    """The value of one option: text as it is where the field takes text, else what YAML makes of it."""
    plain = kinds(field.type) if field else ()
    lists = [kind for kind in plain if get_origin(kind) is list]
    as_text = any(kind is str or is_enum(kind) or get_args(kind) == (str,) for kind in plain)
    place = f"{option} on the command line"
    if not given:
        if not field or bool in plain or "const" in field.metadata:
            return True
        raise ConfigError(f"{place} needs a value: {expected(field)}.")
    if len(given) > 1 and field and not lists:
        raise ConfigError(f"{place} takes one value, not {len(given)}: {short(' '.join(given))}.")
    if given == ["null"]:
        return None
    if len(given) == 1 and given[0][:1] in ("[", "{") and (not field or lists or dict in plain):
        return load_yaml(given[0], place)
    read_words = [word if as_text else load_yaml(word, place) for word in given]
    return read_words if len(given) > 1 or (lists and str not in plain) else read_words[0]
