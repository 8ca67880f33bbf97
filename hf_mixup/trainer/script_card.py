"""The model card of a user's script: `create_model_card` and `push_to_hub` of MixupTrainer."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import transformers
from huggingface_hub import HfApi
from transformers import Trainer
from transformers.modelcard import TrainingSummary
from transformers.utils import PushToHubMixin

from ..errors import redacted
from ..files import atomic_write, portable
from ..hub.card_section import CARD, Card, in_folder, merged, on_hub
from ..hub.markdown import clean, code, escaped
from ..plain_data import Damaged, read_json
from ..version import __version__

RECORD = "run.json"  # of `hf-mixup train` in the same folder
TIMING = ("runtime", "per_second", "preparation_time", "compilation_time")


def push_to_hub(trainer, *args, **kwargs):
    """As `Trainer.push_to_hub`; the text that a person wrote in the card of the repository or folder is kept."""
    given = inspect.signature(Trainer.push_to_hub).bind(trainer, *args, **kwargs).arguments
    token = given.get("token") or trainer.args.hub_token
    if trainer.is_world_process_zero():
        if trainer.hub_model_id is None:
            private = {"private": given["private"]} if "private" in given else {}
            trainer.init_hf_repo(token=token, **private)
        revision = given.get("revision") or trainer.args.hub_revision
        kwargs["published"] = on_hub(HfApi(token=token), trainer.hub_model_id, revision)
    return Trainer.push_to_hub(trainer, *args, **kwargs)


def create_model_card(
    trainer,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
    *,
    published: Sequence[Card] = (),
) -> None:
    """As `Trainer.create_model_card`: writes README.md with the method, its arguments and the training.

    A card that a person wrote is kept: ours is a marked section of it. `published`: the card in the repository.
    """
    if not trainer.is_world_process_zero():
        return
    named = {"tasks": tasks or trainer.task.card.pipeline_tag, "model_name": model_name}
    data = {"dataset_tags": dataset_tags, "dataset": dataset, "dataset_args": dataset_args}
    has_config = hasattr(trainer.model, "config")
    base = finetuned_from if has_config or finetuned_from else ""  # upstream reads the configuration for None
    tags = [tags] if isinstance(tags, str) else list(tags or ())
    summary = TrainingSummary.from_trainer(
        trainer, language=language, license=license, tags=tags, finetuned_from=base, **named, **data
    )
    folder = Path(trainer.args.output_dir)
    text = merged(_section(trainer, summary, folder), _metadata(trainer, summary), [*in_folder(folder), *published])
    atomic_write(folder / CARD, text)


def _metadata(trainer, summary: TrainingSummary) -> dict:
    """Upstream's metadata, with the task and the tags of the method."""
    found = summary.create_metadata()
    if not any(entry.get("results") for entry in found["model-index"]):
        del found["model-index"]
    if not isinstance(trainer.model, PushToHubMixin):
        found["library_name"] = "hf_mixup"
    tag = trainer.task.card.pipeline_tag
    ours = [*([tag] if tag else []), "mixup", clean(trainer.method.name), "hf_mixup"]
    found["tags"] = list(dict.fromkeys([*found.get("tags", ()), *ours]))
    return found | ({"pipeline_tag": tag} if tag else {})


def _section(trainer, summary: TrainingSummary, folder: Path) -> str:
    """Our section: what was trained how, and with which results."""
    method, task = trainer.method, trainer.task
    title = escaped(method.title or method.name)
    base = f", fine-tuned from {escaped(summary.finetuned_from)}" if summary.finetuned_from else ""
    data = ", ".join(escaped(name) for name in _listed(summary.dataset)) or "a data set of the training script"
    settings = portable(method.hyperparameters())
    lines = [f"- {escaped(name)}: {escaped(value)}" for name, value in (summary.hyperparameters or {}).items()]
    parts = [
        f"# {escaped(summary.model_name)}",
        f"Trained with {f'[{title}]({method.link})' if method.link else title} by hf_mixup on {data}{base}.",
        f"## Method\n\nTask `{clean(task.name)}`, method `{clean(method.name)}` with",
        code(json.dumps(settings, indent=2, default=lambda value: type(value).__name__), "json"),
        f"## Results\n\n{_results(trainer)}",
        "## Training\n\n" + "\n".join(lines),
        _record(folder),
        f"Versions: hf_mixup {__version__}, transformers {transformers.__version__}.",
    ]
    return redacted("\n\n".join(filter(None, parts)))


def _results(trainer) -> str:
    """The last evaluation as a Markdown table."""
    entry = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), {})
    found = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    numbers = {k: v for k, v in found.items() if isinstance(v, int | float) and not k.endswith(TIMING)}
    if not numbers:
        return "The model was not evaluated."
    head, row = " | ".join(map(escaped, numbers)), " | ".join(f"{value:.4g}" for value in numbers.values())
    return f"| {head} |\n{'|---' * len(numbers)}|\n| {row} |\n\nAfter step {entry.get('step')}, without mixing."


def _record(folder: Path) -> str:
    """A sentence about the record of the run in the same folder; "" if there is none."""
    try:
        values = read_json(folder / RECORD)
    except Damaged:
        return ""
    return f"The recipe of the run, {escaped(values.get('recipe_hash'))}, and all its metrics are in `{RECORD}`."


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
