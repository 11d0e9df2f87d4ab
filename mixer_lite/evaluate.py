"""Top-1 and top-5 of a model on a folder of labelled images: the published table, measured.

In one process or several, at the first run or one that goes on, every image counts exactly once.
Several processes are what ``torchrun`` or ``accelerate launch`` starts: both tell a process in its
environment which of how many it is, and that is all it takes to share out images.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor

from mixer_lite import fast
from mixer_lite.images import open_image, prepare
from mixer_lite.labels import imagenet_info
from mixer_lite.model import MlpMixer
from mixer_lite.resources import reason, replace_file
from mixer_lite.specs import ModelConfig

T = TypeVar("T")

HUB = "hf:"  # stands before the name of a data set of the Hugging Face hub
SUFFIXES = (".jpeg", ".jpg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".ppm")
TOP = 5
COLUMNS = (
    "run", "path", "bytes", "label",
    *(f"top{i}" for i in range(1, TOP + 1)), *(f"p{i}" for i in range(1, TOP + 1)), "error",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """What a model scored on labelled images.

    Attributes:
        model: its name.
        data: the folder or data set.
        top1, top5: share of the images whose class is the model's first proposal, or one of its
            first five; ``nan`` when no image could be opened.
        count: images that were judged.
        failed: images that could not be opened, and why; they are not counted.
    """

    model: str
    data: str
    top1: float
    top5: float
    count: int
    failed: Mapping[str, str]


class Sample(NamedTuple):
    """A labelled image: path inside the folder (number in a data set), class, size in bytes."""

    path: str
    label: int
    size: int


class Row(NamedTuple):
    """What is kept of an image: its likeliest classes in their order, or why there are none."""

    sample: Sample
    classes: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""


def evaluate(
    model: MlpMixer,
    folder: str | Path,
    *,
    split: str = "validation",
    predictions: str | Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Evaluation:
    """Top-1 and top-5 accuracy of a model, with the preprocessing that it was trained for.

    Started by ``torchrun`` or ``accelerate launch``, every process takes its share of the images
    and returns the result of all of them. Pictures are taken as they are stored, as timm and
    Google's code take them; OpenMMLab's (``resize="opencv"``) are turned upright by their EXIF.

    Args:
        model: a loaded model; its ``config`` says how to prepare images and names the classes.
        folder: a folder that holds one folder of images for each class, named as
            :func:`class_indices` reads it; or ``"hf:NAME"``, a data set that the package
            ``datasets`` loads.
        split: the part of such a data set.
        predictions: a CSV file for what the model says of every image. A run that was stopped,
            at whatever moment, goes on where it was; images that could not be opened are tried
            again.
        batch_size: images that go through the model at once.
        workers: processes that open images for it; 0 for none.
        device: where the model is moved and computes; if not given, a GPU where there is one.
        progress: show a bar.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder's classes are not the model's, it holds no images, the model has
            no head or no preprocessing, or the predictions are another model's or folder's.
        RuntimeError: a package that the data set or the preprocessing needs is not installed.
    """
    from tqdm.auto import tqdm

    config = model.config
    if config is None:
        raise ValueError(
            "This model does not know how its images were prepared: set model.config to a "
            "mixer_lite.specs.ModelConfig, or load it with load_pretrained or load_checkpoint."
        )
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it names no classes.")
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batch_size must be 1 or more and workers 0 or more, not {batch_size} and {workers}."
        )
    prepare(Image.new("RGB", (8, 8)), config)  # raises here, not in a worker, what is not installed
    data, kept = str(folder), None if predictions is None else Path(predictions)
    source = HubData(data, split) if data.startswith(HUB) else _Folder(Path(folder))
    with _processes() as processes:
        # The first process alone lists images and mends files, so that all share out the same.
        run, samples, done = processes.first(lambda: _plan(model, config, source, kept))
        rest = [sample for sample in samples if sample.path not in done]
        append = None if kept is None else _Appended(_part(kept, processes.rank), run)
        loader = torch.utils.data.DataLoader(
            _Prepared(source, rest[processes.rank :: processes.count], config),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=_batch,
        )
        new = []
        with tqdm(
            total=len(samples),
            initial=len(done),
            unit="image",
            disable=not progress or processes.rank > 0,
        ) as bar:
            for rows in _predict(model, loader, _device(device)):
                if append:
                    append(rows)
                new += rows
                # The others are about as far.
                bar.update(min(len(rows) * processes.count, len(samples) - bar.n))
        for rows in processes.gather(new):
            done |= {row.sample.path: row for row in rows}
        all_rows = [done[sample.path] for sample in samples]
        if kept is not None:
            processes.first(lambda: _write(kept, run, all_rows))
    judged = [row for row in all_rows if not row.error]
    return Evaluation(
        model=config.name,
        data=data,
        top1=_share(row.sample.label == row.classes[0] for row in judged),
        top5=_share(row.sample.label in row.classes for row in judged),
        count=len(judged),
        failed={row.sample.path: row.error for row in all_rows if row.error},
    )


def _share(right: Iterable[bool]) -> float:
    answers = list(right)
    return sum(answers) / len(answers) if answers else float("nan")


# Which class an image shows ---------------------------------------------------------------------


def class_indices(
    names: Sequence[str], num_classes: int, class_names: Sequence[str] = ()
) -> list[int]:
    """Which of the model's classes each name means: ``n`` numbers below ``num_classes``.

    A name is a WordNet id (``n01440764``) of an ImageNet head (1000, 21843 or 11221 classes, in
    timm's order), else a class name (whole, or up to its first comma; capital or small letters,
    ``_`` for a space), else a class number.

    Raises:
        ValueError: names that mean no class of this model, or several; they are listed.
    """
    meanings, wordnet = _meanings(names, num_classes, class_names)
    unknown = [name for name, meant in zip(names, meanings, strict=True) if len(meant) != 1]
    if unknown:
        shown = ", ".join(unknown[:20]) + (f" and {len(unknown) - 20} more" * (len(unknown) > 20))
        ways = "WordNet id, name" if wordnet else "name"
        raise ValueError(
            f"{len(unknown)} of the {len(names)} classes here mean none of this model's, or more "
            f"than one: {shown}; call each by its {ways} or number (0 to {num_classes - 1})."
        )
    return [index for (index,) in meanings]


def _meanings(
    names: Sequence[str], num_classes: int, class_names: Sequence[str]
) -> tuple[list[list[int]], bool]:
    """All classes that each name may mean, and whether WordNet ids are understood."""
    info = imagenet_info(num_classes)
    described = list(info.label_descriptions()) if info else []
    # Another model with 1000 classes has nothing to do with ImageNet.
    wordnet = info.label_names() if info and list(class_names) in ([], described) else []
    labels = list(class_names) or described
    tables = [
        _numbers(wordnet),
        _numbers(map(_plain, labels)),
        _numbers(_plain(label.split(",")[0]) for label in labels),
    ]
    meanings = []
    for plain in map(_plain, names):
        meant = next((table[plain] for table in tables if plain in table), [])
        if not meant and plain.isdecimal() and int(plain) < num_classes:
            meant = [int(plain)]
        meanings.append(meant)
    return meanings, bool(wordnet)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _numbers(names: Iterable[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        table.setdefault(name, []).append(number)
    return table


# Where images come from -------------------------------------------------------------------------


class _Folder:
    """A folder of folders, one a class."""

    identity = ""  # its paths, classes and sizes stand in every row

    def __init__(self, folder: Path):
        self.folder = folder.expanduser()

    def samples(self, model: MlpMixer) -> list[Sample]:
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"There is no folder {self.folder}: give one that holds a folder of images for "
                f"each class, or {HUB}NAME for a data set of the Hugging Face hub."
            )
        files = {
            child.name: _images_in(child)
            for child in sorted(self.folder.iterdir())
            if child.is_dir() and not child.name.startswith(".")
        }
        files = {name: paths for name, paths in files.items() if paths}
        if not files:
            raise ValueError(
                f"{self.folder} holds no folders of images: put each class's images into a "
                f"folder with its WordNet id, name or number."
            )
        labels = class_indices(list(files), model.num_classes, _class_names(model))
        return [
            Sample(path.relative_to(self.folder).as_posix(), label, _size(path))
            for label, paths in zip(labels, files.values(), strict=True)
            for path in paths
        ]

    def open(self, sample: Sample, upright: bool) -> Image.Image:
        return open_image(self.folder / sample.path, upright=upright)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0  # a link to nothing fails when opened


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        Path(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )


class HubData:
    """A data set of the Hugging Face hub, or one on this disk, by the package ``datasets``.

    Attributes:
        names: of its classes.
        labels: the class of each of its images, by its place in ``names``.

    Raises:
        RuntimeError: the package is missing, or the split cannot be loaded.
        ValueError: there are no images, or no labels.
    """

    def __init__(self, name: str, split: str):
        try:
            datasets: Any = importlib.import_module("datasets")  # no dependency of the project
        except ImportError:
            raise RuntimeError(
                f"{name} needs the package datasets: pip install datasets, or give a folder."
            ) from None
        try:
            data = datasets.load_dataset(name.removeprefix(HUB), split=split)
        except Exception as error:  # it raises many kinds, in many lines
            raise RuntimeError(
                f"The split {split} of {name} could not be loaded: {reason(error, 200)}"
            ) from error
        # The first of each kind: CIFAR-100 has coarse labels behind its fine ones.
        columns = reversed(list(data.features.items()))
        kinds = {type(feature).__name__: key for key, feature in columns}
        if not {"Image", "ClassLabel"} <= kinds.keys():
            raise ValueError(
                f"{name} has no column of images or none of class labels, but "
                f"{', '.join(f'{key} ({kind})' for kind, key in kinds.items())}."
            )
        self.identity = f"{name} {split}"
        self.column = kinds["Image"]
        # As bytes: open_image decodes them as it decodes a folder's.
        self.data = data.cast_column(self.column, datasets.Image(decode=False))
        self.names: list[str] = self.data.features[kinds["ClassLabel"]].names
        self.labels: list[int] = list(self.data[kinds["ClassLabel"]])
        if not self.labels or min(self.labels) < 0:
            raise ValueError(f"{self.identity} is empty or without labels: choose another split.")

    def samples(self, model: MlpMixer) -> list[Sample]:
        """All of them, with the classes that the model has for theirs."""
        names = self.names
        meanings, _ = _meanings(names, model.num_classes, _class_names(model))
        told = [(i, meant[0]) for i, meant in enumerate(meanings) if len(meant) == 1]
        if len(names) == model.num_classes and told and all(i == index for i, index in told):
            # Each that can be told is in its place, so the rest are: two classes are "crane".
            numbers = list(range(len(names)))
        else:
            numbers = class_indices(names, model.num_classes, _class_names(model))
        return [Sample(str(i), numbers[label], 0) for i, label in enumerate(self.labels)]

    def open(self, sample: Sample, upright: bool) -> Image.Image:
        """The image of a sample."""
        return self.image(int(sample.path), upright)

    def image(self, number: int, upright: bool = False) -> Image.Image:
        """One of its images."""
        stored = self.data[number][self.column]
        file = io.BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]
        return open_image(file, upright=upright)


def _class_names(model: MlpMixer) -> Sequence[str]:
    return model.config.class_names if model.config else ()


class _Prepared(torch.utils.data.Dataset[tuple[Sample, Tensor | str]]):
    """Samples with their tensors ``(3, h, w)``, or with the reason why there is none."""

    def __init__(self, source: _Folder | HubData, samples: list[Sample], config: ModelConfig):
        self.source, self.samples, self.config = source, samples, config

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, Tensor | str]:
        sample = self.samples[index]
        try:
            image = self.source.open(sample, upright=self.config.resize == "opencv")
            return sample, prepare(image, self.config)
        except (ValueError, OSError) as error:
            return sample, " ".join(str(error).split()) or type(error).__name__


def _batch(items: list[tuple[Sample, Tensor | str]]) -> tuple[list[Row], list[Sample], Tensor]:
    """Rows of what could not be opened, and the samples of the tensors ``(b, 3, h, w)``."""
    failed = [Row(sample, error=x) for sample, x in items if isinstance(x, str)]
    opened = [(sample, x) for sample, x in items if isinstance(x, Tensor)]
    tensors = torch.stack([x for _, x in opened]) if opened else torch.empty(0)
    return failed, [sample for sample, _ in opened], tensors


# What the model says ----------------------------------------------------------------------------


def _device(device: str | torch.device | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@torch.inference_mode()
def _predict(
    model: MlpMixer,
    batches: Iterable[tuple[list[Row], list[Sample], Tensor]],
    device: torch.device,
) -> Iterator[list[Row]]:
    was_training = model.training
    model.to(device).eval()
    try:
        for failed, samples, tensors in batches:
            rows = list(failed)
            if samples:
                out = fast.logits(model, tensors.to(device)).float().softmax(dim=1).cpu()
                top = out.topk(min(TOP, model.num_classes), dim=1)
                rows += [
                    Row(sample, tuple(classes), tuple(probabilities))
                    for sample, classes, probabilities in zip(
                        samples, top.indices.tolist(), top.values.tolist(), strict=True
                    )
                ]
            yield rows
    finally:
        model.train(was_training)


# What is kept of it -----------------------------------------------------------------------------


def _plan(
    model: MlpMixer, config: ModelConfig, source: _Folder | HubData, kept: Path | None
) -> tuple[str, list[Sample], dict[str, Row]]:
    """The run's mark, all samples, and the rows that an earlier run left, by path."""
    samples = source.samples(model)
    if kept is None:
        return "", samples, {}
    run = _mark(model, config, source.identity)
    kept.parent.mkdir(parents=True, exist_ok=True)
    known = {sample.path: sample for sample in samples}
    rows: dict[str, Row] = {}
    for file in [kept, *_parts(kept)]:
        for found, row in _read(file) if file.exists() else []:
            if found != run:
                raise ValueError(
                    f"{file} holds the predictions of another model, or of one that prepares its "
                    f"images otherwise: give another file (--out), or delete it to begin again."
                )
            if not row.error and known.get(row.sample.path) != row.sample:
                raise ValueError(
                    f"{file} holds the predictions of other images, of which {row.sample.path} is "
                    f"the first: give another file (--out), or delete it to begin again."
                )
            if not row.error:
                rows[row.sample.path] = row
    if _parts(kept):
        _write(kept, run, [rows[sample.path] for sample in samples if sample.path in rows])
    return run, samples, rows


