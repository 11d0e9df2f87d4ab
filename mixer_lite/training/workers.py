"""The gradient of a batch on all cores of a CPU at once, or on another device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_lite._support.machine import keep_memory, usable_cores
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
        teacher: nn.Module | None = None,
        temperature: float = 1.0,
    ):
        """``part`` is in images, and must be given for a network that is no Mixer.

        With a ``teacher`` the classes that it gives the same images take the labels' place:
        its probabilities and the model's are both those of ``logits / temperature``.
        """
        keep_memory()
        self.teacher, self.temperature = teacher, temperature
        self.model = torch.compile(model) if compile else model
        self.bfloat16 = bfloat16
        self.compiles, self.compiled = compile, set[int]()  # parts of so many images
        self.part = part or max(1, 2048 // cast(MlpMixer, model).num_tokens)  # images
        self.params = [p for p in model.parameters() if p.requires_grad]
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

    def _part(self, x: Tensor, y: Tensor, weight: float, smoothing: float) -> tuple[Any, ...]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(x)
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(x)
        logits = logits.float() if self.bfloat16 else logits
        if self.teacher is None:
            loss = F.cross_entropy(logits, y, label_smoothing=smoothing) * weight
        else:
            loss = distillation(logits, taught.to(logits.dtype), self.temperature) * weight
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
            # Threads that compile at once can wait for each other forever, so one goes first.
            for args in parts:
                if len(args[0]) not in self.compiled:
                    self.pool.submit(self._part, *args).result()
                    self.compiled.add(len(args[0]))
        loss, sums = 0.0, list[Tensor]()
        for part_loss, grads in self.each(lambda args: self._part(*args), parts):
            # One part after the other, so that only one part's gradients are in memory.
            sums = [a + b for a, b in zip(sums, grads, strict=True)] if sums else list(grads)
            loss += float(part_loss)
        for param, grad in zip(self.params, sums, strict=True):
            param.grad = grad
        return loss


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """How far a student's classes are from its teacher's: both logits ``(b, classes)``, a scalar.

    Kullback-Leibler divergence of the classes at a temperature, mean of the batch, times the
    temperature squared, so that gradients stay as long (Hinton et al. 2015).
    """
    log_p, log_q = (F.log_softmax(z / temperature, dim=1) for z in (logits, taught))
    divergence = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return divergence * temperature**2
