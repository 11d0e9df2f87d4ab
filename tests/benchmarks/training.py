"""Images a second in training, beside timm's MlpMixer: python tests/benchmarks/training.py.

The shipped model's shape (32 pixels, patch 4, C 128, D_S 64, D_C 512, 8 blocks), batches of 256,
the recipe's augmentation and optimizers, on all cores. Each kind has a process of its own, and in
each round every one makes a step, alone on the machine; a figure is the median over rounds of a
ratio to timm's step in the same round:

timm         timm's model in the usual loop, in which every operation uses all cores
timm, kept   the same, with glibc told to keep memory, as ``train`` tells it (``keep_memory``)
train        ``train``: each core has parts of the batch
compiled     ``train --compile``, which needs a C++ compiler and a minute or two to begin with
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.mlp_mixer import MlpMixer as TimmMixer

import mixer_lite as ml
from mixer_lite._support.machine import keep_memory
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD
from mixer_lite.training.augmentation import augmentation
from mixer_lite.training.measures import normalize
from mixer_lite.training.recipe import Recipe, init_weights, make_optimizers
from mixer_lite.training.steps import train_step
from mixer_lite.training.workers import Workers

RECIPE = Recipe()
BATCH = RECIPE.batch_size
KINDS = ("timm", "timm, kept", "train", "compiled")


def stepper(kind: str, bfloat16: bool) -> Callable[[], None]:
    """A function that trains one model on one batch."""
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(BATCH) % 10
    usual = kind.startswith("timm")
    model: Any = ml.create_model("mixer_nano_cifar10")
    if usual:
        model = TimmMixer(num_classes=10, img_size=32, patch_size=4, num_blocks=8, embed_dim=128)
        assert sum(p.numel() for p in model.parameters()) == 1_132_170  # the same shape
        if kind == "timm, kept":
            keep_memory()
    else:
        init_weights(model, RECIPE)
        workers = Workers(model, bfloat16, compile=kind == "compiled")
    augment, optimizers = augmentation(RECIPE, 10), make_optimizers(model, RECIPE)

    def step() -> None:
        x, y = augment(images, labels)
        x = normalize(x, CIFAR10_MEAN, CIFAR10_STD)
        if usual:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                out = model(x)
            model.zero_grad()
            F.cross_entropy(out.float(), y, label_smoothing=0.1).backward()
            for optimizer in optimizers:
                optimizer.step()
        else:
            train_step(workers, optimizers, x, y, 1.0, RECIPE)

    return step


def serve(kind: str, bfloat16: bool, pipe: Any) -> None:
    """A process: makes a step whenever it is asked, and says how many seconds that took."""
    step = stepper(kind, bfloat16)
    step()  # the first allocates, and compiles
    pipe.send(0.0)
    while pipe.recv():
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)


def measure(kinds: list[str], bfloat16: bool, rounds: int) -> None:
    """Print one table."""
    context = multiprocessing.get_context("spawn")
    pipes, seconds = {}, dict[str, list[float]]()
    for kind in kinds:
        pipes[kind], end = context.Pipe()
        context.Process(target=serve, args=(kind, bfloat16, end), daemon=True).start()
        pipes[kind].recv()
        seconds[kind] = []
    for _ in range(rounds):
        for kind, pipe in pipes.items():
            pipe.send(True)
            seconds[kind].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for kind, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["timm"], times, strict=True))
        name = "bfloat16" if bfloat16 else "float32"
        print(f"{name:9s} {kind:11s} {BATCH / statistics.median(times):8.0f} {ratio:10.2f}")


def main() -> None:
    """Print a table for each type of number."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kinds", nargs="+", choices=KINDS[1:], default=KINDS[1:])
    parser.add_argument("--types", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    args = parser.parse_args()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads{load}")
    print(f"{'':21s} images/s    to timm")
    for kind in args.types:
        measure(["timm", *args.kinds], kind == "bfloat16", args.rounds)


if __name__ == "__main__":
    main()