def _mark(model: MlpMixer, config: ModelConfig, identity: str) -> str:
    """Twelve hexadecimal digits of everything but the image that a prediction depends on."""
    asked = {k: v for k, v in asdict(config).items() if k not in ("name", "class_names", "source")}
    facts = [asked, model.gelu, model.norm_eps, model.patch_size, identity]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _part(kept: Path, rank: int) -> Path:
    return kept.with_name(f"{kept.name}.{rank}.part")


def _parts(kept: Path) -> list[Path]:
    return sorted(
        path
        for path in kept.parent.iterdir()
        if path.name.startswith(f"{kept.name}.") and path.suffix == ".part"
    )


class _Appended:
    """Appends rows to a file of its own, a batch in one write: at worst its last line is torn."""

    def __init__(self, path: Path, run: str):
        self.path, self.run = path, run

    def __call__(self, rows: list[Row]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)  # another machine's disk may lack it
        with self.path.open("ab", buffering=0) as file:
            file.write(_encoded(self.run, rows, header=file.tell() == 0))


def _write(kept: Path, run: str, rows: list[Row]) -> None:
    """All rows under the file's own name, whole or not at all; then the parts are not needed."""
    replace_file(kept, _encoded(run, rows, header=True))
    for part in _parts(kept):
        part.unlink()


