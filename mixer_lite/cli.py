"""The ``mixer-lite`` command: open the course, predict and evaluate, train, tell of models."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mixer_lite.resources import notebooks_path

if TYPE_CHECKING:
    from mixer_lite.model import MlpMixer
    from mixer_lite.specs import ModelConfig


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

    evaluate = commands.add_parser(
        "evaluate",
        help="measure top-1 and top-5 on a folder of images",
        description="Measure top-1 and top-5 with the model's own preprocessing. A run that was "
        "stopped goes on where it was. In several processes: torchrun --nproc-per-node 2 "
        "-m mixer_lite.cli evaluate MODEL FOLDER.",
    )
    evaluate.add_argument("model", help="a name that 'models' lists, or a weights file")
    evaluate.add_argument(
        "folder",
        help="a folder with one folder of images for each class, named by WordNet id, class name "
        "or class number; or hf:NAME for a data set of the Hugging Face hub",
    )
    evaluate.add_argument(
        "--split", default="validation", help="part of an hf: data set (default: validation)"
    )
    evaluate.add_argument(
        "--out",
        type=Path,
        default=Path("runs/evaluate"),
        help="folder of predictions and of table.csv (default: runs/evaluate)",
    )
    evaluate.add_argument("--batch-size", type=int, default=32, help="images at once (default: 32)")
    evaluate.add_argument(
        "--workers", type=int, default=2, help="processes that open images (default: 2)"
    )
    evaluate.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    evaluate.add_argument(
        "--int8",
        action="store_true",
        help="multiply in 8 bits on the CPU: quicker, and about as accurate",
    )

    train = commands.add_parser(
        "train",
        help="train a small model on CIFAR-10 or your own images, or go on with it",
        description="Train a model, or go on where the same command was stopped, at whatever "
        "moment. In several processes: torchrun --nproc-per-node 2 -m mixer_lite.cli train ..., "
        "or accelerate launch -m mixer_lite.cli train ...",
    )
    train.add_argument("name", nargs="?", default="mixer_nano_cifar10")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    train.add_argument(
        "--data",
        help="a folder with train/ and, if you like, test/, which hold a folder of images for "
        "each class; or hf:NAME for a data set of the Hugging Face hub (default: CIFAR-10)",
    )
    train.add_argument(
        "--start-from",  # torchrun takes "--start" for its own "--start-method"
        metavar="WEIGHTS",
        help="weights to start from instead of random ones: the name of trained ones that "
        "'models' lists, a file of weights, or the folder of a run",
    )
    train.add_argument("--epochs", type=int, help="passes over the images (default: the recipe's)")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="CHOICE=VALUE",
        help="another choice of the recipe, for example clip=1.0; mixer_lite/recipe.py has all",
    )
    train.add_argument("--holdout", type=int, default=0, help="training images kept out to choose")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    train.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        help="half the bits, for processors that are quick with them (default: on GPUs)",
    )
    train.add_argument(
        "--compile",
        action="store_true",
        help="let torch.compile rewrite the model: a minute first, "
        "and it depends on the machine whether it pays",
    )
    train.add_argument(
        "--save-every", type=float, default=60, help="seconds between checkpoints (default: 60)"
    )

    commands.add_parser("models", help="list models and trained weights")
    info = commands.add_parser("info", help="tell what is known of a model; downloads nothing")
    info.add_argument("model", help="a name that 'models' lists, or a weights file")

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
        if args.command == "evaluate":
            return _evaluate(args)
        if args.command == "train":
            return _train(args)
        if args.command == "info":
            return _info(args.model)
        return _models()
    except (ValueError, OSError, RuntimeError) as error:
        print(f"mixer-lite: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if args.command == "evaluate":
            print("mixer-lite: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def _lab(folder: Path | None, rest: list[str]) -> int:
    course = notebooks_path()
    if folder is None and course.name == "_notebooks":
        folder = Path("mixer-lite-course")  # an installed package is no place to work in
    if folder is not None:
        if not folder.exists():
            # Not the assignments, whose sources hold their answers: teachers have the checkout.
            shutil.copytree(course, folder, ignore=shutil.ignore_patterns("assignments"))
        course = folder
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={course.resolve()}", *rest]
    return subprocess.run(command, check=False).returncode


def _trained(name: str) -> MlpMixer:
    import mixer_lite as ml

    path = Path(name) / "weights.safetensors" if Path(name).is_dir() else Path(name)
    if path.is_file():
        return ml.load_checkpoint(path)
    if path.suffix in (".safetensors", ".pt", ".pth", ".npz", ".bin"):
        raise FileNotFoundError(
            f"There is no file {path}: give one of weights, or a name that 'mixer-lite models' "
            f"lists under trained weights."
        )
    return ml.load_pretrained(name)


def _predict(images: list[Path], name: str, top_k: int) -> int:
    import mixer_lite as ml

    model = _trained(name)
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


def _evaluate(args: argparse.Namespace) -> int:
    import mixer_lite as ml
    from mixer_lite.about import NOT_PUBLISHED, about
    from mixer_lite.evaluate import add_to_table, evaluate
    from mixer_lite.fast import quantize

    published: tuple[float | None, float | None, str] = (None, None, "")
    if Path(args.model).is_file():
        model, name = ml.load_checkpoint(args.model), Path(args.model).stem
        words = NOT_PUBLISHED
    else:
        known, name = about(args.model), args.model
        if not known.trained:
            raise ValueError(
                f"{name} is a shape without trained weights: give the name of trained ones "
                f"(mixer-lite models lists them) or a file."
            )
        model = ml.load_pretrained(name)
        published, words = (known.top1, known.top5, known.measured_by), known.published
    if args.int8:
        if args.device not in (None, "cpu"):
            raise ValueError("--int8 is for the CPU: leave out --device, or --int8.")
        model, name, args.device = quantize(model), f"{name}_int8", "cpu"
    file = re.sub(r"[^\w.-]+", "_", f"{name}_{Path(args.folder).resolve().name}")
    predictions = args.out / f"{file}.csv"
    result = evaluate(
        model,
        args.folder,
        split=args.split,
        predictions=predictions,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
    )
    if int(os.environ.get("RANK", 0)):
        return 0  # the first of several processes speaks for all
    add_to_table(args.out / "table.csv", result, published)
    print(
        f"measured:  top-1 {result.top1:.2%}, top-5 {result.top5:.2%} of {result.count:,} images "
        f"in {result.data}"
    )
    print(f"published: {words}")
    if result.failed:
        print(f"not counted, for they cannot be opened: {len(result.failed)}", file=sys.stderr)
    for path, reason in result.failed.items():
        print(f"  {path}: {reason}", file=sys.stderr)
    print(f"Every prediction is in {predictions}, this result in {args.out / 'table.csv'}.")
    return 0 if result.count else 1


def _info(name: str) -> int:
    from mixer_lite.about import about, as_table

    table = as_table(about(name))
    print(name)
    for heading, text in table:
        print(f"  {heading:12}{text}")
    return 0


def _train(args: argparse.Namespace) -> int:
    import torch
    from tqdm.auto import tqdm

    from mixer_lite.datasets import cifar10
    from mixer_lite.measures import accuracy, normalize
    from mixer_lite.recipe import RECIPES, Recipe, with_choices
    from mixer_lite.specs import create_model, spec
    from mixer_lite.train import check_start, train

    spec(args.name)  # raises before anything is fetched
    recipe = with_choices(RECIPES.get(args.name, Recipe()), args.set)
    if args.epochs is not None:
        recipe = replace(recipe, epochs=args.epochs)
    start = None if args.start_from is None else _trained(args.start_from)
    if start is not None:
        with torch.device("meta"):
            check_start(create_model(args.name), start)
    out = args.out or Path("runs") / args.name
    first = not int(os.environ.get("RANK", 0))
    about: dict[str, Any] = {}
    test: tuple[torch.Tensor, torch.Tensor] | None = None
    if args.data is None:
        data = cifar10()
        images, labels = data.train_images, data.train_labels
        test = (data.test_images, data.test_labels)
    else:
        known = None if start is None else start.config
        images, labels, about, test = _own_images(args.data, args.name, known, out, first)
    # Several processes could not agree on the step to stop after: there the signal ends them.
    alone = "WORLD_SIZE" not in os.environ
    with _stopped_by_hand() if alone else nullcontext(lambda: False) as stopped:
        model = train(
            args.name,
            out,
            recipe=recipe,
            start=start,
            images=images,
            labels=labels,
            **about,
            holdout=args.holdout,
            seed=args.seed,
            device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            bfloat16=args.bfloat16,
            compile=args.compile,
            save_every=args.save_every,
            report=lambda row: tqdm.write(", ".join(f"{k} {v}" for k, v in row.items())),
            watch=(lambda moment: stopped()) if alone else None,
        )
    if stopped():
        print("mixer-lite: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    if first and test is not None:
        config, device = model.config, next(model.parameters()).device
        assert config is not None  # train() gave it one
        right = accuracy(
            model, test[0], test[1].to(device),
            prepare=lambda x: normalize(x.to(device), config.mean, config.std),
        )  # fmt: skip
        print(f"Accuracy on the {len(test[1]):,} test images: {right:.2%}.")
    if first:
        print(f"Weights, filter snapshots and the log are in {out}.")
    return 0


def _own_images(
    data: str, name: str, known: ModelConfig | None, out: Path, progress: bool
) -> tuple[Any, Any, dict[str, Any], Any]:
    # Training images and labels, what train() is to know of them, test images and labels or None.
    from mixer_lite.datasets import Folder, channel_statistics, hub_images, image_folder
    from mixer_lite.evaluate import HUB
    from mixer_lite.specs import create_model

    config = create_model(name).config
    assert config is not None  # named models have one
    if known:  # as the weights to start from have learned to see
        ways = ("mean", "std", "interpolation", "crop", "resize")
        config = replace(config, **{way: getattr(known, way) for way in ways})
    hub = data.startswith(HUB)

    def part(split: str) -> Folder:
        keep = out / split  # where images lie that memory does not take
        if hub:
            return hub_images(data, split, config, progress, keep)
        return image_folder(Path(data) / split, config, progress, keep)

    found, other = part("train"), None
    if hub or (Path(data) / "test").is_dir():
        try:
            other = part("test")
        except RuntimeError as error:  # a data set of the hub need not have such a split
            if progress:  # the first of several processes speaks for all
                print(f"{error} So the model will not be tested.", file=sys.stderr)
    if other is not None and other.class_names != found.class_names:
        raise ValueError(f"{data}/test holds other classes than {data}/train.")
    mean, std = (known.mean, known.std) if known else channel_statistics(found.images)
    source = data if hub else Path(data).name
    about = dict(class_names=found.class_names, mean=mean, std=std, source=source)
    return found.images, found.labels, about, other and (other.images, other.labels)


@contextmanager
def _stopped_by_hand() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed or the system asked to end; the second time ends at once."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _models() -> int:
    from mixer_lite.pretrained import list_pretrained
    from mixer_lite.specs import count_parameters, list_models, spec

    print("Models that create_model makes, with random weights:")
    for name in list_models():
        print(f"  {name:24}{count_parameters(**spec(name))['total'] / 1e6:8.2f} M parameters")
    print("Trained weights that load_pretrained loads (mixer-lite info NAME tells more):")
    print(list_pretrained())
    return 0


if __name__ == "__main__":
    sys.exit(main())
