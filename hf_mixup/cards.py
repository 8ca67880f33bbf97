"""The model card: front matter that the Hub reads, and a page that only says what the run record proves."""

import json
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

SAMPLE_OF = "zalando-datasets/fashion_mnist"  # the embedded sample is a part of it
# the Hub's name of a metric, ours, and how it is printed
METRICS = (("accuracy", "top1", "Top-1"), ("accuracy", "top5", "Top-5"), ("nll", "nll", "NLL"), ("ece", "ece", "ECE"))


def model_card(
    record: dict, title: str, link: str, base_model: str | None, library: str, needs_import: bool
) -> ModelCard:
    """The card of a finished run; `link` is the address of the method's paper, `base_model` what was fine-tuned."""
    method, data, final = record["method"], record["data"], record["final"]
    eval_split = data["eval_split"]
    name = record["model"]["name"]
    values = {
        "title": f"{Path(name).name} with {method['name']}",
        "model_name": name,
        "parameters": f"{record['model']['parameters']:,}",
        "method_title": title,
        "method_link": link or "#training",
        "method_name": method["name"],
        "method_args": json.dumps(method["args"], indent=2),
        "data_name": data_name(data["path"]),
        "eval_split": eval_split,
        "eval_rows": data["splits"][eval_split],
        "use": use(record, needs_import),
        "versions": ", ".join(f"{package} {number}" for package, number in record["versions"].items()),
        **{metric: shown(final[metric]) for metric in ("top1", "top5", "nll", "ece")},
        **{key: record[key] for key in ("seed", "images_per_s", "device", "wall_s", "peak_mb", "recipe_hash")},
        "revision": data["revision"],
    }
    front = _front(record, values["title"], eval_split, base_model, library)
    return ModelCard.from_template(front, template_path=str(template("model_card.md")), **values)


def _front(record: dict, title: str, eval_split: str, base_model: str | None, library: str) -> ModelCardData:
    source = hub_id(record["data"]["path"])
    return ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        base_model=base_model,
        datasets=[source] if source else None,
        metrics=["accuracy"],
        tags=["image-classification", "mixup", record["method"]["name"], "hf_mixup"],
        model_name=title,
        eval_results=[
            _result(record, eval_split, *metric) for metric in METRICS if record["final"][metric[1]] is not None
        ],
    )


def _result(record: dict, eval_split: str, kind: str, key: str, name: str) -> EvalResult:
    data = record["data"]
    source = hub_id(data["path"])
    return EvalResult(
        task_type="image-classification",
        task_name="Image classification",
        dataset_type=source or "imagefolder",
        dataset_name=data_name(data["path"]),
        dataset_split=eval_split,
        dataset_revision=data["revision"] if source == data["path"] else None,
        metric_type=kind,
        metric_value=round(record["final"][key], 6),
        metric_name=name,
    )


def use(record: dict, needs_import: bool, folder: str = "FOLDER_OR_REPO") -> str:
    """Lines that load the model and classify an image."""
    first = "import hf_mixup  # registers the network\n" if needs_import else ""
    return (
        f"{first}from transformers import pipeline\n\n"
        f'classify = pipeline("image-classification", model="{folder}")\nclassify("image.png")'
    )


def shown(value: float | None) -> str:
    """A metric with four digits; a training that diverged has none."""
    return "none" if value is None else f"{value:.4f}"


def hub_id(path: str) -> str | None:
    """The data set's id on the Hub, None for a local folder."""
    if path == "sample":
        return SAMPLE_OF
    return None if path.startswith((".", "/", "~")) or path.count("/") > 1 or Path(path).exists() else path


def data_name(path: str) -> str:
    """The data set in words, without a machine's folders."""
    if path == "sample":
        return "a class-balanced sample of Fashion-MNIST (2,000 training and 500 test images)"
    return path if hub_id(path) else f"the local data set {Path(path).name}"


def template(name: str) -> Path:
    """A file of hub_cards/: the packaged one, or that of the checkout."""
    spec = find_spec("hf_mixup.hub_cards")
    folder = Path(spec.submodule_search_locations[0]) if spec else Path(__file__).parent.parent / "hub_cards"
    return folder / name
