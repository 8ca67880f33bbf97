"""Build a run from its configuration, train it, and evaluate it at the end."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PrinterCallback, ProgressCallback, set_seed
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SaveStrategy

from ..config import MixupConfig
from ..data import Data, Images, load_data
from ..errors import ModelError, RunError, TrainingInterrupted, did_you_mean
from ..methods import Method, load
from ..models.build import problem_type_of
from ..tasks import DEFAULT, Task, load_task, task_of_network
from ..trainer import MixupTrainer
from ..trainer.checkpointing import last_checkpoint
from ..trainer.schedules import check_schedule
from ..trainer.stop import StopCallback
from . import record
from .first_steps import FirstStepsCallback, memory_as_run_error
from .images import eval_images, train_images
from .network import make_model
from .output_dir import original_data_commit
from .progress import BarCallback, ReportCallback


def fit(trainer: MixupTrainer, folder: Path, start: str | None) -> None:
    """Train, from the checkpoint `start` if it is given; TrainingInterrupted after SIGINT or SIGTERM."""
    stop = StopCallback(trainer)
    trainer.add_callback(stop)
    if start is None:
        trainer.add_callback(FirstStepsCallback(trainer.step))
    try:
        with memory_as_run_error():
            trainer.train(resume_from_checkpoint=start)
    finally:
        stop.restore()
    if stop.stopped:
        raise TrainingInterrupted(
            f"Stopped after step {trainer.state.global_step}; {last_checkpoint(folder)} is complete."
        )


def final_metrics(trainer: MixupTrainer) -> dict[str, float]:
    """The metrics of the published weights: the last evaluation if it followed the last step, else a new one; empty
    without an evaluation split."""
    if trainer.eval_dataset is None:
        return {}
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    at_end = evaluations and evaluations[-1]["step"] == trainer.state.global_step
    if at_end and not trainer.args.load_best_model_at_end:
        return evaluations[-1]
    return trainer.evaluate()


def load_run_data(config: MixupConfig) -> Data:
    """The data of a recipe, as its task reads it; a resumed run reads the commit that it started with."""
    task = choose_task(config)
    names = "data data_config revision streaming image_column label_column train_split eval_split eval_fraction".split()
    names += ("num_examples", "rows_per_shard", "skip_corrupt", "class_names", "allow_outside_files")
    values = {name: getattr(config, name) for name in names} | {"labels": task.reads, "unlabelled": task.unlabelled}
    values["evaluated"] = config.eval_strategy != "no"
    return load_data(**values | {"revision": original_data_commit(config) or config.revision})


def make_trainer(config: MixupConfig, data: Data) -> tuple[MixupTrainer, object]:
    """The trainer of a run, and the image processor saved with it; RunError for settings that training would refuse."""
    if data.train_rows is None and config.max_steps <= 0:
        raise RunError(
            f"The number of rows of the streamed split {data.train_split!r} of {data.path!r} is unknown, so an epoch "
            "has no length: give num_examples (its rows), or max_steps."
        )
    trainer, processor = build_trainer(config, data)
    with as_run_error():
        check_trainer(trainer)
    for callback in [
        ReportCallback(record.task_entry(trainer.task)),
        *([] if config.disable_tqdm else [BarCallback()]),
    ]:
        trainer.add_callback(callback)
    return trainer, processor


def build_trainer(config: MixupConfig, data: Data) -> tuple[MixupTrainer, object]:
    """The trainer and the image processor of a recipe; no image is read yet, and nothing is printed."""
    check_trackers(config)
    set_seed(config.seed)
    task, method = make_task(config), make_method(config)
    model, processor = make_model(config, data, task)
    args = choose_best_metric(config, task)
    args.push_to_hub = False  # publish/workflow.py pushes, with retries; upstream's pushes are lost if they fail
    with as_run_error():
        trainer = MixupTrainer(
            model,
            args,
            train_dataset=train_images(config, data, processor, task.views),
            eval_dataset=eval_images(config, data, processor),
            processing_class=processor,
            method=method,
            task=task,
        )
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    return trainer, processor


def check_trackers(config: MixupConfig) -> None:
    """RunError if a tracker of `report_to` is not installed, or is unknown: upstream raises a RuntimeError."""
    available = get_available_reporting_integrations()
    for name in config.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise RunError(
                f"report_to is {name!r}.{did_you_mean(name, INTEGRATION_TO_CALLBACK)} Choose one of: {known}."
            )
        if name not in available:
            raise RunError(f"report_to is {name!r}, but {name} is not installed: pip install {name}.")


@contextmanager
def as_run_error() -> Iterator[None]:
    """Raise RunError for a ValueError inside."""
    try:
        yield
    except ValueError as error:
        raise RunError(str(error)) from error


def choose_task(config: MixupConfig) -> Task:
    """The task of a run. If the recipe names none, `config.task` becomes that of the checkpoint, or classification."""
    if config.task is None:
        try:
            config.task = task_of_network(problem_type_of(config.model), None)
        except ModelError:  # reported when the model is built
            config.task = DEFAULT
        except ValueError as error:
            raise RunError(f"{config.model}: {error}") from error
    return make_task(config)


def make_task(config: MixupConfig) -> Task:
    """The task with its arguments; RunError if it does not accept them."""
    try:
        task = load_task(DEFAULT if config.task is None else config.task, **config.task_args)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from error
    record.check_settings(task)
    return task


def choose_best_metric(config: MixupConfig, task: Task) -> MixupConfig:
    """A copy of the configuration that selects the best checkpoint by the task's metric, if the recipe names none.

    The trainer sets the direction of the metric.
    """
    args = copy.copy(config)
    if (config.load_best_model_at_end or config.save_strategy == SaveStrategy.BEST) and not config.best_metric_given:
        args.metric_for_best_model = task.metric
    return args


def make_method(config: MixupConfig) -> Method:
    """The method with its arguments; RunError if it does not accept them."""
    try:
        method = load(config.method, **config.method_args)
    except TypeError as error:  # a value of a type that the method cannot compute with
        raise RunError(
            f"Method {config.method!r} does not accept method_args {config.method_args}: {error}."
        ) from error
    except ValueError as error:
        raise RunError(str(error)) from error
    record.check_settings(method)
    return method


def check_trainer(trainer: MixupTrainer) -> None:
    """Raise ValueError before training for invalid images, optimizer, schedule or best metric."""
    args = trainer.args
    for images in (trainer.train_dataset, trainer.eval_dataset):
        if isinstance(images, Images):
            images.load()
    *_, steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    try:
        trainer.create_optimizer()
        scheduler = trainer.create_scheduler(steps)  # counts the steps of an epoch for the warm-up
        warmup = args.get_warmup_steps(steps)
        if warmup and warmup >= steps:
            raise RunError(
                f"The warm-up takes {warmup} steps and the run has {steps}: the learning rate would not be reached. "
                "Give warmup_epochs or warmup_steps that is smaller, or 0."
            )
        check_schedule(scheduler, steps)
    except (TypeError, ArithmeticError) as error:
        raise RunError(f"lr_scheduler_kwargs {args.lr_scheduler_kwargs}: {error}.") from error
    trainer.optimizer = trainer.lr_scheduler = None  # train() creates its own
    best, task = (args.metric_for_best_model or "loss").removeprefix("eval_"), trainer.task
    metrics = [] if args.prediction_loss_only else [*(metric.key for metric in task.card.metrics), task.metric]
    known = list(dict.fromkeys(["loss", *metrics]))
    if best not in known:
        raise RunError(f"metric_for_best_model is {best!r}. Choose one of: {', '.join(known)}.")
