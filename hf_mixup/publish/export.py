"""Export a finished run to a folder that other libraries can load, with its model card."""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from transformers.image_processing_utils import BaseImageProcessor

from ..components.references import nested_names, only_given
from ..errors import CardError, one_paragraph
from ..files import atomic_write
from ..hub.card_section import CARD, Card, in_folder, merged
from ..hub.download import CONFIG, read_json
from ..methods import available, load
from ..models import architectures as networks
from ..models import save_published
from ..runs import record
from ..trainer.sample_grid import NAME, write_picture
from ..trainer.weights import save_extra
from .model_card import eval_results, hub_id, model_card, recipe

RECIPE, EVAL_RESULTS = "recipe.yaml", ".eval_results/hf_mixup.yaml"
LINK = re.compile(r"https://[\w./%-]+")
TIMEOUT = 10.0  # seconds, of the request that checks whether a data set is public


def export(folder: Path, trainer, processor: BaseImageProcessor, config, run: dict) -> None:
    """Write model, image processor, method, picture, recipe, model card and run record to `folder`."""
    if trainer.ema is None:
        _write_model(folder, trainer, processor, config, run)
    else:
        with trainer.ema.swapped():
            _write_model(folder, trainer, processor, config, run)
    _write_card(folder, run, cards=in_folder(Path(config.output_dir)))
    record.write(run, folder)


def _write_model(folder: Path, trainer, processor: BaseImageProcessor, config, run: dict) -> None:
    save_published(trainer.model, processor, folder)
    save_extra(folder, trainer.step, None)
    (folder / NAME).unlink(missing_ok=True)
    if shows_images(config.hub_picture, run["data"]["path"]):
        write_picture(folder, trainer)


def shows_images(requested: bool | None, path: str) -> bool:
    """Whether the card may show training images: as requested, by default only images of public data.

    Public data: the sample, and data sets on the Hub that are neither private nor gated at this time.
    """
    if requested is not None or path == "sample":
        return requested is not False
    if hub_id(path) is None:
        return False
    try:
        return not HfApi(token=False).dataset_info(path, timeout=TIMEOUT).gated
    except (OSError, HTTPError, ValueError):
        return False


def rewrite_card(
    folder: str | Path,
    repo: str | None = None,
    others: Sequence[str | Path | dict] = (),
    *,
    revision: str | None = None,
    published: Sequence[Card] = (),
) -> None:
    """Write the model card of a finished run again, from the files in its folder; what a person wrote in it is kept.

    With `repo` (and `revision`), the code in the card loads the model from there. `others`: runs of the same recipe
    with other seeds, as folders or records; the card then has mean and standard deviation. `published`: the card in
    the repository, in which a person may have written. Raises CardError.
    """
    runs = [_finished(folder), *(record.with_task(run) if isinstance(run, dict) else _finished(run) for run in others)]
    cards = [*in_folder(Path(folder)), *published]
    try:
        _write_card(Path(folder), runs[0], (repo, revision), runs[1:], cards)
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise CardError(
            f"The card of {folder} cannot be written, because its {record.NAME} or {CONFIG} lacks entries or has wrong "
            f"ones ({type(error).__name__}: {one_paragraph(error)[:200]}): restore the file, or train again."
        ) from error


def _finished(folder: str | Path) -> dict:
    run = record.read(folder)
    if run is None or run.get("status") != "finished":
        raise CardError(f"{folder} is not the folder of a finished run: give one with a {record.NAME}.")
    return run


def _write_card(
    folder: Path, run: dict, place: tuple = (None, None), others: Sequence[dict] = (), cards: Sequence[Card] = ()
) -> None:
    """Write README.md, recipe.yaml and .eval_results of a finished run whose model is in `folder`.

    `cards`: those whose text of a person is kept.
    """
    title, link = method_title(run["method"])
    network = read_json(folder / CONFIG, str(folder))
    card = model_card(
        run,
        title=title,
        link=link,
        library="timm" if "architecture" in network else "transformers",
        own_architecture=network.get("architecture") in networks.__all__,
        classes=class_names(network),
        picture=(folder / NAME).is_file(),
        place=place,
        others=others,
    )
    atomic_write(folder / CARD, merged(card.text, card.data.to_dict(), cards))
    atomic_write(folder / RECIPE, recipe(run))
    if (results := eval_results(run)) is not None:
        atomic_write(folder / EVAL_RESULTS, results)


def method_title(entry: dict) -> tuple[str, str]:
    """Title and link of a method's paper, from its entry in a record; those of version 1 have the name only.

    A record may have been downloaded: no code that it names is imported.
    """
    if "title" in entry:
        link = str(entry.get("link") or "")
        return str(entry["title"] or entry["name"]), link if LINK.fullmatch(link) else ""
    if unknown := {entry["name"], *nested_names(entry["args"])} - {*available()}:
        raise CardError(f"The record names the methods {sorted(unknown)}, which hf_mixup does not have: update it.")
    with only_given():
        method = load(entry["name"], **entry["args"])
    return method.title, method.link


def class_names(network: dict) -> list[str]:
    """The class names in their order, from a config.json of timm or transformers."""
    if "label_names" in network:
        return [str(name) for name in network["label_names"]]
    names = network.get("id2label") or {}
    return [str(names[number]) for number in sorted(names, key=int)]
