"""Uploads checkpoints to the Hub asynchronously, in one thread; training does not wait for it."""

import logging
import shutil
import threading
import time
from pathlib import Path

from huggingface_hub import HfApi
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from ..hub.commits import commit, make_branch
from ..hub.destination import CHECKPOINTS, Destination, ensure_repo, explain
from ..hub.published_files import CHECKPOINT, is_published
from ..hub.retry import retried
from .checkpoint_snapshot import PER_RANK, SNAPSHOTS, Snapshot, snapshot

AT_THE_END = 120.0  # seconds that a finished run waits until its last checkpoint is uploaded
RETRY_AFTER = 60.0  # seconds until a failed upload is tried again, unless a newer checkpoint comes first

logger = logging.getLogger(__name__)


class CheckpointPusher:
    """Uploads the newest checkpoint to the branch `checkpoints` of a repository, in a thread of its own.

    During an upload one checkpoint waits; a newer one replaces it. A failed upload is logged and tried again: together
    with the next, after a minute, and when `close` is called. `beside`: files of the run's folder uploaded with each.
    """

    def __init__(
        self,
        destination: Destination,
        run: Path,
        opened: bool = False,
        token: str | None = None,
        beside: tuple[str, ...] = (),
    ):
        self.destination, self.run, self._token, self.beside = destination, run, token, beside
        self._opened, self._branch_exists, self._warned = opened, False, False
        self._uploaded: set[str] = set()
        self._waiting: Snapshot | None = None
        self._fresh = self._closing = self._last = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        shutil.rmtree(run / SNAPSHOTS, ignore_errors=True)  # left over from a killed run

    def offer(self, checkpoint: Path) -> None:
        """Upload this checkpoint after the present upload. Its folder may be deleted meanwhile."""
        try:
            taken = snapshot(checkpoint, self.run, self._uploaded, self.beside)
        except (OSError, ValueError) as error:
            logger.warning("%s is not pushed: its files could not be linked (%s).", checkpoint.name, error)
            return
        self._warn_about_rank_state(checkpoint)
        with self._changed:
            replaced, self._waiting, self._fresh, self._closing = self._waiting, taken, True, False
            self._changed.notify_all()
        if replaced is not None:
            replaced.delete()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="CheckpointPusher", daemon=True)
            self._thread.start()

    def _warn_about_rank_state(self, checkpoint: Path) -> None:
        if not self._warned and any(checkpoint.glob(PER_RANK)):
            logger.warning(
                "%s are not pushed, because they hold training images: a run resumed from the Hub starts without them.",
                PER_RANK,
            )
            self._warned = True

    def close(self, seconds: float) -> None:
        """Wait until the offered checkpoints are uploaded or have failed once more, at most for `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                logger.warning("The last checkpoint was not pushed within %.0f s: it is in %s only.", seconds, self.run)
        shutil.rmtree(self.run / SNAPSHOTS, ignore_errors=True)

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            try:
                self._upload(taken)
            except Exception as error:  # training continues whatever happens here
                self._failed(taken, error)
            else:
                self._uploaded |= taken.names
                taken.delete()

    def _next(self) -> Snapshot | None:
        """The next snapshot, as soon as there is one; None after `close` when none is left."""
        with self._changed:
            until = time.monotonic() + RETRY_AFTER
            while not (self._closing or self._fresh):
                left = until - time.monotonic()
                if self._waiting is not None and left <= 0:
                    break
                self._changed.wait(left if self._waiting is not None else None)
            taken, self._waiting, self._fresh = self._waiting, None, False
            self._last = self._closing
            return taken

    def _upload(self, taken: Snapshot) -> None:
        api = HfApi(token=self._token)
        if not self._opened:
            self.destination = retried(lambda: ensure_repo(api, self.destination), "open the repository")
            self._opened = True
        if not self._branch_exists:
            retried(lambda: make_branch(api, self.destination.repo, CHECKPOINTS), "create the branch of checkpoints")
            self._branch_exists = True
        stay = self._uploaded & taken.kept - taken.names

        def stale(name: str) -> bool:
            top = name.partition("/")[0]
            return is_published(name) or (CHECKPOINT.fullmatch(top) is not None and top not in stay)

        commit(api, self.destination.repo, taken.files(), stale, taken.name, CHECKPOINTS)

    def _failed(self, taken: Snapshot, error: Exception) -> None:
        """Log the failure, and keep the snapshot for the next try unless a newer one waits."""
        self._branch_exists = False
        if not taken.folder.exists():  # `close` timed out, logged it and deleted the snapshot
            return
        text = f"{taken.name} was not pushed to {self.destination.repo}: {explain(error, self.destination)}"
        logger.warning("%s.%s", text, "" if self._last else " It is tried again.")
        with self._changed:
            if self._waiting is None and not self._last:
                self._waiting, taken = taken, None
        if taken is not None:
            taken.delete()


def push_checkpoint(trainer, checkpoint: Path) -> None:
    """Upload a checkpoint of a user's own script with `push_to_hub`; its training waits for the upload at its end."""
    args, callbacks = trainer.args, trainer.callback_handler.callbacks
    if not trainer.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
        return
    waiting = next((found for found in callbacks if isinstance(found, WaitCallback)), None)
    if waiting is None:
        destination = Destination(trainer.hub_model_id)
        waiting = WaitCallback(CheckpointPusher(destination, Path(args.output_dir), opened=True, token=args.hub_token))
        trainer.add_callback(waiting)
    waiting.pusher.offer(checkpoint)


class WaitCallback(TrainerCallback):
    """Waits, at the end of training, until the last checkpoint is uploaded."""

    def __init__(self, pusher: CheckpointPusher):
        self.pusher = pusher

    def on_train_end(self, args, state, control, **_):
        self.pusher.close(AT_THE_END)


class PushCallback(TrainerCallback):
    """Offers each new checkpoint to the pusher; a resumed run also the one it resumed from."""

    def __init__(self, pusher: CheckpointPusher, start: str | None):
        self.pusher, self.start = pusher, start

    def on_train_begin(self, args, state, control, **_):
        if self.start is not None:
            self.pusher.offer(Path(self.start))

    def on_save(self, args, state, control, **_):
        self.pusher.offer(self.pusher.run / f"checkpoint-{state.global_step}")
