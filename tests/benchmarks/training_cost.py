"""How a training step's time and memory grow: python tests/benchmarks/training_cost.py.

Prints two tables. Steps are whole ones (gradient, optimizers, no augmentation) of a Mixer with
C 128, D_S 64, D_C 512 and 8 blocks in float32 on the CPU. Times are wall-clock: every round times
all settings one after the other, and what is printed is the median over rounds of a setting's time
beside the first one's in the same round. Memory is that of a fresh process for each setting: its
peak beside what it held before the first step. Close other programs first.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

from mixer_lite._support.machine import keep_memory
from mixer_lite.model import MlpMixer
from mixer_lite.training.recipe import Recipe, init_weights, make_optimizers
from mixer_lite.training.steps import train_step
from mixer_lite.training.workers import Workers

ROUNDS = 5
PATCH = 4
TOKENS = [(side, 128) for side in (16, 32, 48, 64)]  # image side, batch
BATCHES = [(32, batch) for batch in (64, 128, 256, 512)]


class Setting:
    """A model and a batch, ready to step."""

    def __init__(self, side: int, batch: int):
        torch.manual_seed(0)
        model = MlpMixer(
            image_size=side, patch_size=PATCH, num_classes=10, num_blocks=8, hidden_dim=128,
            tokens_mlp_dim=64, channels_mlp_dim=512,
        )  # fmt: skip
        self.recipe = Recipe()
        init_weights(model, self.recipe)
        self.tokens, self.batch = model.num_tokens, batch
        self.workers, self.optimizers = Workers(model), make_optimizers(model, self.recipe)
        self.x = torch.randn(batch, 3, side, side)
        self.y = F.one_hot(torch.arange(batch) % 10, 10).float()

    def step(self) -> float:
        """One step; its seconds."""
        started = time.perf_counter()
        train_step(self.workers, self.optimizers, self.x, self.y, 0.01, self.recipe)
        return time.perf_counter() - started


def peak(setting: tuple[int, int]) -> float:
    """Megabytes that three steps take on top of what was there before."""
    keep_memory()
    one = Setting(*setting)
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        one.step()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return (int(status.split("VmHWM:")[1].split()[0]) * 1024 - before) / 1e6


def table(title: str, settings: list[tuple[int, int]]) -> None:
    """Time every setting in every round, and print."""
    many = [Setting(*setting) for setting in settings]
    for one in many:
        one.step()
    rounds = [[one.step() for one in many] for _ in range(ROUNDS)]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = pool.map(peak, settings, chunksize=1)
    print(f"\n{title}\n| S | batch | tokens, share of first | time, share of first | ms | MB |")
    print("|---|---|---|---|---|---|")
    for i, one in enumerate(many):
        work = one.tokens * one.batch / (many[0].tokens * many[0].batch)
        share = statistics.median(times[i] / times[0] for times in rounds)
        milliseconds = 1000 * statistics.median(times[i] for times in rounds)
        print(
            f"| {one.tokens} | {one.batch} | {work:.2f} | {share:.2f} | {milliseconds:.0f} "
            f"| {memory[i]:.0f} |"
        )


if __name__ == "__main__":
    keep_memory()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, PyTorch {torch.__version__}")
    table("Step against number of tokens", TOKENS)
    table("Step against batch", BATCHES)
