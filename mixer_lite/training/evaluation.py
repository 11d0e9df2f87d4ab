"""Top-1 and top-5 of a model on a folder of labelled images: the published table, measured.

In one process or several, at the first run or one that goes on, every image counts exactly once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mixer_lite import fast
from mixer_lite._support.tables import Table
from mixer_lite._support.words import reason, say
from mixer_lite.datasets.labelled import HUB, ClassFolders, HubData, Sample
from mixer_lite.images import TURNED, prepare
from mixer_lite.model import MlpMixer, ModelConfig
from mixer_lite.prediction import fitting, in_memory, known_config
from mixer_lite.training.processes import processes, usable_device

TOP = 5
PATIENCE = 300  # seconds that a process which opens images may take for a batch
COLUMNS = (
    "run", "path", "bytes", "label",
    *(f"top{i}" for i in range(1, TOP + 1)), *(f"p{i}" for i in range(1, TOP + 1)), "turned",
    "error",
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
        notes: sentences on what was found, skipped or assumed, and on what looks wrong.
    """

    model: str
    data: str
    top1: float
    top5: float
    count: int
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()


class Answer(NamedTuple):
    """What is kept of an image: its likeliest classes in their order, or why there are none."""

    sample: Sample
    classes: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    turned: bool = False  # whether an orientation in the file was not applied
    error: str = ""


def evaluate(
    model: MlpMixer,
    folder: str | Path,
    *,
    split: str | None = None,
    predictions: str | Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Evaluation:
    """Top-1 and top-5 accuracy of a model, with the preprocessing that it was trained for.

    Started by ``torchrun`` or ``accelerate launch``, every process takes its share of the images
    and returns the result of all. Pictures are turned upright where the model's training did so
    (``model.config.upright``); else those that lie on their side are counted.

    Args:
        model: a loaded model; its ``config`` says how to prepare images and names the classes.
        folder: holds one folder of images for each class, named as :func:`class_indices` reads
            it; or ``"hf:NAME"``, a data set that the package ``datasets`` loads.
        split: the part of such a data set; by default ``"validation"``.
        predictions: a CSV file for what the model says of every image. A run that was stopped
            goes on where it was; images that could not be opened are tried again.
        batch_size: images that go through the model at once; fewer where memory takes no more.
        workers: processes that open images; 0 for none. When one of them fails or takes too long,
            the run goes on without them.
        device: where the model is moved and computes; by default a GPU where there is one.
        progress: tell what was found, and show a bar.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: folder, model, options or predictions do not fit each other; says which.
        RuntimeError: a package that is needed is not installed.
        MemoryError: the model takes more memory for one image than there is.
    """
    config, source = _checked(model, batch_size, workers), _source(str(folder), split)
    where = usable_device(device if device is not None else _device())
    asked, batch_size = batch_size, fitting(model, batch_size)
    team = processes(where)
    kept = None if predictions is None else _Kept(Path(predictions), team.rank)
    # Only the first process lists images and repairs files, so that all split the same list.
    run, samples, done, notes = team.first(lambda: _plan(model, config, source, kept))
    speaks = progress and team.rank == 0
    for note in notes if speaks else ():
        say(note)
    if batch_size < asked and speaks:
        say(f"{batch_size} images at once and not {asked}, because memory takes no more.")
    rest = [sample for sample in samples if sample.path not in done]
    mine = _Prepared(source, rest[team.rank :: team.count], config, model.in_channels)
    found = _predict(model, _batches(mine, batch_size, workers), where)
    new = _collected(found, run, kept, team.count, len(done), len(samples), speaks)
    done |= {row.sample.path: row for row in team.gather(new)}
    all_rows = [done[sample.path] for sample in samples]
    if kept is not None:
        team.first(lambda: kept.write(run, all_rows))
    result = _result(config, str(folder), all_rows, notes)
    for note in result.notes[len(notes) :] if speaks else ():
        say(note)
    return result


def _source(data: str, split: str | None) -> ClassFolders | HubData:
    if data.startswith(HUB):
        return HubData(data, split or "validation")
    if split is not None:
        raise ValueError(
            f"{data} is a folder, and only an hf: data set has a split {split!r}: leave split out, "
            f"and give the folder of the part to evaluate."
        )
    return ClassFolders(data)


def _collected(
    found: Iterator[list[Answer]],
    run: str,
    kept: _Kept | None,
    processes: int,
    done: int,
    total: int,
    speaks: bool,
) -> list[Answer]:
    # All rows that this process finds, kept as they come.
    from tqdm.auto import tqdm

    new: list[Answer] = []
    with tqdm(total=total, initial=done, unit="image", disable=not speaks) as bar:
        for rows in found:
            if kept:
                kept.append(run, rows)
            new += rows
            # The other processes have done about as many.
            bar.update(min(len(rows) * processes, total - bar.n))
    return new


def _checked(model: MlpMixer, batch_size: int, workers: int) -> ModelConfig:
    # The model's preprocessing, after a check of all options.
    config = known_config(model)
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it names no classes.")
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batch_size must be 1 or more and workers 0 or more, not {batch_size} and {workers}."
        )
    # If a package is missing, this raises here and not in a worker.
    prepare(Image.new("RGB", (8, 8)), config, model.in_channels)
    return config


