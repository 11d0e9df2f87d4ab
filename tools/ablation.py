"""What each choice of a training recipe is worth: take it away, or put another in its place.

    python tools/ablation.py --base lesson --epochs 2
    python tools/ablation.py --base long --epochs 10 --images 15000

train a small model once for each variant and seed and write one row a run to data/ablation.csv:
accuracy on training images that were held out, and how the filters of the token-mixing MLPs look.
The first asks what makes a short training quick; the second, in which few images are seen often,
what keeps a long one from learning them by heart. The test images take no part. Stop it whenever
you like: the same command goes on from there.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mixer_lite._support.tables import Table, read_table
from mixer_lite.datasets import cifar10
from mixer_lite.specs import count_parameters, spec
from mixer_lite.training.loop import train
from mixer_lite.training.recipe import LESSON, Recipe, adamw_throughout
from mixer_lite.training.runs import Diverged
from mixer_lite.training.teacher import load_teacher

ROOT = Path(__file__).resolve().parents[1]
HOLDOUT = 5000
# The settings that are usual for small Mixers: AdamW on everything, a cosine, PyTorch's own start.
COMMON = adamw_throughout(lr=1e-3, decay=0.05) | dict(
    token_std=None, adam_beta2=0.999, warmup_epochs=1.0, decay_share=1.0, decay_shape="cosine"
)

# Name, what changes, the choices that change. A variant that is the base itself is left out.
VARIANTS: list[tuple[str, str, dict]] = [
    ("recipe", "nothing changed", {}),
    ("common", "AdamW, cosine and PyTorch's start throughout, as is usual", COMMON),
    ("tokens_full_rank", "Muon of full rank on token mixing",
     dict(token_rank=None, token_lr=0.02, token_decay=0.02, token_momentum=0.95)),
    ("tokens_adamw", "AdamW on token mixing",
     dict(token_optimizer="adamw", token_lr=2e-3, token_decay=0.15)),
    ("tokens_rank_4", "half the rank on token mixing", dict(token_rank=4)),
    ("tokens_rank_16", "twice the rank on token mixing", dict(token_rank=16)),
    ("channels_adamw", "AdamW on channel mixing",
     dict(channel_optimizer="adamw", channel_lr=2e-3, channel_decay=0.05)),
    ("no_small_start", "token mixing begins as PyTorch makes it", dict(token_std=None)),
    ("no_decay", "no weight decay", dict(token_decay=0.0, channel_decay=0.0, other_decay=0.0)),
    ("no_shift", "no random crops", dict(shift=0)),
    ("shift_4", "crops of up to 4 pixels", dict(shift=4)),
    ("no_auto_augment", "no AutoAugment", dict(auto_augment=0.0)),
    ("auto_augment", "AutoAugment on half of the images", dict(auto_augment=0.5)),
    ("all_auto_augment", "AutoAugment on every image", dict(auto_augment=1.0)),
    ("no_cutmix", "no CutMix", dict(cutmix=0.0)),
    ("cutmix", "CutMix on half of the batches", dict(cutmix=0.5)),
    ("mixup", "Mixup on half of the batches, no CutMix", dict(cutmix=0.0, mixup=0.5)),
    ("cutmix_and_mixup", "CutMix and Mixup on a quarter each", dict(cutmix=0.25, mixup=0.25)),
    ("erase", "random erasing of a quarter of the images", dict(erase=0.25)),
    ("no_smoothing", "no label smoothing", dict(label_smoothing=0.0)),
    ("cosine", "half a cosine from the start", dict(decay_share=1.0, decay_shape="cosine")),
    ("linear_throughout", "a linear fall from the start", dict(decay_share=1.0)),
    ("plateau", "a linear fall in the last 60 %", dict(decay_share=0.6)),
    ("no_warm_up", "no warm-up", dict(warmup_epochs=0.0)),
    ("ema", "a moving average of the weights of the last 100 steps", dict(ema=0.99)),
    ("clip", "gradients no longer than 1", dict(clip=1.0)),
    ("average", "the mean of the weights of the last 30 % of the steps", dict(average_share=0.3)),
    ("teacher", "a convolutional teacher in place of labels", {}),
    ("teacher_warm", "the same, both networks' logits divided by 4", dict(teacher_temperature=4.0)),
    ("batch_64", "batches of 64", dict(batch_size=64)),
    ("batch_128", "batches of 128", dict(batch_size=128)),
    ("batch_256", "batches of 256", dict(batch_size=256)),
    ("batch_512", "batches of 512", dict(batch_size=512)),
]  # fmt: skip
TAUGHT = ("teacher", "teacher_warm")
# The lesson's recipe as it was before this table, which gave it smaller batches and the plateau.
BASES = {"lesson": replace(LESSON, batch_size=256, decay_share=1.0), "long": Recipe()}
COLUMNS = (
    "base", "variant", "changes", "model", "parameters", "epochs", "images", "seed",
    "held_out_accuracy", "smoothness", "variety", "loss", "note",
)  # fmt: skip


def run(name: str, recipe: Recipe, seed: int, out: Path, data: dict, options: dict) -> dict:
    """Train one variant; what it reached. ``options`` go to :func:`train`."""
    try:
        train(name, out, recipe=recipe, seed=seed, **data, **options)
    except Diverged as error:  # a variant that diverges is a result too
        return dict(note=str(error).split(". ")[0])
    log = read_table(out / "log.csv")
    measured = ("held_out_accuracy", "smoothness", "variety", "loss")
    return {k: log[-1][k] for k in measured}


def main(argv: list[str] | None = None) -> None:
    """Run what is missing in the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [name for name, _, _ in VARIANTS]
    parser.add_argument("--base", choices=BASES, default="lesson")
    parser.add_argument("--model", default="mixer_femto_cifar10")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=names, choices=names, metavar="NAME",
                        help=f"of {', '.join(names)} (default: all)")  # fmt: skip
    parser.add_argument(
        "--images", type=int, default=50_000, help="training images, held out ones included"
    )
    parser.add_argument("--teacher", type=Path, help="of 'mixer-lite teacher'; else no such runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction)
    parser.add_argument("--table", type=Path, default=ROOT / "data/ablation.csv")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/ablation")
    args = parser.parse_args(argv)

    teacher = args.teacher and load_teacher(args.teacher)
    cifar = cifar10()
    data = dict(images=cifar.train_images[: args.images], labels=cifar.train_labels[: args.images])
    options = dict(
        holdout=min(HOLDOUT, args.images // 3), device=args.device, bfloat16=args.bfloat16
    )
    table = Table(args.table, COLUMNS, key=("base", "variant", "model", "epochs", "images", "seed"))
    for seed in args.seeds:
        for variant, changes, choices in VARIANTS:
            base = replace(BASES[args.base], epochs=args.epochs)
            recipe = replace(base, **choices)
            if variant not in args.variants or (choices and recipe == base):
                continue
            if variant in TAUGHT and teacher is None:
                continue
            key = dict(
                base=args.base,
                variant=variant,
                model=args.model,
                epochs=args.epochs,
                images=args.images,
                seed=seed,
            )
            if table.has(**key):
                continue
            folder = (
                args.runs / f"{args.model}_{args.base}_{variant}_{args.epochs}_{args.images}_{seed}"
            )
            given = options | dict(teacher=teacher if variant in TAUGHT else None)
            reached = run(args.model, recipe, seed, folder, data, given)
            parameters = count_parameters(**spec(args.model))["total"]
            table.put([dict(**key, changes=changes, parameters=parameters, **reached)])
            print(f"{variant}, seed {seed}: {reached}", flush=True)


if __name__ == "__main__":
    main()
