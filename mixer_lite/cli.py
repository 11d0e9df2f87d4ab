"""The ``mixer-lite`` command: open the course, predict and evaluate, train, tell of models."""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mixer_lite._support.files import book_page, notebooks_path
from mixer_lite._support.machine import is_of_memory
from mixer_lite._support.words import foreign, say

# JupyterLab without a search for language servers, and without the assignments, whose sources hold
# their answers: teachers open that folder itself.
QUIET = (
    "--LanguageServerManager.autodetect=False",
    *(f"--ContentsManager.hide_globs={name}" for name in ("__pycache__", "*.pyc", "assignments")),
)
SETTINGS = Path(__file__).parent / "_support" / "jupyter"

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mixer_lite.model import MlpMixer
    from mixer_lite.training.own import OwnImages


_MODEL = "a name that 'models' lists, a weights file, or the folder of a run"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mixer-lite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    lab = commands.add_parser("lab", help="open the course in JupyterLab")
    lab.add_argument(
        "folder", nargs="?", type=Path, help="work on a copy of the course in this folder"
    )
    commands.add_parser("book", help="open the course to read and play with in a browser")
    predict = commands.add_parser("predict", help="name what is in images")
    predict.add_argument("image", nargs="+", type=Path, help="image files, or folders of them")
    predict.add_argument("--model", default="mixer_nano_cifar10", help=_MODEL)
    predict.add_argument("--top-k", type=int, default=3, help="classes an image (default: 3)")
    _evaluate_options(commands)
    _train_options(commands)

    teacher = commands.add_parser(
        "teacher",
        help="train a convolutional network on CIFAR-10 that can teach a Mixer (train --teacher)",
        description="Train the teacher, or go on after the last pass that the folder holds.",
    )
    teacher.add_argument("--out", type=Path, default=Path("runs/teacher"), help="folder of the run")
    teacher.add_argument("--epochs", type=int, default=8, help="passes over the images")
    teacher.add_argument("--holdout", type=int, default=0, help="training images kept out")
    teacher.add_argument("--seed", type=int, default=0)
    teacher.add_argument("--bfloat16", action="store_true", help="as for train")

    commands.add_parser("models", help="list models and trained weights")
    info = commands.add_parser("info", help="tell what is known of a model; downloads nothing")
    info.add_argument("model", help=_MODEL)
    return parser


def _evaluate_options(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure top-1 and top-5 on a folder of images",
        description="Measure top-1 and top-5 with the model's own preprocessing. A run that was "
        "stopped goes on where it was. In several processes: torchrun --nproc-per-node 2 "
        "-m mixer_lite.cli evaluate MODEL FOLDER.",
    )
    evaluate.add_argument("model", help=_MODEL)
    evaluate.add_argument(
        "folder",
        help="a folder with one folder of images for each class, named by WordNet id, class name "
        "or class number; or hf:NAME for a data set of the Hugging Face hub",
    )
    evaluate.add_argument("--split", help="part of an hf: data set (default: validation)")
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


