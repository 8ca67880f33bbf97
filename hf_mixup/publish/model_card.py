"""The model card: metadata for the Hub, and a page written from the run record only."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..files import hub_card
from ..hub.markdown import clean, code, escaped
from .seeds import results, same_recipe

SAMPLE_OF = "zalando-datasets/fashion_mnist"  # the packaged sample is a subset of it
SAMPLE = "a class-balanced sample of Fashion-MNIST (2,000 training and 500 test images)"
MAX_CLASS_NAMES = 1000  # config.json lists all


def model_card(
    record: dict,
    *,
    title: str,
    link: str,
    library: str,
    own_architecture: bool,
    classes: Sequence[str],
    picture: bool,
    place: tuple[str | None, str | None] = (None, None),
    others: Sequence[dict] = (),
) -> ModelCard:
    """The card of a finished run.

    `title` and `link`: of the method's paper. `library`: the library that loads the model. `own_architecture`: whether
    `import hf_mixup` is required first. `picture`: whether mixed.png is in the card's folder. `place`: repository and
    revision, if known.
    `others`: records of runs of the same recipe with other seeds.
    """
    values = {
        **_record_values(record),
        "method": f"[{escaped(title)}]({link})" if link else escaped(title),
        "pipeline_code": code(use_code(place, record["task"], own_architecture), "python"),
        "pipeline": record["task"]["pipeline_tag"],
        "loading_code": code(loading_code(place, library), "python"),
        "deep": record["data"].get("scaled_to_8_bits") is True,
        "local": place[0] is None,
        "own_architecture": own_architecture,
        "results": results(same_recipe([record, *others])),
        "picture": picture,
        "classes": ", ".join(map(escaped, classes[:MAX_CLASS_NAMES])),
        "more_classes": max(0, len(classes) - MAX_CLASS_NAMES),
        "count": len(classes),
    }
    path = str(hub_card("model_card.md"))
    return ModelCard.from_template(_metadata(record, library), template_path=path, **values)


def _record_values(record: dict) -> dict:
    """The template's values that come from the record alone."""
    method, model = record["method"], record["model"]
    base = model.get("base_model")
    return {
        "title": escaped(heading(record)),
        "model_name": escaped(model["name"]),
        "parameters": f"{model['parameters']:,}",
        "base": f" It was fine-tuned from [{base}](https://huggingface.co/{base})." if valid_id(base) else "",
        "data_name": data_link(record["data"]),
        "task": _task(record["task"]),
        "outputs": "pooler_output" if record["task"]["auto_class"] == "AutoModel" else "logits",
        "method_name": method["name"],
        "method_args": code(json.dumps(method["args"], indent=2), "json"),
        "recipe": code(recipe(record), "yaml"),
        "cost": cost(record),
        "source": source(record),
        "versions": ", ".join(f"{package} {number}" for package, number in record["versions"].items()),
        "hash": record["recipe_hash"],
    }


def heading(record: dict) -> str:
    """The title of the run: model and method."""
    return f"{clean(Path(record['model']['name']).name)} with {record['method']['name']}"


def _metadata(record: dict, library: str) -> ModelCardData:
    data = hub_id(record["data"]["path"])
    base = record["model"].get("base_model")
    task, final = record["task"], record["final"]
    measured = [metric for metric in task["metrics"] if final.get(metric["key"]) is not None]
    results = [_result(record, metric) for metric in measured]
    main = [metric["kind"] for metric in task["metrics"] if metric["key"] == task["metric"]]
    tag = [task["pipeline_tag"]] if task["pipeline_tag"] else []
    return ModelCardData(
        library_name=library,
        pipeline_tag=task["pipeline_tag"],
        base_model=base if valid_id(base) else None,
        datasets=[data] if data else None,
        metrics=main or None,
        tags=[*tag, "mixup", record["method"]["name"], "hf_mixup"],
        model_name=heading(record),
        eval_results=results or None,
    )


def _result(record: dict, metric: dict) -> EvalResult:
    data, task = record["data"], record["task"]
    dataset_id = hub_id(data["path"])
    return EvalResult(
        task_type=task["pipeline_tag"] or "other",
        task_name=clean(task["title"] or task["name"]),
        dataset_type=dataset_id or "imagefolder",
        dataset_name=clean(data_name(data["path"])),
        dataset_config=clean(data["config"]) if data["config"] is not None else None,
        dataset_split=clean(data["eval_split"]),
        dataset_revision=data["revision"] if dataset_id == data["path"] else None,
        metric_type=metric["kind"],
        metric_value=round(record["final"][metric["key"]], 6),
        metric_name=metric["title"],
    )


def _task(task: dict) -> str:
    """The task and its settings, in words."""
    settings = ", ".join(f"{name} {value}" for name, value in task["args"].items())
    return f"`{clean(task['name'])}`" + (f" ({escaped(settings)})" if settings else "")


