"""The images that excite the units of a block most, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mixer_lite import explain
from mixer_lite.explorers.base import packed, quantized
from mixer_lite.images import (
    ImageSource,
    list_photos,
    open_image,
    photo,
    photo_info,
    preprocess,
    unnormalize,
)
from mixer_lite.model import MlpMixer
from mixer_lite.prediction import known_config
from mixer_lite.specs import CIFAR10_CLASSES

COUNT = 5  # images for each unit
SIDE = 64  # pixels of a thumbnail, at most


class ImageSearch:
    """Images to look through, and what they are called in a sentence."""

    def __init__(self, model: MlpMixer, images: Sequence[ImageSource] | None = None):
        self.model, self.config, self.given = model, known_config(model), images
        cifar10 = self.config.class_names == CIFAR10_CLASSES
        if images is not None:
            if not len(images):
                raise ValueError("Give at least one image to look through.")
            self.name = f"{len(images)} images"
        elif cifar10:
            self.name = "500 test images of CIFAR-10"
        else:
            names = [name for name in list_photos() if photo_info(name).imagenet]
            self.given, self.name = [photo(name) for name in names], f"{len(names)} photographs"

    def batch(self) -> Tensor:
        """All images, preprocessed: ``(n, 3, h, w)``."""
        from mixer_lite.datasets.cifar import cifar10_sample

        if self.given is None:
            return preprocess(cifar10_sample()[0], self.config)
        return torch.cat([preprocess(open_image(image), self.config) for image in self.given])

    def found(self, block: int) -> tuple[dict[str, Any], explain.TopImages]:
        """For the page: pictures and channels; and :func:`mixer_lite.explain.top_images`."""
        model, weight = self.model, next(self.model.parameters())
        batch = self.batch()
        parts = [part.to(weight) for part in batch.split(64)]
        moved = torch.cat(parts)
        top = explain.top_images(model, moved, block, COUNT)
        used, image = top.image.cpu().unique(return_inverse=True)  # (m,), (D_S, count)
        reads = torch.stack(
            [explain.unit_responses(model, moved[n], block)[0].cpu() for n in used]
        )  # (m, C, gh, gw)
        maps = reads[image, top.channel.cpu()]  # (D_S, count, gh, gw)
        pixels = unnormalize(batch[used], self.config)  # (m, h, w, 3)
        step = -(-pixels.shape[1] // SIDE)
        return dict(
            number=packed(top.image), image=packed(image), channel=packed(top.channel),
            activation=packed(top.activation), pixels=packed(np.ascontiguousarray(
                pixels[:, ::step, ::step])),
            maps=quantized(rearrange(maps, "u k gh gw -> (u k) gh gw")),
        ), top  # fmt: skip
