"""Evaluate a saved or published model on a split of a data set."""

from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback

from ..config import MixupConfig
from ..data import Data, DataError, load_data
from ..errors import CheckpointError, ConfigError, ModelError, one_paragraph
from ..hub.download import fetch, read_json
from ..models.safe_load import load_network, load_processor
from ..runs import record
from ..runs.output_dir import temporary_output_dir
from ..runs.run import as_run_error, make_task
from ..tasks import Task, available_tasks, task_of_network
from ..trainer import MixupTrainer
from ..trainer.task import UNNAMED
from ..trainer.weights import TASK, load_extra
from .predict import chosen_device
from .processed_images import processed_images

BATCH_SIZE = 100
LOSS_FIELDS = ("loss", "class_weights", "bce_threshold", "bce_sum")  # of the recipe in a run record


def evaluate(
    model: str | PathLike,
    data: str | PathLike = "sample",
    *,
    data_config: str | None = None,
    revision: str | None = None,
    split: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    task: str | None = None,
    ignore_names: bool = False,
    max_pixels: int | None = None,
    allow_outside_files: bool = False,
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
) -> dict:
    """The metrics of a model on a split, with what was evaluated: `{"model", "task", "data", "metrics"}`.

    `model`: a run's folder, any folder or Hub repository (also `user/name@revision`) of an image classifier of
    transformers or timm; only safetensors and JSON are read. Images are prepared by its image processor, and nothing is
    mixed. `data`, `data_config`, `revision` (of the data), `split` (by default the validation or test split) and the
    columns as in recipes, as are `max_pixels` and `allow_outside_files`; without class names in the data, `train_split`
    defines the classes. `task`: by default that of the run record if the package has it, else that of the model's
    problem_type. The classes of model and data must have the same names, in any order; `ignore_names` compares their
    numbers only. `device`: "cpu", or by default the GPU if there is one. Raises MixupError.
    """
    name = fspath(model)
    folder = fetch(name)
    network, processor = load_network(name, folder), load_processor(name, folder)
    run = _run_record(name, folder)
    config = _config(run, network, task, batch_size, device)
    source = {"data": fspath(data), "data_config": data_config, "revision": revision, "eval_split": split}
    source |= {"image_column": image_column, "label_column": label_column, "train_split": train_split}
    source["allow_outside_files"] = allow_outside_files
    learned = make_task(config)
    labelled = _data(name, network, learned, source, ignore_names)
    images = processed_images(processor, labelled, max_pixels)
    with temporary_output_dir(config), as_run_error():
        trainer = MixupTrainer(
            network, config, eval_dataset=images, processing_class=processor, method="erm", task=learned
        )
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        if learned.state_dict():
            _load_task(name, folder, trainer)
        metrics = record.metrics(trainer.evaluate(), record.task_entry(learned))
    described = {"path": labelled.path, "config": labelled.config, "revision": labelled.revision}
    described |= {"split": labelled.eval_split, "rows": len(images), "skipped": images.skipped}
    return {"model": name, "task": learned.name, "data": described, "metrics": metrics}


def _load_task(name: str, folder: Path, trainer: MixupTrainer) -> None:
    """Load the networks of the task; ModelError if their file is missing, damaged or of another task."""
    try:
        load_extra(folder, trainer.step, None)
    except (CheckpointError, OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{TASK} of {name!r} is missing or damaged ({one_paragraph(error)[:300]}).") from error


def _run_record(name: str, folder: Path) -> dict:
    """The run record in the model's folder; empty if there is none that this version reads."""
    run = read_json(folder / record.NAME, name) if (folder / record.NAME).exists() else {}
    if run.get("schema_version") not in record.READABLE:
        return {}
    for key in ("recipe", "task"):
        if not isinstance(run.get(key, {}), dict):
            raise ModelError(f"{record.NAME} of {name!r} is damaged ({key} is not a mapping): download it again.")
    return run


def _config(run: dict, network: PreTrainedModel, task: str | None, batch_size: int, device: str | None) -> MixupConfig:
    """The settings of the evaluation: the task, and the loss of the run if there is one."""
    recipe = run.get("recipe") or {}
    chosen, arguments = (task, {}) if task else _task_of(run, network)
    return MixupConfig(
        output_dir="unused",
        method="erm",
        task=chosen,
        task_args=arguments,
        per_device_eval_batch_size=batch_size,
        use_cpu=chosen_device(device).type == "cpu",
        disable_tqdm=True,
        **{key: recipe[key] for key in LOSS_FIELDS if recipe.get(key) is not None},
    )


def _task_of(run: dict, network: PreTrainedModel) -> tuple[str, dict]:
    """Name and arguments of the task: those of the run record, or what the network's configuration says."""
    recorded = run.get("task") if isinstance(run.get("task"), dict) else {}
    if recorded.get("name") in available_tasks():
        return recorded["name"], recorded.get("args") or {}
    config = network.config
    try:
        if recorded and config.problem_type is None:
            raise ValueError(f"The model was trained with task {recorded.get('name')!r}, which hf_mixup does not have.")
        return task_of_network(config.problem_type, config.num_labels), {}
    except ValueError as error:
        raise ConfigError(f"{error} A task is given as --task module:Class or --task file.py:Class.") from error


def _data(name: str, network: PreTrainedModel, task: Task, source: dict, ignore_names: bool) -> Data:
    """The data set with its classes in the order of the network's; ModelError if they are not the same."""
    local = source["data"] == "sample" or Path(source["data"]).expanduser().is_dir()
    # of a data set on the Hub, only the evaluation split is downloaded
    options = {**source, "labels": task.reads, "unlabelled": task.unlabelled, "streaming": not local}
    data = load_data(**options)
    id2label = network.config.id2label
    names = [str(id2label[number]) for number in sorted(id2label)]
    if ignore_names and data.num_classes == len(names):
        network.config.id2label = dict(enumerate(data.classes))
        network.config.label2id = {label: number for number, label in enumerate(data.classes)}
        return data
    if not data.classes or data.classes == names or _unnamed(names, data.classes):
        return data
    with suppress(DataError):  # the same classes in another order, or some that do not occur in this split
        if set(data.classes) <= set(names):
            return load_data(**options, class_names=names)
    raise ModelError(_difference(name, names, data))


def _unnamed(names: list[str], classes: list[str]) -> bool:
    """Whether the classes of model or data have numbers instead of names, and there are as many in both."""
    numbers = any(all(UNNAMED.fullmatch(name) for name in both) for both in (names, classes))
    return numbers and len(names) == len(classes)


def _difference(name: str, names: list[str], data: Data) -> str:
    lacking = [label for label in data.classes if label not in set(names)]
    shown = f", among them {lacking[0]!r}, which the model lacks" if lacking else ""
    way_out = " If they are the same in the same order, ignore their names (ignore_names, --ignore_names)."
    return (
        f"{name!r} has {len(names)} classes ({', '.join(names[:5])}, ...), but {data.path!r} has {data.num_classes} "
        f"({', '.join(data.classes[:5])}, ...){shown}: choose the data set that the model was trained for."
        f"{way_out if len(names) == data.num_classes else ''}"
    )
