"""A training run in a thread, which can be stopped at a step, continued and waited for."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from weakref import WeakValueDictionary

from mixer_lite._support.words import say
from mixer_lite.model import MlpMixer
from mixer_lite.training.runs import Moment

# Runs by folder, so that two never write to one. A cell run again takes over from its first run.
_RUNS: WeakValueDictionary[Path, BackgroundRun] = WeakValueDictionary()


class BackgroundRun:
    """A call of :func:`mixer_lite.training.loop.train` that runs in the background.

    Args:
        train: takes ``watch=`` and returns the model; called again, it goes on where it stopped.
        out: the run's folder. A run of this program that is still writing to it is stopped.
        see: called with each moment, on the run's thread; what it returns is not asked for.
        changed: called when ``state`` has changed, on the thread that changed it.
        seconds: stop after so long; a run that goes on has as much again.

    Attributes:
        out: the run's folder.
        state: ``"running"``, ``"stopped"`` (with a checkpoint), ``"done"`` or ``"failed"``.
        error: what was raised in a run that failed, else ``None``.
        last: the newest moment, ``None`` before the first one.
    """

    def __init__(
        self,
        train: Callable[..., MlpMixer],
        out: Path,
        see: Callable[[Moment], Any],
        changed: Callable[[], None],
        seconds: float | None = None,
    ):
        self._train, self.out, self._see, self._changed = train, out.resolve(), see, changed
        self._seconds, self._started = seconds, 0.0
        self.state = "stopped"
        self._seeing = True
        self.error: BaseException | None = None
        self.last: Moment | None = None
        self._model: MlpMixer | None = None
        self._stopping = threading.Event()
        self._asked: SimpleQueue[Future[MlpMixer]] = SimpleQueue()  # for a copy of the model
        # Python 3.11 takes a thread for dead when its join() is interrupted.
        self._ended = threading.Event()
        self._ended.set()

    @property
    def model(self) -> MlpMixer:
        """What is trained so far; of a run that goes on a copy, taken between two steps.

        Raises:
            RuntimeError: the run failed before its first step.
        """
        if self.state == "running":
            copied: Future[MlpMixer] = Future()
            self._asked.put(copied)
            while self.state == "running":  # a run that ends in between copies nothing
                with suppress(Late):
                    return copied.result(timeout=0.1)
        if self._model is None:
            raise RuntimeError(f"No step was made, so there is no model: {self.error}")
        return self._model

    def start(self) -> None:
        """Begin, or go on where the last checkpoint was written; nothing if it runs already."""
        if self.state == "running" and not self._stopping.is_set():
            return
        other = _RUNS.get(self.out, self)
        other.stop()
        self._stopping.clear()
        self.error, self.last, self.state, self._seeing = None, None, "running", True
        _RUNS[self.out] = self
        self._changed()
        self._started = time.monotonic()
        self._ended.clear()
        threading.Thread(target=self._work, name=f"training {self.out.name}").start()

    def ask_to_stop(self) -> None:
        """Stop after the step that is being made, without waiting for it."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop after the step that is being made, and wait until its checkpoint is written."""
        self.ask_to_stop()
        self._join()

    def wait(self) -> MlpMixer:
        """Wait for the end; an interruption (Ctrl-C, the notebook's stop button) stops the run.

        Raises:
            KeyboardInterrupt: it was interrupted; its checkpoint is written, nothing is lost.
            Exception: whatever the run failed with.
        """
        try:
            self._join()
        except KeyboardInterrupt:
            self.stop()
            raise
        if self.error is not None:
            raise self.error
        return self.model

    def _join(self) -> None:
        while not self._ended.wait(0.1):  # on Windows one long wait could not be interrupted
            pass

    def _watch(self, moment: Moment) -> bool:
        self.last, self._model = moment, moment.model
        while not self._asked.empty():
            self._asked.get().set_result(copy.deepcopy(moment.model))
        if self._seeing:
            try:
                self._see(moment)
            except Exception as error:  # an error in the page must not end the training
                self._seeing = False
                say(f"The run can no longer be watched ({error!r}); it goes on without.")
        # A program that ends, or a kernel that shuts down, stops the run as a button does.
        ends = self._stopping.is_set() or not threading.main_thread().is_alive()
        late = self._seconds is not None and time.monotonic() - self._started > self._seconds
        return ends or late

    def _work(self) -> None:
        try:
            self._model = self._train(watch=self._watch)
        except BaseException as error:  # wait() raises it again
            self.error, self.state = error, "failed"
        else:
            unfinished = self.last is not None and self.last.step < self.last.total
            self.state = "stopped" if unfinished else "done"
        try:
            self._changed()
        finally:
            self._ended.set()