def _train_options(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a small model on CIFAR-10 or your own images, or go on with it",
        description="Train a model, or go on where the same command was stopped. "
        "In several processes: torchrun --nproc-per-node 2 -m mixer_lite.cli train ..., "
        "or accelerate launch -m mixer_lite.cli train ...",
    )
    train.add_argument("name", nargs="?", default="mixer_nano_cifar10")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    train.add_argument(
        "--data",
        help="a folder with train/ and, if you like, test/, which hold a folder of images for "
        "each class; hf:NAME for a data set of the Hugging Face hub; or CIFAR-10's own archive, "
        "fetched by hand (default: CIFAR-10)",
    )
    train.add_argument(
        "--start-from",  # torchrun takes "--start" for its own "--start-method"
        metavar="WEIGHTS",
        help="weights to start from instead of random ones: the name of trained ones that "
        "'models' lists, a file of weights, or the folder of a run",
    )
    train.add_argument(
        "--teacher",
        metavar="WEIGHTS",
        help="a trained network to learn from in place of labels: the file that 'mixer-lite "
        "teacher' wrote, or a Mixer as for --start-from",
    )
    train.add_argument("--epochs", type=int, help="passes over the images (default: the recipe's)")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="CHOICE=VALUE",
        help="another choice of the recipe, for example clip=1.0; training/recipe.py has all",
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


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = _parser()
    # Everything after the folder is passed to JupyterLab unchanged.
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "lab":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be any bytes
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda warning, *_: say(f"mixer-lite: {warning}")
            status = _run(args, sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # what reads the output, such as head, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (ValueError, OSError, RuntimeError, MemoryError, OverflowError) as error:
        said = foreign(error, 3000)
        if is_of_memory(error) and not (said and isinstance(error, MemoryError)):
            said = (
                "this takes more memory than there is: a smaller model or fewer images take less."
            )
        print(f"mixer-lite: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if args.command == "evaluate":
            print("mixer-lite: stopped; the same command goes on from here.", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace, argv: list[str]) -> int:
    if args.command == "lab":
        # Only the first argument is the folder: in "--port 9000" the number is JupyterLab's.
        given = argv[1:]
        named = bool(given) and not given[0].startswith("-")
        return _lab(Path(given[0]) if named else None, given[named:])
    if args.command == "book":
        return _book()
    if args.command == "predict":
        return _predict(args.image, args.model, args.top_k)
    if args.command == "info":
        return _info(args.model)
    commands = {"evaluate": _evaluate, "train": _train, "teacher": _train_teacher}
    return commands[args.command](args) if args.command in commands else _models()


def _lab(folder: Path | None, rest: list[str]) -> int:
    course = notebooks_path()
    if folder is None and course.parent.name == "_book":
        folder = Path("mixer-lite-course")  # an installed package is no place to work in
    if folder is not None:
        if not folder.exists():
            # Not the assignments, whose sources hold their answers: teachers have the checkout.
            shutil.copytree(course, folder, ignore=shutil.ignore_patterns("assignments"))
        course = folder
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={course.resolve()}", *QUIET]
    if first := min((path.name for path in course.glob("*.ipynb")), default=None):
        command.append(f"--LabApp.default_url=/lab/tree/{first}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container often has no other user
        if not any(option.startswith(("--ip", "--ServerApp.ip")) for option in rest):
            command.append("--ServerApp.ip=127.0.0.1")
            print(
                "mixer-lite: this is root, as in a container, so JupyterLab answers on 127.0.0.1 "
                "alone, to those who have the token in the address it prints.",
                flush=True,
            )
    # Defaults: no question about news, no check for updates. A reader's own settings win.
    paths = [os.environ.get("JUPYTER_CONFIG_PATH", ""), str(SETTINGS)]
    environment = {**os.environ, "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([*command, *rest], env=environment, check=False).returncode


def _book() -> int:
    import webbrowser

    address = book_page().as_uri()
    print(address, flush=True)  # in case no browser opens by itself
    webbrowser.open(address)
    return 0


def _trained(name: str) -> MlpMixer:
    import mixer_lite as ml
    from mixer_lite.weights.about import weights_file

    path = weights_file(name)
    if path is not None:
        return ml.load_checkpoint(path)
    if Path(name).suffix in (".safetensors", ".pt", ".pth", ".npz", ".bin"):
        raise FileNotFoundError(
            f"There is no file {name}: give one of weights, or a name that 'mixer-lite models' "
            f"lists under trained weights."
        )
    return ml.load_pretrained(name)


def _predict(given: list[Path], name: str, top_k: int) -> int:
    import mixer_lite as ml

    images, status = _images(given)
    model = _trained(name)
    for path in images:
        try:
            predictions = cast("list[ml.Prediction]", ml.predict(model, path, top_k=top_k))
        except (ValueError, OSError, MemoryError) as error:  # one bad file does not stop the others
            print(f"{foreign(path, 300)}: {foreign(error, 3000)}", file=sys.stderr)
            status = 1
            continue
        named = ", ".join(f"{foreign(p.label)} {p.probability:.1%}" for p in predictions)
        print(f"{foreign(path, 300)}: {named}")
    return status


def _images(given: list[Path]) -> tuple[list[Path], int]:
    # Files as they were given, and all images in folders; 1 where a folder holds none.
    from mixer_lite.datasets.files import image_files, told

    images: list[Path] = []
    status = 0
    for path in given:
        if not path.is_dir():
            images.append(path)
            continue
        skipped: Counter[str] = Counter()
        found = image_files(path, skipped)
        say(f"{len(found):,} images in {path}{told(skipped)}.")
        images += found
        status = status or int(not found)
    return images, status


def _evaluate(args: argparse.Namespace) -> int:
    import mixer_lite as ml
    from mixer_lite.fast import quantize
    from mixer_lite.training.evaluation import add_to_table, evaluate
    from mixer_lite.weights.about import NOT_PUBLISHED, about, weights_file

    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"{foreign(args.out, 300)} is a file: give a folder for the predictions.")
    published: tuple[float | None, float | None, str] = (None, None, "")
    path = weights_file(args.model)
    if path is not None:
        model, words = ml.load_checkpoint(path), NOT_PUBLISHED
        name = Path(args.model).resolve().name if Path(args.model).is_dir() else path.stem
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
        print(f"not counted, because they cannot be opened: {len(result.failed)}", file=sys.stderr)
    for image, reason in result.failed.items():
        print(f"  {image}: {reason}", file=sys.stderr)
    print(f"Every prediction is in {predictions}, this result in {args.out / 'table.csv'}.")
    return 0 if result.count else 1


def _info(name: str) -> int:
    from mixer_lite.weights.about import about, as_table

    table = as_table(about(name))
    print(name)
    for heading, text in table:
        print(f"  {heading:12}{text}")
    return 0


def _train(args: argparse.Namespace) -> int:
    import torch
    from tqdm.auto import tqdm

    from mixer_lite.specs import create_model, spec
    from mixer_lite.training.loop import train
    from mixer_lite.training.prepare import check_start
    from mixer_lite.training.processes import usable_device
    from mixer_lite.training.recipe import RECIPES, Recipe, with_choices

    spec(args.name)  # raises before anything is fetched
    recipe = with_choices(RECIPES.get(args.name, Recipe()), args.set)
    if args.epochs is not None:
        recipe = replace(recipe, epochs=args.epochs)
    start = None if args.start_from is None else _trained(args.start_from)
    if start is not None:
        with torch.device("meta"):
            check_start(create_model(args.name), start)
    teacher = None if args.teacher is None else _teacher(args.teacher)
    out = args.out or Path("runs") / args.name
    first = not int(os.environ.get("RANK", 0))
    own = _data(args, start, out, first)
    # Several processes could not agree on where to stop: there the signal ends them at once.
    alone = "WORLD_SIZE" not in os.environ
    with _stopped_by_hand() if alone else nullcontext(lambda: False) as stopped:
        model = train(
            args.name,
            out,
            recipe=recipe,
            start=start,
            teacher=teacher,
            **own.training,
            holdout=args.holdout,
            seed=args.seed,
            device=str(
                usable_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            ),
            bfloat16=args.bfloat16,
            compile=args.compile,
            save_every=args.save_every,
            report=lambda row: tqdm.write(", ".join(f"{k} {v}" for k, v in row.items())),
            watch=(lambda moment: stopped()) if alone else None,
        )
    if stopped():
        print("mixer-lite: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    if first and own.test is not None:
        _tell_accuracy(model, *own.test)
    if first:
        print(f"Weights, filter snapshots and the log are in {out}.")
    return 0


def _data(args: argparse.Namespace, start: MlpMixer | None, out: Path, first: bool) -> OwnImages:
    from mixer_lite.datasets import cifar10
    from mixer_lite.training.own import OwnImages, own_images

    if args.data is None or Path(args.data).is_file():
        cifar = cifar10(file=args.data)
        return OwnImages(
            dict(images=cifar.train_images, labels=cifar.train_labels),
            (cifar.test_images, cifar.test_labels),
        )
    like = None if start is None else start.config
    return own_images(args.data, args.name, like=like, keep=out, progress=first)


def _tell_accuracy(model: Any, images: Tensor, labels: Tensor) -> None:
    from mixer_lite.training.measures import accuracy, normalize

    config, device = model.config, next(model.parameters()).device
    right = accuracy(
        model, images, labels.to(device),
        prepare=lambda x: normalize(x.to(device), config.mean, config.std),
    )  # fmt: skip
    print(f"Accuracy on the {len(labels):,} test images: {right:.2%}.")


def _teacher(name: str) -> nn.Module:
    from mixer_lite.training.teacher import is_teacher, load_teacher

    return load_teacher(name) if Path(name).is_file() and is_teacher(name) else _trained(name)


def _train_teacher(args: argparse.Namespace) -> int:
    from mixer_lite.datasets import cifar10
    from mixer_lite.training.teacher import FILE, train_teacher

    data = cifar10()
    model = train_teacher(
        args.out,
        images=data.train_images,
        labels=data.train_labels,
        epochs=args.epochs,
        holdout=args.holdout,
        seed=args.seed,
        bfloat16=args.bfloat16,
        report=lambda row: print(", ".join(f"{k} {v}" for k, v in row.items()), flush=True),
    )
    _tell_accuracy(model, data.test_images, data.test_labels)
    print(f"The teacher is in {args.out / FILE}.")
    return 0


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
    from mixer_lite.specs import count_parameters, list_models, spec
    from mixer_lite.weights.pretrained import list_pretrained

    print("Models that create_model makes, with random weights:")
    for name in list_models():
        print(f"  {name:24}{count_parameters(**spec(name))['total'] / 1e6:8.2f} M parameters")
    print("Trained weights that load_pretrained loads (mixer-lite info NAME tells more):")
    print(list_pretrained())
    return 0


if __name__ == "__main__":
    sys.exit(main())
