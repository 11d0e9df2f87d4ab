"""Labelled images: class folders, and data sets of the Hugging Face hub."""

from __future__ import annotations

import importlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mixer_lite._support.words import foreign, listed, reason
from mixer_lite.datasets.files import ClassFiles, class_folder, composed
from mixer_lite.datasets.imagenet import imagenet_info
from mixer_lite.images import open_image
from mixer_lite.model import MlpMixer

HUB = "hf:"  # prefix of the name of a data set on the Hugging Face hub


class Sample(NamedTuple):
    """A labelled image: path inside the folder (number in a data set), class, size in bytes."""

    path: str
    label: int
    size: int


def class_indices(
    names: Sequence[str], num_classes: int, class_names: Sequence[str] = ()
) -> list[int]:
    """Which of the model's classes each name means: ``n`` numbers below ``num_classes``.

    A name is a WordNet id (``n01440764``) of an ImageNet head (1000, 21843 or 11221 classes, in
    timm's order), else a class name (whole, or up to its first comma; capital or small letters,
    ``_`` for a space, any Unicode form, numbers with zeros before them or not), else a class
    number.

    Raises:
        ValueError: names that mean no class of this model, or several; they are listed.
    """
    meanings, wordnet, _ = _meanings(names, num_classes, class_names)
    unknown = [name for name, meant in zip(names, meanings, strict=True) if len(meant) != 1]
    if unknown:
        shown = listed(unknown)
        ways = "WordNet id, name" if wordnet else "name"
        raise ValueError(
            f"{len(unknown)} of the {len(names)} classes here mean none of this model's, or more "
            f"than one: {shown}; call each by its {ways} or number (0 to {num_classes - 1})."
        )
    return [index for (index,) in meanings]


def _meanings(
    names: Sequence[str], num_classes: int, class_names: Sequence[str]
) -> tuple[list[list[int]], bool, list[str]]:
    """All classes that each name may mean, whether WordNet ids are understood, plain numbers."""
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
    unpadded = _numbers(_unpadded(_plain(label)) for label in labels)
    # As a file of weights keeps names: unprintable characters are escaped in it.
    escaped = _numbers(_plain(foreign(label)) for label in labels)
    meanings, numbers = [], []
    for name, plain in zip(names, map(_plain, names), strict=True):
        meant = next((table[plain] for table in tables if plain in table), [])
        meant = meant or unpadded.get(_unpadded(plain), [])
        meant = meant or escaped.get(_plain(foreign(name)), [])
        if not meant and plain.isdecimal() and int(plain) < num_classes:
            meant = [int(plain)]
            numbers.append(name)
        meanings.append(meant)
    return meanings, bool(wordnet), numbers


def _assumed(names: Sequence[str], num_classes: int, class_names: Sequence[str]) -> str:
    # What was guessed when these names were matched with a model's classes.
    numbers = _meanings(names, num_classes, class_names)[2]
    if not numbers:
        return ""
    shown = ", ".join(numbers[:3]) + ", ..." * (len(numbers) > 3)
    return f"Assumed: the folders {shown} are named by the model's class numbers, from 0."


def _plain(name: str) -> str:
    return " ".join(composed(name).replace("_", " ").lower().split())


def _unpadded(name: str) -> str:
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), name)