def eval_results(record: dict) -> str | None:
    """YAML for .eval_results/, None unless the data is a data set of the Hub; the sample is only a subset of one."""
    data, task, value = record["data"], record["task"], record["final"].get(record["task"]["metric"])
    if hub_id(data["path"]) != data["path"] or value is None:
        return None
    titles = {metric["key"]: metric["title"] for metric in task["metrics"]} | {"top1": "top-1 accuracy"}
    title = clean(titles.get(task["metric"], task["metric"]))
    note = f"{title}, split {clean(data['eval_split'])}, seed {record['seed']}, recipe {record['recipe_hash']}"
    entry = EvalResultEntry(
        dataset_id=data["path"],
        task_id=clean(data["config"] or "default"),
        value=round(value, 6),
        dataset_revision=data["revision"],
        notes=note,
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def use_code(place: tuple[str | None, str | None], task: dict, own_architecture: bool) -> str:
    """Code that loads the model from the repository and revision, or from the working directory.

    It is a pipeline if one fits the task, else the network and its image processor.
    """
    repo, revision = place
    first = "import hf_mixup  # registers the architecture\n" if own_architecture else ""
    source = json.dumps(repo or ".") + (f", revision={json.dumps(revision)}" if revision else "")
    if task["pipeline_tag"]:
        line = f"classify = pipeline({json.dumps(task['pipeline_tag'])}, model={source})"
        return f"{first}from transformers import pipeline\n\n{line}"
    name = task["auto_class"]
    lines = [f"model = {name}.from_pretrained({source})", f"processor = AutoImageProcessor.from_pretrained({source})"]
    return f"{first}from transformers import AutoImageProcessor, {name}\n\n" + "\n".join(lines)


def loading_code(place: tuple[str | None, str | None], library: str) -> str:
    """Code that loads model, processor and method with hf_mixup, and the timm model if there is one."""
    repo, revision = place
    argument = f", revision={json.dumps(revision)}" if revision else ""
    lines = [
        "import hf_mixup",
        "",
        f"model, processor, method = hf_mixup.load_pretrained({json.dumps(repo or '.')}{argument})",
    ]
    if library == "timm" and repo:
        name = f"hf_hub:{repo}{f'@{revision}' if revision else ''}"
        lines[1:1] = ["import timm"]
        lines.append(f"timm_model = timm.create_model({json.dumps(name)}, pretrained=True)")
    elif library == "timm":  # before timm 1.0.31, its `local-dir:` loads the wrong one of several weight files
        lines.append("timm_model = model.timm_model")
    return "\n".join(lines)


def recipe(record: dict) -> str:
    """The run's recipe as YAML for the command line."""
    data = record["data"]
    lines = [f"# Recipe {record['recipe_hash']}; data revision {clean(data['revision'])}."]
    if hub_id(data["path"]) is None:
        lines.append("# Local folders are given by name only: replace them by your paths.")
    return "\n".join(lines) + "\n" + yaml.safe_dump(record["recipe"], sort_keys=False, width=100)


def cost(record: dict) -> str:
    """Speed, time and memory of the training, in words."""
    rate = "speed not measured" if record["images_per_s"] is None else f"{record['images_per_s']:,} training images/s"
    processes = "one process" if record["world_size"] == 1 else f"{record['world_size']} processes"
    return (
        f"{rate} in {processes} on {escaped(record['device'])}; {record['wall_s']:,} s of training for "
        f"{record['steps']:,} steps; peak memory {record['peak_mb']:,} MB"
    )


def source(record: dict) -> str:
    """Revision and split of the data, and commit of the code, in words."""
    data = record["data"]
    config = f", configuration {escaped(data['config'])}" if data["config"] is not None else ""
    commit = f"commit `{clean(record['commit'])}`" if record["commit"] else "an installed package without a commit"
    return (
        f"data revision `{clean(data['revision']).replace('`', '')}`{config}, trained on split "
        f"{escaped(data['train_split'])}; hf_mixup from {commit}"
    )


def valid_id(name: object) -> bool:
    """Whether `name` is a valid name of a Hub repository."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return isinstance(name, str)


def hub_id(path: str) -> str | None:
    """The Hub id of the data set with this path in a run record, None for a local folder."""
    if path == "sample":
        return SAMPLE_OF
    return path if not path.startswith((".", "/", "~")) and valid_id(path) else None


def data_name(path: str) -> str:
    """The data set in words, without the location of a local folder."""
    if path == "sample":
        return SAMPLE
    return path if hub_id(path) else f"the local data set {Path(path).name}"


def data_link(data: dict) -> str:
    """The data set in Markdown, with a link if it is on the Hub."""
    path = data["path"]
    if hub_id(path) == path:
        return f"[{escaped(path)}](https://huggingface.co/datasets/{path})"
    return SAMPLE if path == "sample" else escaped(data_name(path))
