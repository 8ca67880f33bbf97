"""What of a run goes to the Hub and when: asked before it, checkpoints during it, the whole at its end."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi
from transformers.trainer_utils import HubStrategy

from ..hub.commits import address
from ..hub.destination import BEFORE, CHECKPOINTS, FAILURES, Destination, PushError, PushRefused, checked, opened, why
from ..hub.retry import may_pass, retried
from ..runs import record
from ..runs.output_dir import told_when_full
from ..trainer import checkpoint_pusher
from ..trainer.checkpoint_pusher import CheckpointPusher, PushCallback
from ..trainer.checkpointing import last_checkpoint
from .push import push
from .resume_from_hub import fetch_checkpoint

Result = TypeVar("Result")
WHEN_STOPPED = 10.0  # seconds of one that was interrupted or failed

logger = logging.getLogger(__name__)


def destination_of(config) -> Destination:
    """Where a configuration's run belongs: `hub_model_id`, or the name of its folder."""
    repo = config.hub_model_id or Path(config.output_dir).resolve().name
    return Destination(repo, config.hub_revision, config.hub_private_repo, config.hub_create_pr)


def check_login(config) -> None:
    """Raise PushRefused, on every process, if a run that is to be pushed cannot be. Nothing is made."""
    if not config.push_to_hub:
        return
    if config.hub_revision == CHECKPOINTS:
        raise PushRefused(f"hub_revision is {CHECKPOINTS!r}, the branch of the checkpoints: choose another.")
    if config.hub_create_pr and config.hub_revision not in (None, "main"):
        raise PushRefused(f"hub_create_pr and hub_revision {config.hub_revision!r} do not go together: leave out one.")
    _on_main(lambda: checked(destination_of(config)))


def publish(config) -> str:
    """Push the finished run's folder and give its address, or that of the pull request."""
    folder, destination = Path(config.output_dir), destination_of(config)
    with told_when_full(folder):
        destination.save(folder)
    return push(folder, destination)


def continue_from_hub(config) -> None:
    """Fetch the newest checkpoint of this recipe from the run's own repository where its folder has nothing yet."""
    folder = Path(config.output_dir)
    if not (config.resume and _pushes_checkpoints(config)):
        return

    def fetch():
        if record.read(folder) is None and last_checkpoint(folder) is None:
            fetch_checkpoint(destination_of(config), folder, config.recipe_hash())

    _on_main(fetch)


@contextmanager
def checkpoints_pushed(config, trainer, start: str | None) -> Iterator[None]:
    """Make the repository, and push the checkpoints that are saved inside, beginning with that of a resumed run."""
    if not config.push_to_hub:
        yield
        return
    folder, destination = Path(config.output_dir), destination_of(config)
    there = _on_main(lambda: _open(destination))
    if not trainer.is_world_process_zero():
        yield
        return
    with told_when_full(folder):
        destination.save(folder)
    pusher = CheckpointPusher(there or destination, folder, opened=there is not None)
    if _pushes_checkpoints(config):
        trainer.add_callback(PushCallback(pusher, start))
        print(f"Checkpoints go to {address(HfApi(), pusher.destination.repo, CHECKPOINTS)}")
    try:
        yield
    except BaseException as error:
        pusher.close(0 if type(error) is KeyboardInterrupt else WHEN_STOPPED)  # a second Ctrl-C waits for nothing
        raise
    pusher.close(checkpoint_pusher.AT_THE_END)


def _pushes_checkpoints(config) -> bool:
    """Pull requests, which are for a finished run, have no checkpoints."""
    return config.push_to_hub and not config.hub_create_pr and config.hub_strategy != HubStrategy.END


def _open(destination: Destination) -> Destination | None:
    """Make the repository and its branch; None from a Hub that does not answer, which is asked again later."""
    try:
        return retried(lambda: opened(HfApi(), destination), "make the repository", patience=BEFORE)
    except FAILURES as error:
        if not may_pass(error):
            raise PushRefused(f"Cannot push to {destination.repo!r}: {why(error, destination)}.") from None
        logger.warning("Warning: the repository could not be made: %s.", why(error, destination))
        return None


def _on_main(call: Callable[[], Result]) -> Result | None:
    """What `call` gives on the main process, None on the others, which wait; what is wrong is raised on all of them."""
    state, said, result = PartialState(), [None], None
    if state.is_main_process:
        try:
            result = call()
        except (PushRefused, PushError, record.RecordError) as error:
            said = [(isinstance(error, PushError), str(error))]
        except Exception as error:
            _tell(state, [(True, f"The main process failed: {type(error).__name__}")])
            raise
    _tell(state, said)
    if said[0] is not None:
        lost, text = said[0]
        raise (PushError if lost else PushRefused)(text)
    return result


def _tell(state: PartialState, said: list) -> None:
    if state.num_processes > 1:
        broadcast_object_list(said)
