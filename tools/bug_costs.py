"""Measure what each bug of the bug hunt costs: train the healthy model and the eight faulty ones.

    python tools/bug_costs.py --seeds 0 1     nine models, two seeds: five passes over 10,000 images
    python tools/bug_costs.py --model mixer_pico_cifar10 --epochs 1 --images 50000 --batch-size 256

One short recipe for all, on CIFAR-10; accuracy on the whole test set, of the last weights and
nothing chosen by it. Goes on where it was interrupted: runs that are in data/bug_costs.csv are not
repeated, and a run that was cut off continues from its last epoch in runs/bug_costs/.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import torch

from mixer_lite import bugs, datasets
from mixer_lite._support.tables import Table
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD
from mixer_lite.model import MlpMixer
from mixer_lite.specs import create_model
from mixer_lite.training.loop import Recipe, train
from mixer_lite.training.measures import accuracy, normalize

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = (
    "bug", "seed", "epochs", "accuracy", "images", "batch_size", "model", "seconds", "bfloat16",
    "command",
)  # fmt: skip


def build(bug: int, name: str, **sizes: int) -> MlpMixer:
    """The healthy model (bug 0) or a faulty one, with random weights from the global state."""
    healthy = create_model(name, **sizes)
    if not bug:
        return healthy
    seed = int(torch.randint(2**31, ()))
    return bugs.suspect(bug, healthy, seed=seed).train()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bugs", type=int, nargs="+", default=list(range(len(bugs.BUGS) + 1)))
    parser.add_argument("--model", default="mixer_femto_cifar10")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_000, help="to train on, of 50,000")
    parser.add_argument("--float32", action="store_true", help="on CPUs that are slow in bfloat16")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bug_costs")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "bug_costs.csv")
    options = parser.parse_args()

    recipe = Recipe(
        epochs=options.epochs, batch_size=options.batch_size, warmup_epochs=0.2, decay_share=0.8,
        auto_augment=0.0, cutmix=0.0, snapshots=1,
    )  # fmt: skip
    cifar = datasets.cifar10()
    images, labels = cifar.train_images[: options.images], cifar.train_labels[: options.images]
    test = normalize(cifar.test_images, CIFAR10_MEAN, CIFAR10_STD)
    table = Table(options.out, COLUMNS, key=("bug", "seed", "epochs"))
    for seed in options.seeds:
        for bug in options.bugs:
            if table.has(bug=bug, seed=seed, epochs=options.epochs):
                continue
            started = time.monotonic()
            model = train(
                options.model,
                options.runs / f"bug{bug}_seed{seed}_epochs{options.epochs}",
                recipe=recipe,
                images=images,
                labels=labels,
                seed=seed,
                bfloat16=not options.float32,
                build=functools.partial(build, bug),
            ).eval()
            row: dict[str, object] = dict(
                bug=bug,
                seed=seed,
                epochs=options.epochs,
                accuracy=f"{accuracy(model, test, cifar.test_labels):.4f}",
                images=len(images),
                batch_size=options.batch_size,
                model=options.model,
                seconds=round(time.monotonic() - started),
                bfloat16=not options.float32,
                command=f"python tools/bug_costs.py --seeds {seed} --bugs {bug} --model"
                f" {options.model} --epochs {options.epochs} --images {len(images)}"
                f" --batch-size {options.batch_size}",
            )
            table.put([row], order=lambda r: tuple(int(r[k]) for k in ("epochs", "seed", "bug")))
            print(f"bug {bug}, seed {seed}: {row['accuracy']} in {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
