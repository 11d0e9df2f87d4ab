"""What this process runs in: cores and memory that it may use, a notebook or not."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def usable_cores() -> int:
    """The cores that this process may use; a cluster or ``taskset`` may allow it fewer than all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Where Linux tells what a container may use: its folder, and the names of the limit, of what is
# used, and of the part of that which is a file's copy and can go. Version 2, then 1.
_CONTAINERS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file"),
)  # fmt: skip


def free_memory() -> int:
    """Bytes that a program can still take, of the machine or of the container that it runs in."""
    import psutil

    free = psutil.virtual_memory().available
    for folder, limit, used, spare in _CONTAINERS:
        try:
            most, taken = (int((Path(folder) / name).read_text()) for name in (limit, used))
            facts = dict(map(str.split, (Path(folder) / "memory.stat").read_text().splitlines()))
            free = min(free, most - taken + int(facts[spare]))
        except (OSError, ValueError, KeyError):  # there is no container, or its limit is "max"
            continue
    return max(0, int(free))


def keep_memory() -> None:
    """Have glibc keep big blocks of memory: handing them back after every operation takes time."""
    if platform.system() == "Linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


# What PyTorch says when memory runs out, or when a size is impossible.
_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "overflow")


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that something takes more memory than there is, or can be."""
    if isinstance(error, RuntimeError):
        return any(words in str(error).lower() for words in _NO_MEMORY)
    return isinstance(error, MemoryError | OverflowError)


@contextmanager
def enough_memory(sentence: str, kind: type[Exception] = MemoryError) -> Iterator[None]:
    """Around work that may run out of memory: then an error of this kind says this sentence."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        raise kind(sentence) from error


def in_notebook() -> bool:
    """Whether a kernel runs this: then there may be a page to draw on."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")
