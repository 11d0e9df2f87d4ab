"""The gradient of a batch on all cores of a CPU at once, or on another device."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_lite.model import MlpMixer

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Gradient of a batch, computed in fixed parts on all cores at once.

    A part of 2048 tokens stays in the processor's cache, and one thread a part beats all threads
    on one operation by about a fifth. Parts are summed in their order, so the result does not
    depend on the number of cores.
    """

    def __init__(
        self,
        model: nn.Module,
        bfloat16: bool = False,
        part: int | None = None,
        compile: bool = False,
    ):
        """``part`` is in images, and must be given for a network that is no Mixer."""
        keep_memory()
        self.model = torch.compile(model) if compile else model
        self.bfloat16 = bfloat16
        self.compiles, self.compiled = compile, set[int]()  # parts of so many images
        self.part = part or max(1, 2048 // cast(MlpMixer, model).num_tokens)  # images
        self.params = list(model.parameters())
        self.on_cpu = self.params[0].device.type == "cpu"
        if self.on_cpu:
            self.threads = torch.get_num_threads()
            torch.set_num_threads(1)
            mine = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            self.pool = ThreadPoolExecutor(
                max(1, mine), initializer=torch.set_num_threads, initargs=(1,)
            )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_cpu:
            self.pool.shutdown()
            torch.set_num_threads(self.threads)

    def _part(self, x: Tensor, y: Tensor, share: float, smoothing: float) -> tuple[Any, ...]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(x)
        logits = logits.float() if self.bfloat16 else logits
        loss = F.cross_entropy(logits, y, label_smoothing=smoothing) * share
        return loss.detach(), torch.autograd.grad(loss, self.params)

    def each(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``task`` of every item, in their order: on a CPU on all cores, one item a core."""
        return (self.pool.map if self.on_cpu else map)(task, items)

    def gradient(self, x: Tensor, y: Tensor, smoothing: float) -> float:
        """Set every parameter's ``grad``; return the mean loss."""
        size = self.part if self.on_cpu else len(x)
        parts = [
            (a, b, len(a) / len(x), smoothing)
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
        if self.compiles and self.on_cpu:
            # Threads that compile at the same time can wait for each other for ever: one at first.
            for args in parts:
                if len(args[0]) not in self.compiled:
                    self.pool.submit(self._part, *args).result()
                    self.compiled.add(len(args[0]))
        loss, sums = 0.0, list[Tensor]()
        for share, grads in self.each(lambda args: self._part(*args), parts):
            # One part's after the other, lest the gradients of all lie in memory at once.
            sums = [a + b for a, b in zip(sums, grads, strict=True)] if sums else list(grads)
            loss += float(share)
        for param, grad in zip(self.params, sums, strict=True):
            param.grad = grad
        return loss


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
