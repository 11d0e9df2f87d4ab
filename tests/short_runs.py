"""Small runs for the tests of training, where other processes can find them."""

import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path

import torch

from mixer_lite.specs import CIFAR10_CLASSES
from mixer_lite.training import loop as train
from mixer_lite.training.recipe import Recipe

SMALL = replace(Recipe(), epochs=3, batch_size=32, snapshots=4, warmup_epochs=0.5)
# Everything that a checkpoint may have to hold.
LONG = replace(SMALL, batch_size=16, epochs=5, ema=0.9, mixup=0.3, erase=0.2, clip=1.0)


def coloured_squares(n: int = 160) -> dict[str, torch.Tensor]:
    """Images that a class gives its mean colour: easy to learn."""
    g = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % len(CIFAR10_CLASSES)
    colours = torch.randint(30, 220, (len(CIFAR10_CLASSES), 3, 1, 1), generator=g)
    noise = torch.randint(-20, 20, (n, 3, 32, 32), generator=g)
    return dict(images=(colours[labels] + noise).clamp(0, 255).to(torch.uint8), labels=labels)


def long_run(out: Path, **options) -> torch.nn.Module:
    """Four steps an epoch, five epochs."""
    options = dict(seed=2, holdout=16) | options
    return train.train("mixer_pico_cifar10", out, recipe=LONG, **coloured_squares(80), **options)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_run(out: Path, kind: str, where: str, seed: int) -> None:
    """A run in this process, which is killed on the way.

    Args:
        out: folder of the run.
        kind: ``"step"``: some milliseconds after the step numbered ``where``; ``"write"``: in the
            middle of the first write of a checkpoint; ``"before"`` and ``"after"``: when first a
            file is moved to the name ``where``.
        where: see there.
        seed: of the milliseconds.
    """
    torch.set_num_threads(1)
    move, save = os.replace, torch.save

    def moves(source, target):
        now = Path(target).name == where
        if now and kind == "before":
            _die()
        move(source, target)
        if now and kind == "after":
            _die()

    def saves(state, file):
        if kind == "write":
            file.write(b"half a checkpoint")
            file.flush()
            _die()
        save(state, file)

    def watches(moment):
        if kind == "step" and moment.step >= int(where):
            threading.Timer(random.Random(seed).uniform(0, 0.03), _die).start()

    os.replace, torch.save = moves, saves
    long_run(out, save_every=0, watch=watches)
