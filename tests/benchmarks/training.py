"""Images a second in training, beside timm's MlpMixer: python tests/benchmarks/training.py.

The shipped model's shape (32 pixels, patch 4, C 128, D_S 64, D_C 512, 8 blocks), batches of 256,
the recipe's augmentation and optimizers, on all cores. The steps of each round follow one another
in one process, and a figure is the median over rounds of a ratio to timm's step in the same round:
timm's model in the usual loop, in which every operation uses all cores. ``train`` gives each core
parts of the batch instead. Each of the two settings of malloc runs in a process of its own:
glibc's own, and the one that ``train`` chooses (``keep_memory``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.mlp_mixer import MlpMixer as TimmMixer
from torch import Tensor

import mixer_lite as ml
from mixer_lite.augment import augmentation
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD
from mixer_lite.measures import normalize
from mixer_lite.recipe import Recipe, init_weights, make_optimizers
from mixer_lite.workers import Workers, keep_memory

RECIPE = Recipe()
BATCH = RECIPE.batch_size


def stepper(kind: str, bfloat16: bool, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A function that trains one model on one batch."""
    cores = torch.get_num_threads()
    model: Any = ml.create_model("mixer_nano_cifar10")
    if kind == "timm":
        model = TimmMixer(num_classes=10, img_size=32, patch_size=4, num_blocks=8, embed_dim=128)
        assert sum(p.numel() for p in model.parameters()) == 1_132_170  # the same shape
    else:
        init_weights(model, RECIPE)
    augment, optimizers = augmentation(RECIPE, 10), make_optimizers(model, RECIPE)
    workers = Workers(model, bfloat16, part=64)  # of 4096 tokens, as in train

    def step() -> None:
        # The usual loop leaves all cores to each operation.
        torch.set_num_threads(1 if kind != "timm" else cores)
        x, y = augment(images, labels)
        x = normalize(x, CIFAR10_MEAN, CIFAR10_STD)
        if kind == "timm":
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                out = model(x)
            model.zero_grad()
            F.cross_entropy(out.float(), y, label_smoothing=0.1).backward()
        else:
            workers.gradient(x, y, 0.1)
        for optimizer in optimizers:
            optimizer.step()

    return step


def measure(rounds: int) -> None:
    """Print one table."""
    cores = torch.get_num_threads()
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(BATCH) % 10
    for bfloat16 in (False, True):
        kinds = ("timm", "train")
        steps = {}
        for kind in kinds:
            torch.set_num_threads(cores)
            steps[kind] = stepper(kind, bfloat16, images, labels)
            steps[kind]()  # the first allocates
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, step in steps.items():
                start = time.perf_counter()
                step()
                seconds[kind].append(time.perf_counter() - start)
        for kind, times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(seconds["timm"], times, strict=True))
            name = "bfloat16" if bfloat16 else "float32"
            print(f"{name:9s} {kind:6s} {BATCH / statistics.median(times):9.0f} {ratio:9.2f}")


def main() -> None:
    """Print a table for each setting of malloc."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--malloc", choices=("own", "kept"))
    args = parser.parse_args()
    if args.malloc is None:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        for malloc in ("own", "kept"):
            load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
            print(f"\nmalloc: {malloc}{load}\n{'':16s} images/s   to timm", flush=True)
            subprocess.run(
                [sys.executable, __file__, "--rounds", str(args.rounds), "--malloc", malloc],
                check=True,
            )
        return
    if args.malloc == "kept":
        keep_memory()
    measure(args.rounds)


if __name__ == "__main__":
    main()