def _numbers(names: Iterable[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        table.setdefault(name, []).append(number)
    return table


class ClassFolders:
    """A folder of folders, one a class, as :func:`mixer_lite.datasets.files.class_folder` reads it.

    It is looked into when something of it is asked for.

    Attributes:
        where: the folder, for messages.
        assumed: what had to be guessed when its classes were compared with a model's, or empty.
    """

    identity = ""  # every row holds its path, class and size

    def __init__(self, folder: str | Path):
        self.folder, self.where, self.assumed = Path(folder).expanduser(), str(folder), ""

    @cached_property
    def found(self) -> ClassFiles:
        """What is in it."""
        return class_folder(self.folder)

    @property
    def told(self) -> str:
        """What was found and what was skipped, in a sentence."""
        return self.found.told

    @property
    def names(self) -> list[str]:
        """Names of its classes."""
        return list(self.found.files)

    @cached_property
    def paths(self) -> list[Path]:
        """Paths of its images."""
        return [path for paths in self.found.files.values() for path in paths]

    @cached_property
    def labels(self) -> list[int]:
        """The class of each of its images, by its place in ``names``."""
        return [i for i, paths in enumerate(self.found.files.values()) for _ in paths]

    def samples(self, model: MlpMixer) -> list[Sample]:
        """All images, with the model's classes for their folders."""
        names = _class_names(model)
        try:
            numbers = class_indices(self.names, model.num_classes, names)
        except ValueError as error:
            if not self.found.deeper:
                raise
            raise ValueError(f"{str(error).rstrip('.')}; {self.found.deeper}") from None
        self.assumed = _assumed(self.names, model.num_classes, names)
        return [
            Sample(path.relative_to(self.folder).as_posix(), numbers[label], _size(path))
            for path, label in zip(self.paths, self.labels, strict=True)
        ]

    def open(self, sample: Sample, upright: bool) -> Image.Image:
        """The image of a sample."""
        return open_image(self.folder / sample.path, upright=upright)

    def image(self, number: int) -> Image.Image:
        """One of its images, upright."""
        return open_image(self.paths[number])

    def named(self, number: int) -> str:
        """What a message calls an image."""
        return self.paths[number].relative_to(self.folder).as_posix()

    def state(self) -> Iterator[str]:
        """What changes when the images do."""
        for number, path in enumerate(self.paths):
            facts = os.stat(path)
            yield f"{self.named(number)} {facts.st_size} {facts.st_mtime_ns}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0  # a broken link fails when it is opened


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
        except Exception as error:  # it raises many kinds, some with long messages
            raise RuntimeError(
                f"The split {split} of {name} could not be loaded: {reason(error, 200)}"
            ) from error
        # The first of each kind: CIFAR-100 has coarse labels behind its fine ones.
        columns = reversed(list(data.features.items()))
        kinds = {type(feature).__name__: key for key, feature in columns}
        if not {"Image", "ClassLabel"} <= kinds.keys():
            raise ValueError(
                f"{name} has no column of images or none of class labels, but "
                f"{listed(f'{key} ({kind})' for kind, key in kinds.items())}."
            )
        self.identity = self.where = f"{name} {split}"
        self.assumed = ""
        self.column = kinds["Image"]
        # As bytes: open_image decodes them as it decodes a folder's.
        self.data = data.cast_column(self.column, datasets.Image(decode=False))
        self.names: list[str] = self.data.features[kinds["ClassLabel"]].names
        self.labels: list[int] = list(self.data[kinds["ClassLabel"]])
        if not self.labels or min(self.labels) < 0:
            raise ValueError(f"{self.identity} is empty or without labels: choose another split.")
        self.told = f"{len(self.labels):,} images of {len(self.names)} classes in {self.where}."

    def samples(self, model: MlpMixer) -> list[Sample]:
        """All images, with the model's classes for theirs."""
        names = self.names
        meanings, _, _ = _meanings(names, model.num_classes, _class_names(model))
        told = [(i, meant[0]) for i, meant in enumerate(meanings) if len(meant) == 1]
        if len(names) == model.num_classes and told and all(i == index for i, index in told):
            # All unambiguous names are in place, so the others are too: two classes are "crane".
            numbers = list(range(len(names)))
        else:
            numbers = class_indices(names, model.num_classes, _class_names(model))
            self.assumed = _assumed(names, model.num_classes, _class_names(model))
        return [Sample(str(i), numbers[label], 0) for i, label in enumerate(self.labels)]

    def open(self, sample: Sample, upright: bool) -> Image.Image:
        """The image of a sample."""
        return self.image(int(sample.path), upright)

    def named(self, number: int) -> str:
        """What a message calls an image."""
        return f"image {number}"

    def state(self) -> Iterator[str]:
        """What changes when the images do."""
        yield f"{self.identity} {getattr(self.data, '_fingerprint', '')}"

    def image(self, number: int, upright: bool = True) -> Image.Image:
        """One of its images."""
        stored = self.data[number][self.column]
        file = io.BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"]
        return open_image(file, upright=upright)


def _class_names(model: MlpMixer) -> Sequence[str]:
    return model.config.class_names if model.config else ()
