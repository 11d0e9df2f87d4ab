"""A convolutional network that teaches a Mixer: better on CIFAR-10, and quick to train.

    mixer-lite teacher --out runs/teacher --bfloat16
    mixer-lite train --teacher runs/teacher/teacher.safetensors

A Mixer that learns to answer as such a network does, image by image, does better than one that
learns from labels alone (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and
consistent"). The network's plan is that of the fast ones of Page ("How to train your ResNet", 2018)
and Jordan ("94 % on CIFAR-10 in 3.29 seconds on a single GPU", 2024): a first layer that whitens
patches and does not learn, three stages of two convolutions, Muon.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mixer_lite._support.files import replaced
from mixer_lite.datasets.cifar import CIFAR10_MEAN, CIFAR10_STD
from mixer_lite.model import ModelConfig
from mixer_lite.specs import CIFAR10_CLASSES
from mixer_lite.training.augmentation import augmentation
from mixer_lite.training.measures import accuracy, normalize
from mixer_lite.training.muon import Muon
from mixer_lite.training.processes import Processes
from mixer_lite.training.recipe import Recipe, remember_peaks
from mixer_lite.training.runs import alone_in, load_state, save_state, write_log
from mixer_lite.training.steps import Batches, seeded
from mixer_lite.training.workers import Workers
from mixer_lite.weights.files import read_file

WIDTHS = (64, 256, 256)
FILE = "teacher.safetensors"
PART = 125  # images that a BatchNorm sees at once while it trains


class ConvTeacher(nn.Module):
    """Whitened patches, three stages that each halve the grid, a linear head.

    ``(b, 3, 32, 32) -> (b, num_classes)``; ``config`` says how images are normalised.
    """

    def __init__(self, config: ModelConfig, widths: Sequence[int] = WIDTHS):
        super().__init__()
        self.config, self.widths = config, tuple(widths)
        self.whiten = nn.Conv2d(3, 32, 3)  # (b, 3, 32, 32) -> (b, 32, 30, 30)
        # The grid: 30 -> 15 -> 7 -> 3.
        self.stages = nn.Sequential(*map(Stage, (32, *widths), widths))
        self.head = nn.Linear(widths[-1], len(config.class_names), bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, 3, 32, 32) -> (b, num_classes)``."""
        x = F.gelu(self.whiten(x.contiguous(memory_format=torch.channels_last)))
        x = self.stages(x)
        return self.head(x.amax(dim=(2, 3))) / 9  # (b, C, 3, 3) -> (b, C) -> (b, num_classes)


class Stage(nn.Module):
    """Two convolutions, the grid halved between them: ``(b, c, h, w) -> (b, width, h/2, w/2)``."""

    def __init__(self, before: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        # What they subtract and divide by is measured after an epoch, not along the way.
        self.norm1, self.norm2 = (nn.BatchNorm2d(width, momentum=0.0) for _ in range(2))
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            nn.init.dirac_(conv.weight[: conv.in_channels])  # at first the layer returns its input
            norm.weight.requires_grad = False  # the next layer scales as well

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, h, w) -> (b, width, h/2, w/2)``."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


