"""Your own images, as :func:`mixer_lite.training.loop.train` takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixer_lite._support.words import say
from mixer_lite.datasets.files import class_folder
from mixer_lite.datasets.folders import Folder, channel_statistics, hub_images, image_folder
from mixer_lite.datasets.labelled import HUB, class_indices
from mixer_lite.model import ModelConfig
from mixer_lite.specs import create_model

TEST = ("test", "val", "valid", "validation")  # what a folder of test images may be called


class OwnImages(NamedTuple):
    """Images to train on and to test on.

    Attributes:
        training: arguments of :func:`mixer_lite.training.loop.train`: images, labels, class names,
            mean, std and source.
        test: images ``(n, 3, h, w)`` and labels ``(n,)``, or None where there are none.
    """

    training: dict[str, Any]
    test: tuple[Tensor, Tensor] | None


def own_images(
    data: str | Path,
    name: str,
    *,
    like: ModelConfig | None = None,
    keep: str | Path | None = None,
    progress: bool = True,
) -> OwnImages:
    """Images of a folder, or of a data set of the Hugging Face hub, for a model of this name::

        own = own_images("pets", "mixer_nano_cifar10")
        model = train("mixer_nano_cifar10", "runs/pets", **own.training)

    Args:
        data: a folder with ``train/`` and, if you like, ``test/``, which hold a folder of images
            for each class; or ``hf:NAME``.
        name: one of ``list_models()``.
        like: of trained weights to start from: images are prepared as for those.
        keep: folder for images that do not fit into memory.
        progress: tell what was found, and show a bar.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no images of two classes or more, the test images are of other
            classes, or there is no room for them.
        RuntimeError: the package ``datasets`` is missing, or the data set cannot be loaded.
    """
    config = create_model(name).config
    assert config is not None  # named models have one
    if like:
        ways = ("mean", "std", "interpolation", "crop", "resize")
        config = replace(config, **{way: getattr(like, way) for way in ways})
    found, other = _parts(str(data), config, None if keep is None else Path(keep), progress)
    mean, std = (like.mean, like.std) if like else channel_statistics(found.images)
    training = dict(
        images=found.images, labels=found.labels, class_names=found.class_names, mean=mean,
        std=std, source=str(data) if str(data).startswith(HUB) else Path(data).name,
    )  # fmt: skip
    if other is None:
        return OwnImages(training, None)
    try:
        numbers = class_indices(other.class_names, len(found.class_names), found.class_names)
    except ValueError as error:
        raise ValueError(f"{data} tests other classes than it trains: {error}") from error
    return OwnImages(training, (other.images, torch.tensor(numbers)[other.labels]))


def _parts(
    data: str, config: ModelConfig, keep: Path | None, progress: bool
) -> tuple[Folder, Folder | None]:
    # Images to train on, and to test on.
    def place(split: str) -> Path | None:
        return None if keep is None else keep / split  # for images that do not fit into memory

    if data.startswith(HUB):
        found = hub_images(data, "train", config, progress, place("train"))
        try:
            return found, hub_images(data, "test", config, progress, place("test"))
        except RuntimeError as error:  # a data set need not have such a split
            if progress:
                say(f"{error} So the model will not be tested.")
            return found, None
    folder = Path(data).expanduser()
    if folder.is_dir() and not (folder / "train").is_dir():
        raise ValueError(_no_train(folder))
    found = image_folder(folder / "train", config, progress, place("train"))
    tests = [name for name in TEST if (folder / name).is_dir()]
    if not tests:
        if progress:
            say(f"There is no {folder / 'test'}, so the model will not be tested.")
        return found, None
    return found, image_folder(folder / tests[0], config, progress, place("test"), least=1)


def _no_train(folder: Path) -> str:
    try:
        classes = list(class_folder(folder).files)
    except ValueError as error:
        return f"{folder} has no folder train. {error}"
    held = ", ".join(classes[:5]) + " and others" * (len(classes) > 5)
    remedy = f"give {folder.parent}" if folder.name == "train" else "move them into a folder train"
    return f"{folder} has no folder train, but the folders {held}: if these are classes, {remedy}."