TABLE = (
    "model", "data", "images", "failed", "top1", "top5",
    "published_top1", "published_top5", "published_by",
)  # fmt: skip


def add_to_table(
    path: str | Path,
    result: Evaluation,
    published: tuple[float | None, float | None, str] = (None, None, ""),
) -> None:
    """Write a result into a CSV file, in place of an earlier one of the same model and data.

    Accuracies are in percent.

    Args:
        path: the file, made if it is not there.
        result: what was measured.
        published: top-1, top-5 and by whom; None where unknown.

    Raises:
        ValueError: the file is no such table.
    """
    path = Path(path)
    rows = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.reader(file)
            if tuple(next(table, ())) != TABLE:
                raise ValueError(f"{path} is no table of evaluations: give another folder.")
            rows = [row for row in table if row[:2] != [result.model, result.data]]
    shown = [f"{100 * x:.3f}" for x in (result.top1, result.top5)]
    theirs = ["" if x is None else f"{x:.3f}" for x in published[:2]]
    rows.append([
        result.model, result.data, str(result.count), str(len(result.failed)),
        *shown, *theirs, published[2],
    ])  # fmt: skip
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([TABLE, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode(errors="surrogateescape"))


def _encoded(run: str, rows: list[Row], *, header: bool) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    if header:
        table.writerow(COLUMNS)
    for (path, label, size), classes, probabilities, error in rows:
        gap = [""] * (TOP - len(classes))
        shown = [f"{p:.6g}" for p in probabilities]
        table.writerow([run, path, size, label, *classes, *gap, *shown, *gap, error])
    return text.getvalue().encode(errors="surrogateescape")  # file names may be any bytes


def _read(path: Path) -> list[tuple[str, Row]]:
    """Marks and rows of a file; a last line that was cut short is left out."""
    text = path.read_bytes().decode(errors="surrogateescape")
    try:
        records = list(csv.reader(io.StringIO(text, newline="")))
        if records and (not text.endswith("\n") or len(records[-1]) != len(COLUMNS)):
            records.pop()
        if records and tuple(records[0]) != COLUMNS:
            raise ValueError("other columns")
        return [_row(record) for record in records[1:]]
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} is damaged or no file of predictions ({error}): give another file (--out), or "
            f"delete it to begin again."
        ) from error


