"""Tells the grader, from within a submission's process, that its code looks into the interpreter.

Python raises an audit event before such a thing is done, so the word is out before anything can be
changed; a hook cannot be taken away again. What it cannot see is told in the guide.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

# Nothing in the course's assignments needs one of these.
TRIPPING = {
    "gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys._getframe",
    "sys._current_frames", "sys._current_exceptions", "sys.settrace", "sys.setprofile",
    "sys.addaudithook", "ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle",
    "ctypes.call_function", "ctypes.cdata", "ctypes.cdata/buffer", "ctypes.string_at",
    "ctypes.wstring_at", "ctypes.addressof", "ctypes.PyObj_FromPtr",
}  # fmt: skip
ATTRIBUTES = {"tb_frame", "gi_frame", "cr_frame", "ag_frame"}
# Those that do it in the name of their caller.
WAYS = {"kernel", "parent", "_trait_values"}  # from the shell to what runs it
AGENTS = (os.path.dirname(ctypes.__file__), inspect.__file__, traceback.__file__)


def set_tripwire(
    pipe: int, theirs: Callable[[FrameType], bool], shell: type[InteractiveShell]
) -> None:
    """From now on the grader reads from the pipe what a submission's code does of all this.

    Args:
        pipe: descriptor to write to: a line for each kind of thing that is done.
        theirs: whether a frame runs a submission's code.
        shell: the class of the shell, whose way to its kernel is one of these things.
    """
    told: set[str] = set()
    inside: set[int] = set()
    frame_of, thread, write = sys._getframe, threading.get_ident, os.write

    def ring(what: str, frame: FrameType | None) -> None:
        if what not in told and frame and theirs(frame):
            told.add(what)
            try:
                write(pipe, f"{what}\n".encode())
            except OSError:
                os._exit(1)  # the pipe was closed: nobody would notice

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in TRIPPING:
            what = event
        elif event == "object.__getattr__" and arguments[1] in ATTRIBUTES:
            what = arguments[1]
        elif event == "open" and isinstance(arguments[0], str) and arguments[0].endswith("/mem"):
            what = "the process's memory"
        else:
            return
        me = thread()
        if what in told or me in inside:
            return
        inside.add(me)
        try:
            frame: FrameType | None = frame_of(1)
            if event != "object.__getattr__":
                while frame and frame.f_code.co_filename.startswith(AGENTS):
                    frame = frame.f_back
            ring(what, frame)
        finally:
            inside.discard(me)

    def look_up(self: InteractiveShell, name: str) -> Any:
        if name in WAYS:
            me = thread()
            inside.add(me)
            ring(f"the shell's {name}", frame_of(1))
            inside.discard(me)
        return plain(self, name)

    plain = shell.__getattribute__
    shell.__getattribute__ = look_up  # type: ignore[method-assign]
    sys.addaudithook(hook)