@torch.no_grad()
def whiten(conv: nn.Conv2d, x: Tensor) -> None:
    """Make a convolution's answers to images ``(b, c, h, w)`` independent and equally strong.

    Half of its kernels are the directions along which patches vary most, each divided by how much;
    the others are their negatives. It does not learn any more.
    """
    size = conv.kernel_size[0]
    patches = rearrange(F.unfold(x, size), "b ckk n -> (b n) ckk")
    values, vectors = torch.linalg.eigh(patches.T.cov())  # ascending; each column a direction
    kernels = (vectors / (values + 5e-4).sqrt())[:, -conv.out_channels // 2 :]
    kernels = rearrange(kernels, "(c h w) n -> n c h w", h=size, w=size)
    conv.weight.copy_(torch.cat([kernels, -kernels]))
    if conv.bias is not None:
        conv.bias.zero_()
    conv.requires_grad_(False)


@torch.no_grad()
def measure_statistics(model: ConvTeacher, x: Tensor, bfloat16: bool = False) -> None:
    """Set what every BatchNorm subtracts and divides by: the means over images, 250 at once."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    model.train()
    for some in x.split(250):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            model(some)
    for norm in norms:
        norm.momentum = 0.0
    model.eval()


def train_teacher(
    out: str | Path,
    *,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str] = CIFAR10_CLASSES,
    epochs: int = 8,
    batch_size: int = 1000,
    lr: float = 0.2,
    widths: Sequence[int] = WIDTHS,
    seed: int = 0,
    bfloat16: bool = False,
    holdout: int = 0,
    stop_after: int | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> ConvTeacher:
    """Train a teacher on a CPU, or go on after the last epoch that ``out`` holds.

    Args:
        out: folder for the checkpoint, ``log.csv`` and ``teacher.safetensors``.
        images: bytes ``(n, 3, 32, 32)``.
        labels: their classes ``(n,)``.
        class_names: one name a class.
        epochs: passes over the images; all rates fall to zero over them.
        batch_size: images a step.
        lr: of Muon on the kernels; AdamW has a twentieth of it on the rest.
        widths: channels of the stages.
        seed: of weights, order, mirror images and shifts.
        bfloat16: as for :func:`mixer_lite.training.loop.train`.
        holdout: so many of the images are kept out and measured after each epoch.
        stop_after: leave after this many epochs, as an interruption would.
        report: called with each row of the log.

    Raises:
        ValueError: ``out`` holds another run's checkpoint or damaged ones alone, or there are
            fewer images than a batch.
        OSError: another process trains in ``out``, or the weights cannot be written.
    """
    identity = dict(
        name="conv_teacher", epochs=epochs, batch_size=batch_size, lr=lr, widths=list(widths),
        seed=seed, bfloat16=bfloat16, holdout=holdout, class_names=list(class_names),
        content=[zlib.adler32(data.contiguous().numpy().data) for data in (images, labels)],
    )  # fmt: skip
    batches, held = _parted(images, labels, class_names, epochs, batch_size, holdout, seed)
    model = _untrained(batches, class_names, epochs, widths)
    optimizers, log, out = _optimizers(model, lr), list[dict[str, Any]](), Path(out)
    with alone_in(out), Workers(model, bfloat16, part=PART) as workers:
        if state := load_state(out, identity):
            log = _go_on(state, model, optimizers)
        for epoch in range(len(log), epochs if stop_after is None else min(epochs, stop_after)):
            log.append(_epoch(workers, optimizers, batches, held, epoch, epochs))
            report(log[-1])
            states = [optimizer.state_dict() for optimizer in optimizers]
            save_state(out, identity, dict(log=log, model=model.state_dict(), optimizers=states))
            write_log(out, log)
    if len(log) == epochs:
        save_teacher(model, out / FILE)
    return model.eval()


def _parted(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    epochs: int,
    batch_size: int,
    holdout: int,
    seed: int,
) -> tuple[Batches, Tensor]:
    """Batches to train on, and the numbers of the images that are held out."""
    if epochs < 1 or not 0 <= holdout < len(images):
        raise ValueError(
            f"epochs must be 1 or more, and holdout 0 or more and fewer than all {len(images):,} "
            f"images, not {epochs} and {holdout}."
        )
    if len(images) - holdout < batch_size:
        raise ValueError(
            f"{len(images) - holdout} images are fewer than one batch of {batch_size}: choose a "
            f"smaller batch_size, or more images."
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, kept = order.tensor_split([holdout])
    augment = augmentation(Recipe(auto_augment=0.0, cutmix=0.0), len(class_names))
    team = Processes(torch.device("cpu"))
    return Batches(
        images, labels, kept, batch_size, seed, augment, CIFAR10_MEAN, CIFAR10_STD, team
    ), held


def _first(batches: Batches, count: int) -> Tensor:
    """The first images to train on, unchanged, as a network takes them."""
    return normalize(batches.images[batches.index[:count]], batches.mean, batches.std)


def _untrained(
    batches: Batches, class_names: Sequence[str], epochs: int, widths: Sequence[int]
) -> ConvTeacher:
    config = ModelConfig(
        name="conv_teacher", image_size=32, mean=CIFAR10_MEAN, std=CIFAR10_STD, crop=1.0,
        class_names=tuple(class_names), source=f"Mixer Lite's teacher, {epochs} epochs",
    )  # fmt: skip
    with seeded(batches.seed):
        model = ConvTeacher(config, widths)
    whiten(model.whiten, _first(batches, 2000))
    return model


def _go_on(
    state: dict[str, Any], model: ConvTeacher, optimizers: Sequence[torch.optim.Optimizer]
) -> list[dict[str, Any]]:
    # Restores a checkpoint and returns its log.
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["log"]


def _epoch(
    workers: Workers,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Batches,
    held: Tensor,
    epoch: int,
    epochs: int,
) -> dict[str, Any]:
    """One of several passes, over which the rates fall to zero; its row of the log."""
    began, steps = time.perf_counter(), batches.each_epoch
    model = cast(ConvTeacher, workers.model)
    model.train()
    losses = [
        _step(workers, optimizers, *batches.batch(k), 1 - k / (epochs * steps))
        for k in range(epoch * steps, (epoch + 1) * steps)
    ]
    measure_statistics(model, _first(batches, 4000), workers.bfloat16)
    row: dict[str, Any] = dict(epoch=epoch + 1, loss=round(sum(losses) / steps, 4))
    if len(held):
        x = normalize(batches.images[held], batches.mean, batches.std)
        row["held_out_accuracy"] = accuracy(model, x, batches.labels[held], each=workers.each)
    return row | dict(seconds=round(time.perf_counter() - began, 1))


def _step(
    workers: Workers,
    optimizers: Sequence[torch.optim.Optimizer],
    x: Tensor,
    y: Tensor,
    lr_share: float,
) -> float:
    """One step at a part of the peak rates, on images ``(b, 3, 32, 32)``; the mean loss."""
    loss = workers.gradient(x, y, smoothing=0.2)
    with torch.no_grad():
        for p in workers.params:
            if p.ndim == 4:  # BatchNorm undoes a kernel's length
                p.mul_(len(p) ** 0.5 / p.norm())
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["initial_lr"] * lr_share
    list(workers.each(lambda optimizer: optimizer.step(), optimizers))
    return loss


def _optimizers(model: ConvTeacher, lr: float) -> list[torch.optim.Optimizer]:
    learning = [p for p in model.parameters() if p.requires_grad]
    shapes: dict[torch.Size, list[nn.Parameter]] = {}
    for p in learning:
        if p.ndim == 4:
            shapes.setdefault(p.shape, []).append(p)
    rest = [p for p in learning if p.ndim != 4]
    muon = [Muon([dict(params=params)], lr=lr, momentum=0.6) for params in shapes.values()]
    adamw = torch.optim.AdamW(rest, lr=lr / 20, betas=(0.85, 0.98), weight_decay=0.0)
    return remember_peaks([*muon, adamw])


def save_teacher(model: ConvTeacher, path: str | Path) -> None:
    """Write a ``.safetensors`` file that :func:`load_teacher` reads.

    Raises:
        OSError: the disk takes no more.
    """
    from safetensors.torch import save

    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    about = dict(teacher=json.dumps(asdict(model.config)), widths=json.dumps(model.widths))
    with replaced(path) as file:
        file.write(save(state, about))


def is_teacher(path: str | Path) -> bool:
    """Whether a file is :func:`save_teacher`'s."""
    return Path(path).suffix == ".safetensors" and "teacher" in read_file(path)[1]


def load_teacher(path: str | Path) -> ConvTeacher:
    """The teacher that :func:`save_teacher` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another kind of file, or damaged.
    """
    state, about = read_file(path)
    try:
        config: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in json.loads(about["teacher"]).items()
        }
        widths = json.loads(about["widths"])
        # A file can claim any widths: build only those that its tensors have.
        shapes: dict[str, tuple[int, ...]]
        shapes = {f"stages.{i}.conv2.weight": (w, w, 3, 3) for i, w in enumerate(widths)}
        shapes["head.weight"] = (len(config["class_names"]), widths[-1])
        if any(state[name].shape != shape for name, shape in shapes.items()):
            raise ValueError("its tensors have other widths")
        model = ConvTeacher(ModelConfig(**config), widths)
        model.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not hold a teacher: give the {FILE} that 'mixer-lite teacher' wrote."
        ) from error
    return model.eval()
