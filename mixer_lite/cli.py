"""The ``mixer-lite`` command: open the course, predict images, train, list models."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

from mixer_lite.resources import notebooks_path


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mixer-lite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    lab = commands.add_parser("lab", help="open the course in JupyterLab")
    lab.add_argument(
        "folder", nargs="?", type=Path, help="work on a copy of the course in this folder"
    )
    predict = commands.add_parser("predict", help="name what is in images")
    predict.add_argument("image", nargs="+", type=Path)
    predict.add_argument(
        "--model",
        default="mixer_nano_cifar10",
        help="a name that 'models' lists, or a weights file",
    )
    predict.add_argument("--top-k", type=int, default=3, help="classes an image (default: 3)")

    train = commands.add_parser("train", help="train a small model on CIFAR-10, or go on with it")
    train.add_argument("name", nargs="?", default="mixer_nano_cifar10")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    train.add_argument("--epochs", type=int, help="passes over the images (default: the recipe's)")
    train.add_argument("--holdout", type=int, default=0, help="training images kept out to choose")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")

    train.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        help="half the bits, for processors that are quick with them (default: on GPUs)",
    )

    commands.add_parser("models", help="list models and trained weights")

    # Everything after the folder goes to JupyterLab as it stands.
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "lab":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if args.command == "lab":
            # Only what stands first is the folder: in "--port 9000" the number is JupyterLab's.
            given = (sys.argv[1:] if argv is None else argv)[1:]
            named = bool(given) and not given[0].startswith("-")
            return _lab(Path(given[0]) if named else None, given[named:])
        if args.command == "predict":
            return _predict(args.image, args.model, args.top_k)
        if args.command == "train":
            return _train(args)
        return _models()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"mixer-lite: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _lab(folder: Path | None, rest: list[str]) -> int:
    course = notebooks_path()
    if folder is None and course.name == "_notebooks":
        folder = Path("mixer-lite-course")  # an installed package is no place to work in
    if folder is not None:
        if not folder.exists():
            shutil.copytree(course, folder)
        course = folder
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={course.resolve()}", *rest]
    return subprocess.run(command, check=False).returncode


def _predict(images: list[Path], name: str, top_k: int) -> int:
    import mixer_lite as ml

    model = ml.load_checkpoint(name) if Path(name).is_file() else ml.load_pretrained(name)
    status = 0
    for path in images:
        try:
            predictions = cast("list[ml.Prediction]", ml.predict(model, path, top_k=top_k))
        except (ValueError, OSError) as error:  # one bad file does not stop the others
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
            continue
        named = ", ".join(f"{p.label} {p.probability:.1%}" for p in predictions)
        print(f"{path}: {named}")
    return status


def _train(args: argparse.Namespace) -> int:
    from dataclasses import replace

    import torch

    from mixer_lite.datasets import cifar10
    from mixer_lite.train import RECIPES, Recipe, train

    recipe = RECIPES.get(args.name, Recipe())
    if args.epochs is not None:
        recipe = replace(recipe, epochs=args.epochs)
    data = cifar10()
    out = args.out or Path("runs") / args.name
    train(
        args.name,
        out,
        recipe=recipe,
        images=data.train_images,
        labels=data.train_labels,
        holdout=args.holdout,
        seed=args.seed,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        bfloat16=args.bfloat16,
        report=lambda row: print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True),
    )
    print(f"Weights, filter snapshots and the log are in {out}.")
    return 0


def _models() -> int:
    from mixer_lite.pretrained import BUNDLED, list_pretrained
    from mixer_lite.specs import count_parameters, list_models, spec

    print("Models that create_model makes, with random weights:")
    for name in list_models():
        print(f"  {name:24}{count_parameters(**spec(name))['total'] / 1e6:8.2f} M parameters")
    print("Trained weights that load_pretrained loads:")
    for name in list_pretrained():
        print(f"  {name:36}{'bundled' if name in BUNDLED else 'from timm, needs the network once'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
