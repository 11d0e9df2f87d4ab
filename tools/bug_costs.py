"""Measure what each bug of the bug hunt costs: train the healthy model and the eight faulty ones.

    python tools/bug_costs.py                  three seeds: 27 runs of some 95 processor seconds
    python tools/bug_costs.py --seeds 0        one seed

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
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD
from mixer_lite.measures import accuracy, normalize
from mixer_lite.model import MlpMixer
from mixer_lite.runs import read_table, write_table
from mixer_lite.specs import create_model
from mixer_lite.train import Recipe, train

ROOT = Path(__file__).resolve().parents[1]
MODEL = "mixer_pico_cifar10"
COLUMNS = ("bug", "seed", "accuracy", "epochs", "seconds", "bfloat16", "command")


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
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=50_000, help="fewer, to try the command")
    parser.add_argument("--float32", action="store_true", help="on CPUs that are slow in bfloat16")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bug_costs")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "bug_costs.csv")
    options = parser.parse_args()

    recipe = Recipe(
        epochs=options.epochs, warmup_epochs=0.2, decay_share=0.8, auto_augment=0.0, cutmix=0.0,
        snapshots=1,
    )  # fmt: skip
    cifar = datasets.cifar10()
    images, labels = cifar.train_images[: options.images], cifar.train_labels[: options.images]
    test = normalize(cifar.test_images, CIFAR10_MEAN, CIFAR10_STD)
    rows = read_table(options.out)
    done = {(int(row["bug"]), int(row["seed"])) for row in rows}
    for seed in options.seeds:
        for bug in options.bugs:
            if (bug, seed) in done:
                continue
            started = time.monotonic()
            model = train(
                MODEL,
                options.runs / f"bug{bug}_seed{seed}",
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
                accuracy=f"{accuracy(model, test, cifar.test_labels):.4f}",
                epochs=options.epochs,
                seconds=round(time.monotonic() - started),
                bfloat16=not options.float32,
                command=f"python tools/bug_costs.py --seeds {seed} --bugs {bug}",
            )
            rows.append({key: str(value) for key, value in row.items()})
            rows.sort(key=lambda r: (int(r["seed"]), int(r["bug"])))
            write_table(options.out, rows, COLUMNS)
            print(f"bug {bug}, seed {seed}: {row['accuracy']} in {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
