"""Checkpoints to the Hub while training goes on: one thread, one waiting place, nothing of it in training's way."""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from ..hub.commits import commit, make_branch
from ..hub.destination import CHECKPOINTS, Destination, opened, why
from ..hub.published_files import CHECKPOINT, is_published
from ..hub.retry import retried

ASIDE = ".pushing"
STATE = "trainer_state.json"
IMAGES = "method-rank*.safetensors"  # what a method keeps of training images is its process's own
NEVER = ("training_args.bin", IMAGES, ".*")  # upstream's training arguments may hold a token
AT_THE_END = 120.0  # seconds a finished run waits for its last checkpoint to be pushed
AGAIN = 60.0  # seconds until a push that failed is tried once more, unless a newer checkpoint comes first

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Checkpoint:
    """A complete checkpoint, linked aside in `place`, with the best one if it is not on the Hub yet.

    `names` are those in `place`, `kept` all that the run's folder had then.
    """

    name: str
    place: Path
    names: frozenset[str]
    kept: frozenset[str]

    def files(self) -> dict[str, Path]:
        """What is pushed, by its name there."""
        return {path.relative_to(self.place).as_posix(): path for path in _files(self.place)}


class CheckpointPusher:
    """Pushes the newest checkpoint to the branch `checkpoints` of a repository, in a thread of its own.

    While one is being pushed, newer ones take each other's place. One that fails is logged and tried again: with the
    next, after a minute, and when `close` is called. `beside`: files of the run's folder that go with each.
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
        self._opened, self._ready, self._told = opened, False, False
        self._pushed: set[str] = set()
        self._waiting: Checkpoint | None = None
        self._fresh = self._closing = self._last = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        shutil.rmtree(run / ASIDE, ignore_errors=True)  # what a killed run left

    def offer(self, checkpoint: Path) -> None:
        """Push this checkpoint, whose folder may go away, as soon as the one before is done."""
        try:
            taken = _aside(checkpoint, self.run, self._pushed, self.beside)
        except (OSError, ValueError) as error:
            logger.warning("%s is not pushed: it could not be set aside (%s).", checkpoint.name, error)
            return
        self._tell(checkpoint)
        with self._changed:
            before, self._waiting, self._fresh, self._closing = self._waiting, taken, True, False
            self._changed.notify_all()
        _drop(before)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="CheckpointPusher", daemon=True)
            self._thread.start()

    def _tell(self, checkpoint: Path) -> None:
        if not self._told and any(checkpoint.glob(IMAGES)):
            logger.warning(
                "%s are not pushed, for they hold training images: a run that goes on from the Hub begins without.",
                IMAGES,
            )
            self._told = True

    def close(self, seconds: float) -> None:
        """Wait so long at most until what was offered is pushed, or has failed once more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                logger.warning("The last checkpoint was not pushed within %.0f s: it is in %s only.", seconds, self.run)
        shutil.rmtree(self.run / ASIDE, ignore_errors=True)

    def _work(self) -> None:
        while (checkpoint := self._next()) is not None:
            try:
                self._push(checkpoint)
            except Exception as error:  # whatever it is, training goes on
                self._failed(checkpoint, error)
            else:
                self._pushed |= checkpoint.names
                _drop(checkpoint)

    def _next(self) -> Checkpoint | None:
        """What to push now, when there is something; None when all is done and no more will come."""
        with self._changed:
            until = time.monotonic() + AGAIN
            while not (self._closing or self._fresh):
                left = until - time.monotonic()
                if self._waiting is not None and left <= 0:
                    break
                self._changed.wait(left if self._waiting is not None else None)
            taken, self._waiting, self._fresh = self._waiting, None, False
            self._last = self._closing
            return taken

    def _push(self, checkpoint: Checkpoint) -> None:
        api = HfApi(token=self._token)
        if not self._opened:
            self.destination = retried(lambda: opened(api, self.destination), "open the repository")
            self._opened = True
        if not self._ready:
            retried(lambda: make_branch(api, self.destination.repo, CHECKPOINTS), "make the branch of the checkpoints")
            self._ready = True
        stay = self._pushed & checkpoint.kept - checkpoint.names  # of its own, what is not in it goes

        def stale(name: str) -> bool:
            top = name.partition("/")[0]
            return is_published(name) or (CHECKPOINT.fullmatch(top) is not None and top not in stay)

        commit(api, self.destination.repo, checkpoint.files(), stale, checkpoint.name, CHECKPOINTS)

    def _failed(self, checkpoint: Checkpoint, error: Exception) -> None:
        """Say so in one line, and let it wait again unless a newer one does."""
        self._ready = False
        if not checkpoint.place.exists():  # `close` has waited long enough, and said so
            return
        told = f"{checkpoint.name} was not pushed to {self.destination.repo}: {why(error, self.destination)}"
        logger.warning("%s.%s", told, "" if self._last else " It is tried again.")
        with self._changed:
            if self._waiting is None and not self._last:
                self._waiting, checkpoint = checkpoint, None
        _drop(checkpoint)


def _aside(checkpoint: Path, run: Path, pushed: set[str], beside: tuple[str, ...]) -> Checkpoint:
    """Hard links to the checkpoint's files, which stay when it is deleted, and copies of the files `beside` it."""
    place = run / ASIDE / f"{time.monotonic_ns()}"
    best = best_name(checkpoint)
    names = {checkpoint.name} | ({best} - pushed if best and (run / best).is_dir() else set())
    kept = frozenset(path.name for path in run.glob("checkpoint-*"))
    taken = Checkpoint(checkpoint.name, place, frozenset(names), kept)
    try:
        for name in names:
            for path in _files(run / name):
                if not any(fnmatch(path.name, pattern) for pattern in NEVER):
                    _link(path, place / path.relative_to(run))
            _without_folders(place / name / STATE)
        for name in beside:
            shutil.copyfile(run / name, place / name)
    except (OSError, ValueError):
        _drop(taken)
        raise
    return taken


def best_name(checkpoint: Path) -> str | None:
    """The name of the best checkpoint so far, if the run looks for one."""
    best = json.loads((checkpoint / STATE).read_text()).get("best_model_checkpoint")
    return best and Path(best).name


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:  # a file system without links
        shutil.copyfile(path, target)


def _without_folders(file: Path) -> None:
    """Name the best checkpoint without this machine's folders, in a file of its own."""
    state = json.loads(file.read_text())
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    file.unlink()  # the link, not what it leads to
    file.write_text(json.dumps(state, indent=2) + "\n")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _drop(checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        shutil.rmtree(checkpoint.place, ignore_errors=True)


def push_checkpoint(trainer, checkpoint: Path) -> None:
    """Push a checkpoint of a trainer with `push_to_hub`, whose repository is there; its training waits at its end."""
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
    """Waits, at the end of a training, until its last checkpoint is pushed."""

    def __init__(self, pusher: CheckpointPusher):
        self.pusher = pusher

    def on_train_end(self, args, state, control, **_):
        self.pusher.close(AT_THE_END)


class PushCallback(TrainerCallback):
    """Offers each checkpoint to the pusher when it has its final name; a resumed run's first, which may be lost."""

    def __init__(self, pusher: CheckpointPusher, start: str | None):
        self.pusher, self.start = pusher, start

    def on_train_begin(self, args, state, control, **_):
        if self.start is not None:
            self.pusher.offer(Path(self.start))

    def on_save(self, args, state, control, **_):
        self.pusher.offer(self.pusher.run / f"checkpoint-{state.global_step}")
