"""A finished run as others load it: the published folder and its card."""

from pathlib import Path

from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from . import networks, record
from .cards import model_card
from .methods import load
from .models import save_published
from .saving import save_extra


def export(folder: Path, trainer, processor: BaseImageProcessor, config, run: dict) -> None:
    """Write network, preprocessor, method, run record and card into `folder`."""
    if trainer.averaged is None:
        save_published(trainer.model, processor, folder)
    else:
        with trainer.averaged.swapped():
            save_published(trainer.model, processor, folder)
    save_extra(folder, trainer.step, None)
    write_card(folder, config, run, trainer.model)
    record.write(run, folder)


def write_card(folder: Path, config, run: dict, model: PreTrainedModel) -> None:
    """README.md of a finished run."""
    method = load(run["method"]["name"], **run["method"]["args"])
    timm_model = hasattr(model, "timm_model")
    base = config.model if "/" in config.model and not Path(config.model).exists() else None
    if config.pretrained and timm_model and base is None:
        base = f"timm/{config.model}"
    library = "timm" if timm_model else "transformers"
    ours = getattr(model.config, "architecture", None) in networks.__all__
    card = model_card(run, method.title, method.link, base, library, ours)
    card.save(folder / "README.md")
