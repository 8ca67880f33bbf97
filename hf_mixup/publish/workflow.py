"""A whole run: training into its output folder, export, and its uploads (before, during and after training)."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy

from ..config import MixupConfig
from ..data import Data
from ..distributed import on_main_process
from ..errors import PushRefused
from ..files import staged
from ..hub.commits import address
from ..hub.destination import CHECKPOINTS, FAILURES, START_PATIENCE, Destination, check_access, ensure_repo, explain
from ..hub.retry import is_transient, retried
from ..models import base_model
from ..runs import record
from ..runs.output_dir import (
    check_output_dir,
    check_same_run,
    common_checkpoint,
    disk_full_as_save_error,
    lock_output_dir,
)
from ..runs.run import final_metrics, fit, make_trainer
from ..trainer import checkpoint_pusher, fsdp
from ..trainer.checkpoint_pusher import CheckpointPusher, PushCallback
from ..trainer.checkpointing import last_checkpoint
from ..trainer.memory import reset_peak
from ..trainer.weights import save_on_this_rank
from .export import export
from .push import push
from .resume_from_hub import fetch_checkpoint

STOP_TIMEOUT = 2.0  # seconds that an interrupted or failed run waits for its last upload

logger = logging.getLogger(__name__)


def run(config: MixupConfig, data: Data) -> dict:
    """Train with `config` on `data`, export everything to `config.output_dir`, and return the run record.

    A run that is already finished is not repeated. Only checkpoints are pushed; `publish` pushes the finished run.
    """
    folder = Path(config.output_dir)
    with lock_output_dir(folder) as separate_disks:
        resume_from_hub(config)
        previous = check_output_dir(config, folder, data.revision)
        finished = previous is not None and previous.get("status") == "finished"
        return previous if finished else _train(config, data, folder, previous, separate_disks)


def _train(config: MixupConfig, data: Data, folder: Path, previous: dict | None, separate_disks: bool) -> dict:
    start = common_checkpoint(folder, previous) if config.resume else None
    reset_peak(PartialState().device)
    trainer, processor = make_trainer(config, data)
    trainer.args.save_on_each_node = separate_disks  # each machine keeps the whole run
    base = base_model(config.model, config.pretrained)
    started = record.started(config, data, trainer, base)
    check_same_run(previous, started)
    if trainer.args.should_save:
        with disk_full_as_save_error(folder):
            record.write(started, folder)
    with checkpoint_uploads(config, trainer, start):
        fit(trainer, folder, start)
        skipped = {"train": trainer.train_dataset.skipped, "eval": getattr(trainer.eval_dataset, "skipped", 0)}
        finished = record.finished(started, trainer, final_metrics(trainer), skipped, data.deep.seen)
        fsdp.gather(trainer)
        if trainer.args.should_save:
            with (
                disk_full_as_save_error(folder),
                save_on_this_rank(trainer.model),
                staged(folder, record.NAME) as staging,
            ):
                export(staging, trainer, processor, config, finished)
        trainer.accelerator.wait_for_everyone()
    return finished


def destination_of(config) -> Destination:
    """The repository of a configuration's run: `hub_model_id`, or the name of its output folder."""
    repo = config.hub_model_id or Path(config.output_dir).resolve().name
    return Destination(repo, config.hub_revision, config.hub_private_repo, config.hub_create_pr)


def check_login(config) -> None:
    """Raise PushRefused, on all ranks, if the configuration's push would be refused. Nothing is created."""
    if not config.push_to_hub:
        return
    if config.hub_revision == CHECKPOINTS:
        raise PushRefused(f"hub_revision is {CHECKPOINTS!r}, the branch of the checkpoints: choose another.")
    if config.hub_create_pr and config.hub_revision not in (None, "main"):
        raise PushRefused(f"hub_create_pr cannot be combined with hub_revision {config.hub_revision!r}: leave one out.")
    on_main_process(lambda: check_access(destination_of(config)))


def publish(config) -> str:
    """Push the folder of the finished run and return the repository's address, or the pull request's."""
    folder, destination = Path(config.output_dir), destination_of(config)
    with disk_full_as_save_error(folder):
        destination.save(folder)
    return push(folder, destination)


def resume_from_hub(config) -> None:
    """Download the newest checkpoint of this recipe from the run's own repository if the local folder is empty."""
    folder = Path(config.output_dir)
    if not (config.resume and _pushes_checkpoints(config)):
        return

    def fetch():
        if record.read(folder) is None and last_checkpoint(folder) is None:
            fetch_checkpoint(destination_of(config), folder, config.recipe_hash())

    on_main_process(fetch)


@contextmanager
def checkpoint_uploads(config, trainer, start: str | None) -> Iterator[None]:
    """Create the repository, and upload the checkpoints saved inside, and first the one to resume from, `start`."""
    if not config.push_to_hub:
        yield
        return
    folder, destination = Path(config.output_dir), destination_of(config)
    created = on_main_process(lambda: _create_repo(destination))
    if not trainer.is_world_process_zero():
        yield
        return
    with disk_full_as_save_error(folder):
        destination.save(folder)
    pusher = CheckpointPusher(created or destination, folder, repo_exists=created is not None, run_files=(record.NAME,))
    if _pushes_checkpoints(config):
        trainer.add_callback(PushCallback(pusher, start))
        print(f"Checkpoints are pushed to {address(HfApi(), pusher.destination.repo, CHECKPOINTS)}")
    try:
        yield
    except BaseException as error:
        pusher.close(0 if type(error) is KeyboardInterrupt else STOP_TIMEOUT)  # no wait after a second Ctrl-C
        raise
    pusher.close(checkpoint_pusher.CLOSE_TIMEOUT)


def _pushes_checkpoints(config) -> bool:
    """Whether checkpoints are uploaded; a pull request is for a finished run only."""
    return config.push_to_hub and not config.hub_create_pr and config.hub_strategy != HubStrategy.END


def _create_repo(destination: Destination) -> Destination | None:
    """Create the repository and its branch; None if the Hub does not respond: the pusher then tries again later."""
    try:
        return retried(lambda: ensure_repo(HfApi(), destination), "create the repository", patience=START_PATIENCE)
    except FAILURES as error:
        if not is_transient(error):
            raise PushRefused(f"Cannot push to {destination.repo!r}: {explain(error, destination)}.") from None
        logger.warning("Warning: the repository could not be created: %s.", explain(error, destination))
        return None
