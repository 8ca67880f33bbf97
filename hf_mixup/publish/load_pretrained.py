"""Load a published run from a folder or the Hub: model, image processor and method."""

from collections.abc import Sequence
from pathlib import Path

import timm
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..components.references import class_name, is_reference, nested_names, only_given
from ..errors import CheckpointError, CodeRefused, ModelError
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
    repo: str,
    revision: str | None = None,
    *,
    teachers: bool = False,
    method: type[Method] | Sequence[type[Method]] | None = None,
) -> tuple[PreTrainedModel, BaseImageProcessor, Method | None]:
    """Return model, image processor and method from a run's folder or Hub repository; method is None for other models.

    `repo` is a folder if one of that name exists, else a Hub id, at the branch, tag or commit `revision`. The method
    has the trained weights of its own networks: pass it to `MixupTrainer(method=method)` to continue training. Only
    safetensors and JSON are read, and no code of the repository runs. `teachers`: whether the run record of a
    repository may name other repositories or folders as the method's teacher; timm names are always allowed. `method`:
    the class of a method of your own, which the run was trained with, or several classes if it contains others. Raises
    ModelError.
    """
    folder = fetch(repo, revision)
    model = load_network(repo, folder)
    processor = load_processor(repo, folder)
    trusted = teachers or Path(repo).expanduser().is_dir()
    own = [method] if isinstance(method, type) else [*(method or ())]
    recorded = _recorded_method(repo, folder, own)
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


def _recorded_method(repo: str, folder: Path, own: Sequence[type[Method]]) -> Method | None:
    """The method of the run record in `folder`, without weights; None if there is no run record of hf_mixup."""
    run = read_json(folder / NAME, repo) if (folder / NAME).exists() else {}
    if not {"schema_version", "recipe_hash", "method"} <= run.keys():
        return None
    if run["schema_version"] not in READABLE:
        raise ModelError(
            f"{NAME} of {repo!r} is of another version of hf_mixup than {__version__}: update hf_mixup. {MODEL_ONLY}"
        )
    recorded = run["method"] if isinstance(run["method"], dict) else {}
    name, args = recorded.get("name"), recorded.get("args")
    outer = _outer_class(name, own) or name
    for missing in [item for item in [outer, *nested_names(args)] if not (_is_known(item) or isinstance(item, type))]:
        way = "update hf_mixup, or install the package that has it"
        raise ModelError(f"{_unknown(repo, missing)}: {way}. {MODEL_ONLY}")
    try:
        with only_given(own):
            return load(outer, **args)
    except CodeRefused as error:
        way = "import that class, and pass it as load_pretrained(..., method=THE_CLASS)"
        raise ModelError(f"{_unknown(repo, error.reference)}: {way}. {MODEL_ONLY}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ModelError(f"{NAME} of {repo!r} has wrong arguments for method {name!r}: {error} {MODEL_ONLY}") from error


def _outer_class(name: str, own: Sequence[type[Method]]) -> type[Method] | None:
    """Which of the user's classes `own` is method `name` of a record; None if it is a method of a package."""
    if name in available():
        return None
    same = [cls for cls in own if isinstance(name, str) and cls.__name__ == class_name(name)]
    return same[0] if same else own[0] if len(own) == 1 else None


def _is_known(name: str) -> bool:
    """Whether `name` is a method of a package, or a reference, which `load` resolves or refuses."""
    return name in available() or (isinstance(name, str) and is_reference(name))


def _unknown(repo: str, name: str) -> str:
    return f"{repo!r} was trained with method {name!r}, which hf_mixup {__version__} does not have"