def _result(
    config: ModelConfig, data: str, rows: list[Answer], notes: tuple[str, ...]
) -> Evaluation:
    judged = [row for row in rows if not row.error]
    turned = sum(row.turned for row in judged)
    if turned:
        notes += (
            f"{turned:,} image{'s carry' if turned > 1 else ' carries'} an orientation that was "
            f"not applied: this model was evaluated on pictures as they are stored "
            f"(model.config.upright=False).",
        )
    answers, labels = ({row.classes[0] for row in judged}, {row.sample.label for row in judged})
    if len(judged) > 9 and len(answers) == 1 and len(labels) > 1:
        (answer,) = answers
        name = config.class_names[answer] if config.class_names else str(answer)
        notes += (
            f"Every image got the same answer, {name}: look at the weights and the preprocessing.",
        )
    return Evaluation(
        model=config.name,
        data=data,
        top1=_share(row.sample.label == row.classes[0] for row in judged),
        top5=_share(row.sample.label in row.classes for row in judged),
        count=len(judged),
        failed={row.sample.path: row.error for row in rows if row.error},
        notes=notes,
    )


def _share(right: Iterable[bool]) -> float:
    answers = list(right)
    return sum(answers) / len(answers) if answers else float("nan")


# Where images come from -------------------------------------------------------------------------

# Per image: its sample, its pixels (c, h, w) or why there are none, and whether it is turned.
_Item = tuple[Sample, "np.ndarray | str", bool]


class _Prepared(torch.utils.data.Dataset[_Item]):
    """Samples, prepared for the model."""

    def __init__(
        self,
        source: ClassFolders | HubData,
        samples: list[Sample],
        config: ModelConfig,
        channels: int,
    ):
        self.source, self.samples, self.config = source, samples, config
        self.channels = channels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> _Item:
        sample = self.samples[index]
        try:
            image = self.source.open(sample, upright=self.config.upright)
            # Not a tensor: those come from another process through /dev/shm, which may be small.
            pixels = prepare(image, self.config, self.channels).numpy()
            return sample, pixels, bool(image.info.get(TURNED))
        except (ValueError, OSError) as error:
            return sample, " ".join(str(error).split()) or type(error).__name__, False


def _batches(data: _Prepared, batch_size: int, workers: int) -> Iterator[list[_Item]]:
    # Workers read the images as long as they can; then this process does.
    done = 0

    def loader(workers: int) -> torch.utils.data.DataLoader:
        rest = torch.utils.data.Subset(data, range(done, len(data)))
        return torch.utils.data.DataLoader(
            rest, batch_size=batch_size, num_workers=workers, collate_fn=list,
            timeout=PATIENCE if workers else 0,
        )  # fmt: skip

    if workers:
        try:
            for items in loader(workers):
                yield items
                done += len(items)
            return
        except (RuntimeError, OSError) as error:
            say(f"The processes that open images failed ({reason(error)}): the run goes on "
                f"without them, as with --workers 0.")  # fmt: skip
    yield from loader(0)


# What the model says ----------------------------------------------------------------------------


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


@torch.inference_mode()
def _predict(
    model: MlpMixer, batches: Iterable[list[_Item]], device: torch.device
) -> Iterator[list[Answer]]:
    was_training = model.training
    model.to(device).eval()
    try:
        for items in batches:
            rows = [Answer(sample, error=x) for sample, x, _ in items if isinstance(x, str)]
            opened = [(s, torch.from_numpy(x), turned) for s, x, turned in items
                      if not isinstance(x, str)]  # fmt: skip
            if opened:
                with in_memory(model, len(opened)):
                    x = torch.stack([pixels for _, pixels, _ in opened])  # (b, c, h, w)
                    out = fast.logits(model, x.to(device)).float().softmax(dim=1).cpu()
                top = out.topk(min(TOP, model.num_classes), dim=1)
                rows += [
                    Answer(sample, tuple(classes), tuple(probabilities), turned)
                    for (sample, _, turned), classes, probabilities in zip(
                        opened, top.indices.tolist(), top.values.tolist(), strict=True
                    )
                ]
            yield rows
    finally:
        model.train(was_training)


