"""Steps of a training: batches, the gradient of one, and the loop over them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mixer_lite.training.measures import normalize
from mixer_lite.training.processes import Processes
from mixer_lite.training.recipe import Recipe, learning_rate_share
from mixer_lite.training.runs import ADVICE, Diverged
from mixer_lite.training.workers import Workers

_random = Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random numbers from a seed; the caller's own stay as they were."""
    # Two runs at once do not mix their random numbers.
    with _random, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def step_seed(seed: int, step: int) -> int:
    """All that is random in a step follows from this number, so a run can go on from any step."""
    return int(np.random.SeedSequence([abs(seed), step]).generate_state(1, np.uint64)[0])


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch, from 0, takes ``count`` images."""
    number = (seed * 100_003 + epoch + 1) % 2**64  # as PyTorch takes negative ones
    return torch.randperm(count, generator=torch.Generator().manual_seed(number))


@dataclass(frozen=True)
class Batches:
    """The batches of a training; each can be made alone.

    Every epoch has its own order of the images and leaves out the last ones, too few for a batch.

    Attributes:
        images: bytes ``(n, 3, h, w)``.
        labels: their classes ``(n,)``.
        index: of those images that are trained on ``(m,)``.
        batch_size: images a step.
        seed: of order and augmentation.
        augment: bytes and classes to bytes and class probabilities ``(b, num_classes)``.
        mean, std: what images are normalised by, on a 0-1 scale.
        team: the processes that share each batch.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    batch_size: int
    seed: int
    augment: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    team: Processes

    @property
    def each_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self.index) // self.batch_size

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """A step's images ``(b, 3, h, w)``, class probabilities ``(b, num_classes)``; from 0."""
        epoch, place = divmod(step, self.each_epoch)
        order = self.index[epoch_order(len(self.index), self.seed, epoch)]
        some = order.split(self.batch_size)[place]
        with seeded(step_seed(self.seed, step)):
            x, y = self.augment(self.images[some], self.labels[some])
        # All processes augment the same whole batch, and each takes its part of it.
        team = self.team
        x, y = (whole.chunk(team.count)[team.rank].to(team.device) for whole in (x, y))
        return normalize(x, self.mean, self.std), y


class Step(NamedTuple):
    """A finished step: its number from 1, mean loss, part of the peak rates, seconds."""

    number: int
    loss: float
    lr_share: float
    seconds: float


def steps(
    workers: Workers,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Batches,
    recipe: Recipe,
    *,
    first: int = 0,
    last: int,
    total: int,
) -> Generator[Step, None, None]:
    """The loop: make the steps from ``first`` to ``last`` of ``total``, and yield each.

    Raises:
        Diverged: the loss or its gradient is not finite.
    """
    with ThreadPoolExecutor(1) as ahead:
        coming: Future[tuple[Tensor, Tensor]] | None = None
        for step in range(first, last):
            started = time.perf_counter()
            lr_share = learning_rate_share((step + 1) / total, recipe)
            x, y = coming.result() if coming else batches.batch(step)
            # Make the next batch during this step, so that no core waits for it.
            coming = ahead.submit(batches.batch, step + 1) if step + 1 < last else None
            loss = train_step(workers, optimizers, x, y, lr_share, recipe, batches.team)
            wait([coming] if coming else [])
            yield Step(step + 1, loss, lr_share, time.perf_counter() - started)


def train_step(
    workers: Workers,
    optimizers: Sequence[torch.optim.Optimizer],
    x: Tensor,
    y: Tensor,
    lr_share: float,
    recipe: Recipe,
    team: Processes | None = None,
) -> float:
    """One step on a batch, or on this process's part of it; the mean loss of the whole batch.

    Args:
        workers: they compute the gradient.
        optimizers: of :func:`make_optimizers`.
        x: normalised images ``(b, 3, h, w)``.
        y: their class probabilities ``(b, num_classes)``.
        lr_share: this step's part of the peak learning rates.
        recipe: smoothing and clipping.
        team: the processes that share the batch.

    Raises:
        Diverged: the loss or its gradient is not finite; no weight has changed.
    """
    loss = workers.gradient(x, y, recipe.label_smoothing)
    if team is not None and team.count > 1:
        loss = _average(workers.params, loss, team)
    length = float(nn.utils.clip_grad_norm_(workers.params, recipe.clip or math.inf))
    for what, value in (("loss", loss), ("gradient", length)):
        if not math.isfinite(value):
            raise Diverged(f"The {what} is {value}. {ADVICE}")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_share
    list(workers.each(lambda optimizer: optimizer.step(), optimizers))
    return loss


def _average(params: list[nn.Parameter], loss: float, team: Processes) -> float:
    # Every process has as many images, so the batch's gradient is the mean of theirs.
    grads = [p.grad.flatten() for p in params if p.grad is not None]
    flat = torch.cat([*grads, grads[0].new_tensor([loss])])  # one message for all
    *pieces, mean = team.mean(flat).split([p.numel() for p in params] + [1])
    for param, piece in zip(params, pieces, strict=True):
        param.grad = piece.view_as(param)
    return float(mean)
