"""Around a learner's code while it runs: a time limit, and a session that stays as it was."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import linecache
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

TICK = 0.1  # seconds between two looks at the clocks
PATIENCE = 4  # code that waits, or shares its processor, may take so many times as long
PACKAGE = str(Path(__file__).resolve().parents[2])
INSTALLED = tuple({str(Path(torch.__file__).resolve().parents[1]), str(Path(copy.__file__).parent)})


class OutOfTime(BaseException):
    """The time limit; not an Exception, so that a learner's ``except Exception`` lets it pass."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` in this thread when the time is up, repeatedly until it leaves.

    Processor time counts, so that a busy machine makes no answer late; by the clock it may be
    ``PATIENCE`` times as long.
    """
    worked, began = time.process_time(), time.monotonic()

    def late() -> bool:
        waited = time.monotonic() - began
        return time.process_time() - worked > seconds or waited > PATIENCE * seconds

    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():

        def ring(*_: Any) -> None:
            if late():
                raise OutOfTime

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return
    # Windows, and threads other than the first, have no such alarm: Python raises it for us.
    done, thread = threading.Event(), ctypes.c_ulong(threading.get_ident())
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        while not done.wait(TICK):
            if late():
                throw(thread, ctypes.py_object(OutOfTime))

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        throw(thread, None)  # cancels one that is pending


@contextlib.contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """The learner's session is afterwards as it was: random numbers, modes, default type."""
    kind, python, threads = torch.get_default_dtype(), random.getstate(), torch.get_num_threads()
    numpy = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)  # for tiny products several threads are slower
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        torch.set_default_dtype(kind)
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def place(trace: TracebackType | None) -> str:
    """The last line of the learner's own code in a traceback, or ``""``."""
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith((PACKAGE, *INSTALLED, "<frozen", "<__array_function__"))
    ]
    if not frames:
        return ""
    last = frames[-1]
    line = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"in {last.name}, line {last.lineno}: {line}" if line else f"in {last.name}"