# What is kept of it -----------------------------------------------------------------------------


class _Kept:
    """The file of predictions, and one beside it for each process that is at work."""

    def __init__(self, path: Path, rank: int):
        self.path = path
        self.whole = Table(path, COLUMNS, key=("path",))
        self.part = Table(path.with_name(f"{path.name}.{rank}.part"), COLUMNS, key=("path",))

    def parts(self) -> list[Path]:
        """The files that stopped runs left."""
        if not self.path.parent.is_dir():
            return []
        return sorted(
            path for path in self.path.parent.iterdir()
            if path.name.startswith(f"{self.path.name}.") and path.suffix == ".part"
        )  # fmt: skip

    def append(self, run: str, rows: list[Answer]) -> None:
        """Add what this process found."""
        self.part.append(_record(run, row) for row in rows)

    def write(self, run: str, rows: list[Answer]) -> None:
        """Write all rows to the whole file, and delete the parts."""
        self.whole.write(_record(run, row) for row in rows)
        for part in self.parts():
            part.unlink()

    def read(self) -> Iterator[tuple[Path, str, Answer]]:
        """File, mark and row of all that was kept."""
        for path in (self.path, *self.parts()):
            try:
                for record in Table(path, COLUMNS, key=("path",)).rows():
                    yield path, *_row(record)
            except ValueError as error:
                raise ValueError(
                    f"{path} is damaged or no file of predictions ({reason(error)}): give another "
                    f"file (--out), or delete it to begin again."
                ) from error


def _plan(
    model: MlpMixer, config: ModelConfig, source: ClassFolders | HubData, kept: _Kept | None
) -> tuple[str, list[Sample], dict[str, Answer], tuple[str, ...]]:
    """The run's mark, all samples, the rows that an earlier run left, by path, and notes."""
    samples = source.samples(model)
    notes = tuple(filter(None, (source.told, source.assumed)))
    if kept is None:
        return "", samples, {}, notes
    run = _mark(model, config, source.identity)
    known = {sample.path: sample for sample in samples}
    rows: dict[str, Answer] = {}
    for file, found, row in kept.read():
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
    if kept.parts():
        kept.write(run, [rows[sample.path] for sample in samples if sample.path in rows])
    return run, samples, rows, notes


def _mark(model: MlpMixer, config: ModelConfig, identity: str) -> str:
    """Twelve hexadecimal digits of everything but the image that a prediction depends on."""
    asked = {k: v for k, v in asdict(config).items() if k not in ("name", "class_names", "source")}
    facts = [asked, model.gelu, model.norm_eps, model.patch_size, identity]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def _record(run: str, row: Answer) -> dict[str, Any]:
    (path, label, size), classes, probabilities, turned, error = row
    facts = dict(run=run, path=path, bytes=size, label=label, turned=int(turned), error=error)
    facts |= {f"top{i}": index for i, index in enumerate(classes, start=1)}
    return facts | {f"p{i}": f"{p:.6g}" for i, p in enumerate(probabilities, start=1)}


def _row(record: Mapping[str, str]) -> tuple[str, Answer]:
    sample = Sample(record["path"], int(record["label"]), int(record["bytes"]))
    places = range(1, TOP + 1)
    classes = tuple(int(record[f"top{i}"]) for i in places if record[f"top{i}"])
    probabilities = tuple(float(record[f"p{i}"]) for i in places if record[f"p{i}"])
    row = Answer(sample, classes, probabilities, bool(int(record["turned"])), record["error"])
    return record["run"], row


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
    ours = [f"{100 * x:.3f}" for x in (result.top1, result.top5)]
    theirs = ["" if x is None else f"{x:.3f}" for x in published[:2]]
    values = (result.model, result.data, result.count, len(result.failed), *ours, *theirs,
              published[2])  # fmt: skip
    table = Table(Path(path), TABLE, key=("model", "data"))
    try:
        table.put([dict(zip(TABLE, values, strict=True))])
    except ValueError as error:
        raise ValueError(
            f"{path} is no table of evaluations: give another folder ({error})"
        ) from error
