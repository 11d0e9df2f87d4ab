"""Explorers of photographs: several to choose from, and a reader's own, opened in the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import traitlets
from torch import Tensor

from mixer_lite.datasets.cifar import cifar10_sample
from mixer_lite.explorers.base import Explorer, packed
from mixer_lite.images import (
    ImageSource,
    as_list,
    list_photos,
    open_image,
    photo,
    photo_info,
    preprocess,
    unnormalize,
)
from mixer_lite.model import MlpMixer, ModelConfig
from mixer_lite.prediction import known_config
from mixer_lite.specs import CIFAR10_CLASSES

MOST = 24  # photographs: each costs two passes of the network, and its pixels in the page
CIFAR10_PLACES = (16, 13, 55, 23, 29, 40)  # of the bundled slice, beside the photographs


class Opener(Explorer):
    """An explorer in whose page a reader may open a photograph.

    Attributes:
        message: why the last file was not opened, or empty.
    """

    message = traitlets.Unicode("").tag(sync=True)
    _upload = traitlets.Dict().tag(sync=True)  # a file's name and data, on its way here

    def _take(self, file: IO[bytes], label: str) -> None:
        # What to do with a photograph; a ValueError is told to the reader.
        raise NotImplementedError

    @traitlets.observe("_upload")
    def _open(self, change: Any) -> None:
        if not change.new:
            return
        name = str(change.new.get("name", "the file"))
        file = io.BytesIO(bytes(change.new.get("data", b"")))
        file.name = name
        try:
            self._take(file, Path(name).stem[:40] or "your photograph")
            self.message = ""
        except ValueError as error:
            self.message = str(error)
        self._upload = {}  # the file's bytes are not kept


class Photographs(Opener):
    """An explorer of a model's answers to photographs, one of which is chosen.

    Attributes:
        image: which photograph, from 0.
    """

    image = traitlets.Int(0).tag(sync=True)
    _photographs: traitlets.List = traitlets.List(traitlets.Dict()).tag(sync=True)

    def __init__(self, model: MlpMixer):
        config = checked_config(model)
        self._network, self._config = model, config
        self._tensors: list[Tensor] = []
        super().__init__()

    def _live_network(self) -> MlpMixer | None:
        return self._network

    def add(self, image: ImageSource, label: str) -> int:
        """One more photograph, at the end; what is chosen stays chosen.

        Returns:
            Its index, for ``image``.

        Raises:
            FileNotFoundError, ValueError: as :func:`mixer_lite.images.preprocess`, or there are
                24 photographs already.
        """
        if len(self._tensors) == MOST:
            raise ValueError(f"There are {MOST} photographs already: open another explorer.")
        batch = preprocess(open_image(image), self._config)  # (1, 3, h, w)
        tensor = batch[0].to(self._network.stem.weight)
        pixels = packed(unnormalize(batch, self._config)[0])
        entry = {**self._entry(tensor), "label": label, "pixels": pixels}
        self._tensors.append(tensor)
        self._photographs = [*self._photographs, entry]
        return len(self._tensors) - 1

    def add_all(
        self,
        images: ImageSource | Sequence[ImageSource] | None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Several photographs, or one; ``None``: bundled ones.

        Raises:
            FileNotFoundError, ValueError: as :meth:`add`; or there are none or more than 24, or
                not as many labels as images.
        """
        if images is None:
            several, names = _bundled(self._config)
        else:
            several = as_list(images)
            names = [_label(image, n) for n, image in enumerate(several, start=1)]
        if labels is not None:
            names = [str(label) for label in labels]
        if not 1 <= len(several) <= MOST:
            raise ValueError(f"Give from 1 to {MOST} images, not {len(several)}.")
        if len(names) != len(several):
            raise ValueError(f"{len(several)} images need as many labels, not {len(names)}.")
        for image, name in zip(several, names, strict=True):
            self.add(image, name)

    def _entry(self, image: Tensor) -> dict[str, Any]:
        # What else the page is told of a photograph (3, h, w).
        return {}

    def _take(self, file: IO[bytes], label: str) -> None:
        self.image = self.add(file, label)

    def _covered_image(self, covered: Sequence[int]) -> Tensor:
        # The chosen photograph with patches in the mean colour: (3, h, w).
        p, (_, gw) = self._network.patch_size, self._network.grid_size
        image = self._tensors[self.image].clone()
        for patch in covered:
            row, column = patch // gw * p, patch % gw * p
            image[:, row : row + p, column : column + p] = 0  # after preprocessing: the mean
        return image

    def _checked_patches(self, value: Sequence[int]) -> list[int]:
        patches, last = sorted(set(value)), self._network.num_tokens - 1
        wrong = [k for k in patches if not 0 <= k <= last]
        if wrong:
            raise traitlets.TraitError(f"A covered patch is from 0 to {last}, not {wrong[0]}.")
        return patches


def checked_config(model: MlpMixer) -> ModelConfig:
    """A model's preprocessing, where it predicts classes of square pictures in three colours.

    Raises:
        ValueError: it has no head or no preprocessing, or takes other pictures.
    """
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it predicts nothing.")
    config = known_config(model)
    if (model.in_channels, *model.image_size) != (3, config.image_size, config.image_size):
        raise ValueError(
            f"The model takes {model.in_channels} x {model.image_size[0]} x "
            f"{model.image_size[1]} numbers, but its config prepares photographs of 3 x "
            f"{config.image_size} x {config.image_size}: they must agree."
        )
    return config


def _bundled(config: ModelConfig) -> tuple[list[ImageSource], list[str]]:
    # Photographs of the model's own classes; for CIFAR-10 also pictures as it was trained on.
    if config.class_names == CIFAR10_CLASSES:
        names = [name for name in list_photos() if photo_info(name).cifar10]
        images, labels = cifar10_sample()
        tests = [images[k] for k in CIFAR10_PLACES]
        said = [CIFAR10_CLASSES[labels[k]] for k in CIFAR10_PLACES]
        return [*map(photo, names), *tests], [*names, *said]
    names = [name for name in list_photos() if photo_info(name).imagenet]
    return list(map(photo, names)), names


def _label(image: ImageSource, number: int) -> str:
    return Path(image).stem if isinstance(image, (str, Path)) else f"photograph {number}"
