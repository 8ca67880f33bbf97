"""Load a published run from a folder or the Hub: model, image processor and method."""

from pathlib import Path

import timm
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..components import is_reference, nested_names
from ..errors import CheckpointError, ModelError
from ..hub.download import fetch, read_json
from ..methods import Method, available, load
from ..models import architectures as networks  # noqa: F401  registers them with timm
from ..models.safe_load import load_network, load_processor
from ..net import Net
from ..runs.record import NAME, READABLE
from ..trainer.weights import METHOD, load_method
from ..version import __version__

MODEL_ONLY = "AutoModelForImageClassification of transformers loads the model without its method."


def load_pretrained(
    repo: str, revision: str | None = None, *, teachers: bool = False, method: type[Method] | None = None
) -> tuple[PreTrainedModel, BaseImageProcessor, Method | None]:
    """Return model, image processor and method from a run's folder or Hub repository; method is None for other models.

    `repo` is a folder if one of that name exists, else a Hub id, at the branch, tag or commit `revision`. The method
    has the trained weights of its own networks: pass it to `MixupTrainer(method=method)` to continue training. Only
    safetensors and JSON are read, and no code of the repository runs. `teachers`: whether the run record of a
    repository may name other repositories or folders as the method's teacher; timm names are always allowed. `method`:
    the class of a method of your own, which the run was trained with. Raises ModelError.
    """
    folder = fetch(repo, revision)
    model = load_network(repo, folder)
    processor = load_processor(repo, folder)
    trusted = teachers or Path(repo).expanduser().is_dir()
    recorded = _recorded_method(repo, folder, method)
    return model, processor, _built(recorded, repo, folder, model, trusted)


def _built(method: Method | None, repo: str, folder: Path, model: PreTrainedModel, trusted: bool) -> Method | None:
    """The method, built for `model`, with its weights; None without a method."""
    if method is None:
        return None
    teachers = [part.teacher for part in method.modules() if getattr(part, "teacher", None)]
    if not trusted and (unknown := [name for name in teachers if not timm.is_model(name)]):
        raise ModelError(
            f"The record of {repo!r} names a teacher, {unknown[0]!r}, which is not a timm model. If you trust it, pass "
            f"load_pretrained(..., teachers=True); {MODEL_ONLY}"
        )
    try:
        method.build(Net(model))
        load_method(folder, method)
    except CheckpointError as error:
        raise ModelError(f"{METHOD} of {repo!r} is missing: download it again. {MODEL_ONLY}") from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{METHOD} of {repo!r} is damaged ({error}): download it again. {MODEL_ONLY}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"Method {method.name!r} of {repo!r} does not fit its model ({reason}). {MODEL_ONLY}"
        ) from error
    method.loaded = True
    return method


def _recorded_method(repo: str, folder: Path, own: type[Method] | None) -> Method | None:
    """The method of the run record in `folder`, without weights; None if there is no run record of hf_mixup."""
    run = read_json(folder / NAME, repo) if (folder / NAME).is_file() else {}
    if not {"schema_version", "recipe_hash", "method"} <= run.keys():
        return None
    if run["schema_version"] not in READABLE:
        raise ModelError(
            f"{NAME} of {repo!r} is of another version of hf_mixup than {__version__}: update hf_mixup. {MODEL_ONLY}"
        )
    recorded = run["method"] if isinstance(run["method"], dict) else {}
    name, args = recorded.get("name"), recorded.get("args")
    for missing in [name for name in ([] if own else [name]) + nested_names(args) if name not in available()]:
        way = "update hf_mixup, or install the package that has it"
        if isinstance(missing, str) and is_reference(missing):  # a repository may not name code to import
            way = "import that class, and pass it as load_pretrained(..., method=THE_CLASS)"
        raise ModelError(
            f"{repo!r} was trained with method {missing!r}, which hf_mixup {__version__} does not have: {way}. "
            f"{MODEL_ONLY}"
        )
    try:
        return load(own or name, **args)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ModelError(f"{NAME} of {repo!r} has wrong arguments for method {name!r}: {error} {MODEL_ONLY}") from error
