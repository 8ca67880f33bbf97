"""The model card: front matter that the Hub reads, and a page that only says what the run record proves."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .markdown import clean, code, escaped
from .seeds import METRICS, results, same_recipe

SAMPLE_OF = "zalando-datasets/fashion_mnist"  # the embedded sample is a part of it
SAMPLE = "a class-balanced sample of Fashion-MNIST (2,000 training and 500 test images)"
NAMED_CLASSES = 1000  # the others are in config.json


def model_card(
    record: dict,
    *,
    title: str,
    link: str,
    library: str,
    ours: bool,
    classes: Sequence[str],
    picture: bool,
    place: tuple[str | None, str | None] = (None, None),
    others: Sequence[dict] = (),
) -> ModelCard:
    """The card of a finished run.

    `title` and `link` are the method's in print; `library` loads the network, with `import hf_mixup` if it is one of
    `ours`; `picture`: whether mixed.png is beside the card; `place`: its repository and revision, where they are known;
    `others`: records of the same recipe with other seeds.
    """
    values = {
        **_told(record),
        "method": f"[{escaped(title)}]({link})" if link else escaped(title),
        "use": code(use(place, ours), "python"),
        "more": code(more(place, library), "python"),
        "here": place[0] is None,
        "ours": ours,
        "results": results(same_recipe([record, *others])),
        "picture": picture,
        "classes": ", ".join(map(escaped, classes[:NAMED_CLASSES])),
        "more_classes": max(0, len(classes) - NAMED_CLASSES),
        "count": len(classes),
    }
    path = str(template("model_card.md"))
    return ModelCard.from_template(_front(record, library), template_path=path, **values)


def _told(record: dict) -> dict:
    """What the card takes from the record alone."""
    method, network = record["method"], record["model"]
    base = network.get("base_model")
    return {
        "title": escaped(heading(record)),
        "model_name": escaped(network["name"]),
        "parameters": f"{network['parameters']:,}",
        "base": f" It started from [{base}](https://huggingface.co/{base})." if valid_id(base) else "",
        "data_name": data_link(record["data"]),
        "method_name": method["name"],
        "method_args": code(json.dumps(method["args"], indent=2), "json"),
        "recipe": code(recipe(record), "yaml"),
        "cost": cost(record),
        "origin": source(record),
        "versions": ", ".join(f"{package} {number}" for package, number in record["versions"].items()),
        "hash": record["recipe_hash"],
    }


def heading(record: dict) -> str:
    """The run in a few words: network and method."""
    return f"{clean(Path(record['model']['name']).name)} with {record['method']['name']}"


def _front(record: dict, library: str) -> ModelCardData:
    found = hub_id(record["data"]["path"])
    base = record["model"].get("base_model")
    told = [_result(record, *metric) for metric in METRICS if record["final"].get(metric[1]) is not None]
    return ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        base_model=base if valid_id(base) else None,
        datasets=[found] if found else None,
        metrics=["accuracy"],
        tags=["image-classification", "mixup", record["method"]["name"], "hf_mixup"],
        model_name=heading(record),
        eval_results=told or None,
    )


def _result(record: dict, kind: str, key: str, name: str) -> EvalResult:
    data = record["data"]
    found = hub_id(data["path"])
    return EvalResult(
        task_type="image-classification",
        task_name="Image classification",
        dataset_type=found or "imagefolder",
        dataset_name=clean(data_name(data["path"])),
        dataset_config=clean(data["config"]) if data["config"] is not None else None,
        dataset_split=clean(data["eval_split"]),
        dataset_revision=data["revision"] if found == data["path"] else None,
        metric_type=kind,
        metric_value=round(record["final"][key], 6),
        metric_name=name,
    )


def eval_results(record: dict) -> str | None:
    """YAML for .eval_results/, None where the data set is not one of the Hub as it is there (the sample is a part)."""
    data, final = record["data"], record["final"]
    if hub_id(data["path"]) != data["path"] or final.get("top1") is None:
        return None
    note = f"top-1 accuracy, split {clean(data['eval_split'])}, seed {record['seed']}, recipe {record['recipe_hash']}"
    entry = EvalResultEntry(
        dataset_id=data["path"],
        task_id=clean(data["config"] or "default"),
        value=round(final["top1"], 6),
        dataset_revision=data["revision"],
        notes=note,
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def use(place: tuple[str | None, str | None], ours: bool) -> str:
    """Lines that load a classifier, from the repository and revision, or from the folder they are run in."""
    repo, revision = place
    first = "import hf_mixup  # registers the network\n" if ours else ""
    at = f", revision={json.dumps(revision)}" if revision else ""
    return (
        f"{first}from transformers import pipeline\n\n"
        f'classify = pipeline("image-classification", model={json.dumps(repo or ".")}{at})'
    )


def more(place: tuple[str | None, str | None], library: str) -> str:
    """Lines that load the network for timm, where it is one of timm's, and everything for us."""
    repo, revision = place
    name = f"hf_hub:{repo}{f'@{revision}' if revision else ''}" if repo else "local-dir:."
    at = f", revision={json.dumps(revision)}" if revision else ""
    lines = [
        "import hf_mixup",
        "",
        f"model, processor, method = hf_mixup.load_pretrained({json.dumps(repo or '.')}{at})",
    ]
    if library == "timm":
        lines[1:1] = ["import timm"]
        lines.append(f"network = timm.create_model({json.dumps(name)}, pretrained=True)")
    return "\n".join(lines)


