"""The format of published models, which transformers and timm both load."""

import json
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel, TimmWrapperImageProcessor, TimmWrapperPreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor


def save_published(model: PreTrainedModel, processor: BaseImageProcessor, folder: str | Path) -> None:
    """Write model and image processor for transformers' Auto classes, `pipeline` and timm's `local-dir:`.

    A timm network is written as timm does (model.safetensors without prefixes and timm's config.json), a transformers
    network by its own `save_pretrained`. Networks that hf_mixup registers with timm can be loaded only
    after `import hf_mixup`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, TimmWrapperPreTrainedModel):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return
    # save_file refuses tensors that share memory; copies do not
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in model.timm_model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_timm_config(model, processor), indent=2) + "\n")


def _timm_config(model: TimmWrapperPreTrainedModel, processor: TimmWrapperImageProcessor) -> dict:
    """The config.json for both libraries: transformers refuses num_classes in model_args, timm refuses null values."""
    config, network = model.config, model.timm_model
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    problem_type = {} if config.problem_type is None else {"problem_type": config.problem_type}
    return {
        "architecture": config.architecture,
        **problem_type,
        "num_classes": config.num_labels,
        "num_features": network.num_features,
        "label_names": [config.id2label[i] for i in range(config.num_labels)],
        "model_args": dict(config.model_args or {}),
        "pretrained_cfg": {
            **(getattr(config, "pretrained_cfg", None) or {}),
            **{key: processor.data_config[key] for key in keys},
            "num_classes": config.num_labels,
        },
    }
