"""Which images a training run is tested on as it goes, and how much time that may take."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from torch import Tensor

from mixer_lite.datasets.cifar import cifar10_sample
from mixer_lite.explorers.photographs import CIFAR10_PLACES
from mixer_lite.images import list_photos, photo, photo_info
from mixer_lite.specs import CIFAR10_CLASSES

STRIDE = 5  # accuracy is measured on every fifth image of the bundled slice
PICTURES = 8  # at most, that are shown with what the model takes them for
SHARE = 0.0075  # of the steps' time may go into looking at the run, and as much into asking it


class Allowance:
    """Seconds that something may take beside a run: a share of its steps' time, and some more.

    ``if allowance.enough(): with allowance: ...`` does it only when it can be afforded, judged by
    how long it took the last time.
    """

    def __init__(self, more: float):
        self.more, self.earned, self.spent, self._last, self._started = more, 0.0, 0.0, 0.0, 0.0

    def enough(self) -> bool:
        """Whether it can be done once more."""
        return self.spent + self._last <= SHARE * self.earned + self.more

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._last = time.monotonic() - self._started
        self.spent += self._last


class Examples(NamedTuple):
    """Images on which a run is asked what it has learned.

    ``pictures`` are shown by their ``names``, ``accuracy`` is measured on ``images`` and their
    ``labels``; all as :func:`mixer_lite.images.preprocess` takes them.
    """

    pictures: list[Any]
    names: list[str]
    images: Any
    labels: Tensor


def known(images: Any, learned: Any) -> int:
    """How many of the images are among those that are learned from."""

    def prints(batch: Any) -> list[int]:
        return [hash(x.tobytes()) for x in batch.numpy()] if isinstance(batch, Tensor) else []

    learned = set(prints(learned))
    return sum(x in learned for x in prints(images))


def cifar10_examples() -> Examples:
    """Photographs of its classes and test images to show; more test images to count on."""
    photos = [name for name in list_photos() if photo_info(name).cifar10]
    images, labels = cifar10_sample()
    places = list(CIFAR10_PLACES)[: PICTURES - len(photos)]
    names = [str(photo_info(name).cifar10) for name in photos]
    names += [CIFAR10_CLASSES[labels[k]] for k in places]
    pictures = [*map(photo, photos), *(images[k] for k in places)]
    return Examples(pictures, names, images[::STRIDE], labels[::STRIDE])
