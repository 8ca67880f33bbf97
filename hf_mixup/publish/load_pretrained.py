"""What was published, back again: network, preprocessor and method from a folder or the Hub."""

from pathlib import Path

import timm
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import ModelError
from ..hub.download import fetch, read_json
from ..methods import Method, available, load
from ..models import architectures as networks  # noqa: F401  registers them with timm
from ..models.safe_load import load_network, load_processor
from ..net import Net
from ..runs.record import NAME, SCHEMA_VERSION
from ..trainer.weights import METHOD, load_method
from ..version import __version__

NETWORK = "transformers' AutoModelForImageClassification loads the network alone."


def load_pretrained(
    repo: str, revision: str | None = None, *, teachers: bool = False
) -> tuple[PreTrainedModel, BaseImageProcessor, Method | None]:
    """Network, preprocessor and method of a run's folder or Hub repository; no method if it is no run of ours.

    `repo` is a folder if there is one of that name, else a Hub id, at the branch, tag or commit `revision`. The method
    has its own networks as they were trained: give it to `MixupTrainer(method=method)` to go on. Only safetensors and
    JSON are read, and no code of the repository runs. `teachers`: whether the record of a repository may name further
    repositories or folders to load as the method's teacher; timm's names it may. Raises ModelError.
    """
    folder = fetch(repo, revision)
    model = load_network(repo, folder)
    processor = load_processor(repo, folder)
    trusted = teachers or Path(repo).expanduser().is_dir()
    return model, processor, _method(repo, folder, model, trusted)


def _method(repo: str, folder: Path, model: PreTrainedModel, trusted: bool) -> Method | None:
    """The method that the run record in `folder` names, built for `model`, with its weights."""
    method = _recorded(repo, folder)
    if method is None:
        return None
    strange = [part.teacher for part in method.modules() if getattr(part, "teacher", None)]
    if not trusted and (strange := [name for name in strange if not timm.is_model(name)]):
        raise ModelError(
            f"The record of {repo!r} names a teacher, {strange[0]!r}, which is not timm's. If you trust it, pass "
            f"load_pretrained(..., teachers=True); {NETWORK}"
        )
    try:
        method.build(Net(model))
        load_method(folder, method)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{METHOD} of {repo!r} is missing or damaged ({error}): get it again; {NETWORK}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"Method {method.name!r} of {repo!r} does not fit its network ({reason}). {NETWORK}"
        ) from error
    method.loaded = True
    return method


def _recorded(repo: str, folder: Path) -> Method | None:
    """The method of the run record in `folder`, without weights; None if there is no record of ours."""
    run = read_json(folder / NAME, repo) if (folder / NAME).is_file() else {}
    if not {"schema_version", "recipe_hash", "method"} <= run.keys():
        return None
    if run["schema_version"] != SCHEMA_VERSION:
        raise ModelError(f"{NAME} of {repo!r} is of another version of hf_mixup than {__version__}: update. {NETWORK}")
    told = run["method"] if isinstance(run["method"], dict) else {}
    name, args = told.get("name"), told.get("args")
    if name not in available():
        raise ModelError(
            f"{repo!r} was trained with method {name!r}, which hf_mixup {__version__} does not know: update. {NETWORK}"
        )
    try:
        return load(name, **args)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ModelError(f"{NAME} of {repo!r} gives method {name!r} wrong arguments: {error} {NETWORK}") from error
