"""Forks kernels that have loaded their libraries already, each into a box of its own; Linux alone.

To load PyTorch takes half of a submission's time, so one process does it for all. It is started as
a kernel is, with a kernel's environment, and knows nothing of anybody's submission: a new kernel
reads what it is told of its own when it is in its box.

The nursery is asked by a message, a plan as box.py has it with the kernel's ``arguments``, and
three descriptors: the kernel's standard input and output, and a line. On it a guard tells its
number when the kernel is in its box, and at the end how the kernel ended; where the box cannot be
built, the line ends without a word. When the line is cut, the guard ends the box.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any

import numpy

import box

MESSAGE = 1 << 17  # bytes
# linux/sched.h: user, mounts, network, System V's communication, names, processes
NAMESPACES = 0x10000000 | 0x20000 | 0x40000000 | 0x8000000 | 0x4000000 | 0x20000000
# linux/prctl.h, linux/capability.h
DIE_WITH_PARENT, DUMPABLE, DROP_BOUND, NO_NEW_RIGHTS, AMBIENT, CLEAR_ALL = 1, 4, 24, 38, 47, 4
CAPABILITIES = 0x20080522


def serve() -> list[str]:
    """Wait for messages on standard input; returns in each new kernel, with its arguments."""
    line = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    gc.collect()
    gc.freeze()  # what is there is shared with all kernels
    while True:
        message, ends, _, _ = socket.recv_fds(line, MESSAGE, 3)
        if not message:
            break
        if not os.fork():
            line.detach()
            plan = json.loads(message)
            _bear(plan, *ends)
            return plan["arguments"]
        for end in ends:
            os.close(end)
        _bury(os.WNOHANG)
    _bury(0)
    os._exit(0)


def _bury(how: int) -> None:
    try:
        while os.waitpid(-1, how)[0]:
            pass
    except ChildProcessError:
        pass


def _bear(plan: dict[str, Any], stdin: int, stdout: int, line: int) -> None:
    # In three processes: the guard outside, the first of the box, and the kernel, which returns.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _unshare()
    _prctl(DIE_WITH_PARENT, signal.SIGKILL)
    heard, told = os.pipe()
    if first := os.fork():
        os.close(told)
        _guard(first, line, heard)
    _prctl(DIE_WITH_PARENT, signal.SIGKILL)
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    box.close_but(told)
    box.dwell(plan, _become, told)
    os.write(told, b".")
    os.close(told)


def _prctl(what: int, number: int) -> None:
    box.call("prctl", *map(ctypes.c_ulong, (what, number, 0, 0, 0)))


def _unshare() -> None:
    user, group = os.geteuid(), os.getegid()
    box.call("unshare", NAMESPACES)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path("/proc/self", name).write_text(line)


def _guard(first: int, line: int, heard: int) -> None:
    try:
        box.close_but(line, heard)
        for standard in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), standard)
        end, teller = os.pidfd_open(first), socket.socket(fileno=line)
        if os.read(heard, 1):
            teller.send(str(os.getpid()).encode())
            ready, _, _ = select.select([teller, end], [], [])
            if end not in ready:
                os.kill(first, signal.SIGKILL)
            _, status = os.waitpid(first, 0)
            teller.send(str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _become(environment: dict[str, str]) -> None:
    # What setpriv and the start of Python do for a kernel that is not forked.
    for number in range(64):
        try:
            _prctl(DROP_BOUND, number)
        except OSError:  # there are no more
            break
    _prctl(AMBIENT, CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    box.call("capset", header, (ctypes.c_uint32 * 6)())
    _prctl(NO_NEW_RIGHTS, 1)
    _prctl(DUMPABLE, 1)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    numpy.random.seed()  # noqa: NPY002  Python's own random numbers do so themselves