def recipe(record: dict) -> str:
    """The run's recipe as the YAML that the command line takes."""
    data = record["data"]
    lines = [f"# Recipe {record['recipe_hash']}; data revision {clean(data['revision'])}."]
    if hub_id(data["path"]) is None:
        lines.append("# The data and other folders are named without where they were: put yours.")
    return "\n".join(lines) + "\n" + yaml.safe_dump(record["recipe"], sort_keys=False, width=100)


def cost(record: dict) -> str:
    """What the training took, in words."""
    rate = "none measured" if record["images_per_s"] is None else f"{record['images_per_s']:,} training images/s"
    many = "one process" if record["world_size"] == 1 else f"{record['world_size']} processes"
    return (
        f"{rate} on {many} of {escaped(record['device'])}; {record['wall_s']:,} s of training for {record['steps']:,} "
        f"steps; {record['peak_mb']:,} MB of memory at most"
    )


def source(record: dict) -> str:
    """Where data, code and recipe came from, in words."""
    data = record["data"]
    config = f", configuration {escaped(data['config'])}" if data["config"] is not None else ""
    commit = f"commit `{clean(record['commit'])}`" if record["commit"] else "an installed package, not a checkout"
    return (
        f"data revision `{clean(data['revision']).replace('`', '')}`{config}, trained on split "
        f"{escaped(data['train_split'])}; hf_mixup from {commit}"
    )


def valid_id(name: object) -> bool:
    """Whether a repository of the Hub can have that name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return isinstance(name, str)


def hub_id(path: str) -> str | None:
    """The data set's id on the Hub, None for a local folder; of a path as records have it."""
    if path == "sample":
        return SAMPLE_OF
    return path if not path.startswith((".", "/", "~")) and valid_id(path) else None


def data_name(path: str) -> str:
    """The data set in words, without a machine's folders."""
    if path == "sample":
        return SAMPLE
    return path if hub_id(path) else f"the local data set {Path(path).name}"


def data_link(data: dict) -> str:
    """The data set in Markdown, a link where it is on the Hub."""
    path = data["path"]
    if hub_id(path) == path:
        return f"[{escaped(path)}](https://huggingface.co/datasets/{path})"
    return SAMPLE if path == "sample" else escaped(data_name(path))


def template(name: str) -> Path:
    """A file of hub_cards/: the packaged one, or that of the checkout."""
    spec = find_spec("hf_mixup.hub_cards")
    folder = Path(spec.submodule_search_locations[0]) if spec else Path(__file__).parents[2] / "hub_cards"
    return folder / name
