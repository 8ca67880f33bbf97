"""The YAML metadata at the start of a README.md, and its validation."""

import math
import re

import yaml

from .errors import bad_request

BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(.*?\r?\n|)---[ \t]*(\r?\n|\Z)", re.DOTALL)
TEXT_FIELDS = ("language", "license", "tags", "datasets", "metrics", "base_model", "pipeline_tag", "library_name")
SPACE_SDKS = ("gradio", "docker", "static", "streamlit")


def read(text: str) -> dict | None:
    """The metadata as JSON values, None if there is none; 400 unless it is a YAML mapping."""
    block = BLOCK.match(text)
    if block is None:
        return None
    try:
        values = yaml.safe_load(block[1])
    except (yaml.YAMLError, ValueError) as error:
        raise bad_request(f"YAML Metadata Error: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise bad_request("YAML Metadata Error: the metadata must be a mapping")
    return _plain(values)


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    usable = value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if usable else str(value)


def problems(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Warnings and errors of a README.md."""
    values = read(text)
    if not values:
        return ["empty or missing yaml metadata in repo card"], []
    errors = [f'"{key}" must be a string or a list of strings' for key in TEXT_FIELDS if not _is_text(values.get(key))]
    errors += _index_errors(values["model-index"]) if values.get("model-index") is not None else []
    if kind == "space" and values.get("sdk") not in SPACE_SDKS:
        errors.append(f'"sdk" must be one of {", ".join(SPACE_SDKS)}')
    return [], errors


def _is_text(value) -> bool:
    # a common mistake: the YAML values no, on and 1.0 are not strings
    return (
        value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    )


def _index_errors(index) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for number, model in enumerate(index):
        where = f"model-index[{number}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"{where}.name" is required')
        elif not isinstance(model.get("results"), list):
            errors.append(f'"{where}.results" must be an array')
        else:
            errors += [
                e for i, result in enumerate(model["results"]) for e in _result_errors(result, f"{where}.results[{i}]")
            ]
    return errors


def _result_errors(result, where: str) -> list[str]:
    """Missing fields of a result: task type, data set name and type, and metrics with type and value."""
    needed = {"task": ("type",), "dataset": ("name", "type")}
    result = result if isinstance(result, dict) else {}
    errors = [
        f'"{where}.{key}.{inner}" is required'
        for key, inners in needed.items()
        for inner in inners
        if not isinstance(result.get(key), dict) or not isinstance(result[key].get(inner), str)
    ]
    metrics = result.get("metrics")
    if not isinstance(metrics, list):
        return [*errors, f'"{where}.metrics" is required']
    for number, metric in enumerate(metrics):
        if not isinstance(metric, dict) or not isinstance(metric.get("type"), str) or metric.get("value") is None:
            errors.append(f'"{where}.metrics[{number}]" needs a type and a value')
    return errors