def _row(record: list[str]) -> tuple[str, Row]:
    run, path, size, label, *numbers, error = record
    if len(numbers) != 2 * TOP:
        raise ValueError(f"a line of {len(record)} columns")
    classes = tuple(int(x) for x in numbers[:TOP] if x)
    probabilities = tuple(float(x) for x in numbers[TOP:] if x)
    return run, Row(Sample(path, int(label), int(size)), classes, probabilities, error)


# Several processes ------------------------------------------------------------------------------


class _Processes:
    """Which process this is, of how many; alone it is the first of one."""

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count

    def first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns or raises in the first process, in all of them."""
        if self.count == 1:
            return function()
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = function()
            except Exception as error:  # the others would wait for ever
                box[1] = error
        torch.distributed.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def gather(self, mine: T) -> list[T]:
        """Every process's own, in all of them."""
        if self.count == 1:
            return [mine]
        everyones: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(everyones, mine)
        return everyones


@contextmanager
def _processes() -> Iterator[_Processes]:
    distributed = torch.distributed
    if not distributed.is_available() or (
        not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", 1)) < 2
    ):
        yield _Processes()
        return
    started_here = not distributed.is_initialized()
    if started_here:
        # Gloo serves GPUs as well: only file names and numbers travel, and only at both ends.
        distributed.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        yield _Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        if started_here:
            distributed.destroy_process_group()
