"""Uploads checkpoints to the Hub asynchronously, in one thread; training does not wait for it."""

import logging
import shutil
import threading
import time
from pathlib import Path

from huggingface_hub import HfApi
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from ..hub.card_section import CARD, on_hub
from ..hub.commits import commit, make_branch
from ..hub.destination import CHECKPOINTS, Destination, ensure_repo, explain
from ..hub.published_files import CHECKPOINT, is_published
from ..hub.retry import retried
from .checkpoint_snapshot import PER_RANK, SNAPSHOTS, Snapshot, take_snapshot

CLOSE_TIMEOUT = 120.0  # seconds that a finished run waits for the upload of its last checkpoint
RETRY_AFTER = 60.0  # seconds until a failed upload is tried again, unless a newer checkpoint is saved before

logger = logging.getLogger(__name__)


class CheckpointPusher:
    """Uploads the newest checkpoint to the branch `checkpoints` of a repository, in a thread of its own.

    During an upload one checkpoint waits; a newer one replaces it. A failed upload is logged and tried again: with the
    next checkpoint, after a minute, or when `close` is called. `run`: the run's folder. `repo_exists`: the
    repository need not be created. `run_files`: names of files in the run's folder to upload with each checkpoint.
    """

    def __init__(
        self,
        destination: Destination,
        run: Path,
        repo_exists: bool = False,
        token: str | None = None,
        run_files: tuple[str, ...] = (),
    ):
        self.destination, self.run, self._token, self.run_files = destination, run, token, run_files
        self._repo_exists, self._branch_exists, self._warned = repo_exists, False, False
        self._keeps_card = False
        self._uploaded: set[str] = set()
        self._waiting: Snapshot | None = None
        self._has_new = self._closing = self._last_try = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        shutil.rmtree(run / SNAPSHOTS, ignore_errors=True)  # left over from a killed run

    def offer(self, checkpoint: Path) -> None:
        """Upload this checkpoint after the upload in progress. Its folder may be deleted before that."""
        try:
            offered = take_snapshot(checkpoint, self.run, self._uploaded, self.run_files)
        except (OSError, ValueError) as error:
            logger.warning("%s is not pushed: its files could not be linked or copied (%s).", checkpoint.name, error)
            return
        self._warn_about_rank_state(checkpoint)
        with self._changed:
            replaced, self._waiting, self._has_new, self._closing = self._waiting, offered, True, False
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
        """Wait at most `seconds` until the offered checkpoints are uploaded, or one more try has failed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                logger.warning("The last checkpoint was not pushed within %.0f s: it is in %s only.", seconds, self.run)
        shutil.rmtree(self.run / SNAPSHOTS, ignore_errors=True)

    def _work(self) -> None:
        while (snapshot := self._next()) is not None:
            try:
                self._upload(snapshot)
            except Exception as error:  # training continues after any error
                self._handle_failure(snapshot, error)
            else:
                self._uploaded |= snapshot.names
                snapshot.delete()

    def _next(self) -> Snapshot | None:
        """Wait for the next snapshot and return it; None after `close` if no snapshot waits."""
        with self._changed:
            until = time.monotonic() + RETRY_AFTER
            while not (self._closing or self._has_new):
                left = until - time.monotonic()
                if self._waiting is not None and left <= 0:
                    break
                self._changed.wait(left if self._waiting is not None else None)
            snapshot, self._waiting, self._has_new = self._waiting, None, False
            self._last_try = self._closing
            return snapshot

    def _upload(self, snapshot: Snapshot) -> None:
        api = HfApi(token=self._token)
        if not self._repo_exists:
            self.destination = retried(lambda: ensure_repo(api, self.destination), "open the repository")
            self._repo_exists = True
        if not self._branch_exists:
            retried(lambda: make_branch(api, self.destination.repo, CHECKPOINTS), "create the branch of checkpoints")
            self._branch_exists = True
            self._keeps_card = any(card.text for card in on_hub(api, self.destination.repo, CHECKPOINTS))
        unchanged = (self._uploaded & snapshot.existing) - snapshot.names  # stay in the repository

        def stale(name: str) -> bool:
            top = name.partition("/")[0]
            if name == CARD and self._keeps_card:  # a person wrote in it
                return False
            return is_published(name) or (CHECKPOINT.fullmatch(top) is not None and top not in unchanged)

        commit(api, self.destination.repo, snapshot.files(), stale, snapshot.name, CHECKPOINTS)

    def _handle_failure(self, snapshot: Snapshot, error: Exception) -> None:
        """Log the failure; keep the snapshot for the next try, or delete it if there is a newer one or no next try."""
        self._branch_exists = False
        if not snapshot.folder.exists():  # `close` timed out, logged it and deleted the snapshot
            return
        text = f"{snapshot.name} was not pushed to {self.destination.repo}: {explain(error, self.destination)}"
        logger.warning("%s.%s", text, "" if self._last_try else " The upload is tried again.")
        with self._changed:
            if self._waiting is None and not self._last_try:
                self._waiting, snapshot = snapshot, None
        if snapshot is not None:
            snapshot.delete()


def push_checkpoint(trainer, checkpoint: Path) -> None:
    """Upload a checkpoint of a trainer with `push_to_hub`; at its end, training waits for the last upload."""
    args, callbacks = trainer.args, trainer.callback_handler.callbacks
    if not trainer.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
        return
    uploads = next((callback for callback in callbacks if isinstance(callback, WaitCallback)), None)
    if uploads is None:
        destination = Destination(trainer.hub_model_id)
        uploads = WaitCallback(
            CheckpointPusher(destination, Path(args.output_dir), repo_exists=True, token=args.hub_token)
        )
        trainer.add_callback(uploads)
    uploads.pusher.offer(checkpoint)


class WaitCallback(TrainerCallback):
    """Waits, at the end of training, until the last checkpoint is uploaded."""

    def __init__(self, pusher: CheckpointPusher):
        self.pusher = pusher

    def on_train_end(self, args, state, control, **_):
        self.pusher.close(CLOSE_TIMEOUT)


class PushCallback(TrainerCallback):
    """Offers each new checkpoint to the pusher, and first the checkpoint `start` that the run resumes from."""

    def __init__(self, pusher: CheckpointPusher, start: str | None):
        self.pusher, self.start = pusher, start

    def on_train_begin(self, args, state, control, **_):
        if self.start is not None:
            self.pusher.offer(Path(self.start))

    def on_save(self, args, state, control, **_):
        self.pusher.offer(self.pusher.run / f"checkpoint-{state.global_step}")
