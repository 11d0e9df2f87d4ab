"""How long training takes to 80 % and 85 %: python tests/benchmarks/time_to_accuracy.py --epochs 12

One run of one model with the course's recipe, or, with ``--recipe common``, with what is usual for
small Mixers on CIFAR-10: AdamW at 1e-3 with decay 0.05, batches of 128, five epochs of warm-up
and a cosine, AutoAugment on every image, CutMix on half of the batches. A schedule belongs to its
length: a run that is to be short must be told so by ``--epochs``. After each epoch a line with the
minutes of training so far and the accuracy on 5,000 training images held out; at the end the
accuracy on the whole test set. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mixer_lite._support.tables import read_table
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD, cifar10
from mixer_lite.training.loop import train
from mixer_lite.training.measures import accuracy, normalize
from mixer_lite.training.recipe import LESSON, Recipe, adamw_throughout, with_choices

RECIPES = {
    "lesson": LESSON,
    "long": Recipe(),
    "common": Recipe(
        batch_size=128, warmup_epochs=5.0, decay_share=1.0, decay_shape="cosine",
        token_std=None, adam_beta2=0.99, auto_augment=1.0, cutmix=0.5, label_smoothing=0.1,
        **adamw_throughout(lr=1e-3, decay=0.05),
    ),
}  # fmt: skip


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="mixer_nano_cifar10")
    parser.add_argument("--recipe", choices=RECIPES, default="lesson")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction)
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    args = parser.parse_args()
    recipe = with_choices(replace(RECIPES[args.recipe], epochs=args.epochs), args.set)
    data = cifar10()

    def report(row: dict) -> None:
        # Of the whole run, whatever interrupted it.
        seconds = sum(float(row["seconds"]) for row in read_table(args.out / "log.csv"))
        print(
            f"epoch {row['epoch']:3d}  {seconds / 60:6.1f} min  held out "
            f"{row['held_out_accuracy']:.2%}",
            flush=True,
        )

    model = train(
        args.model, args.out, recipe=recipe, images=data.train_images, labels=data.train_labels,
        holdout=5000, seed=args.seed, bfloat16=args.bfloat16, stop_after=args.stop_after,
        progress=False, report=report,
    )  # fmt: skip
    test = normalize(data.test_images, CIFAR10_MEAN, CIFAR10_STD)
    print(f"all test images: {accuracy(model, test, data.test_labels):.2%}")


if __name__ == "__main__":
    main()
