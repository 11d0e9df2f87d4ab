"""Images in, named classes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mixer_lite import fast
from mixer_lite.model import MlpMixer


@dataclass(frozen=True)
class Prediction:
    """One class that a model proposes for an image."""

    label: str
    probability: float
    index: int


def logits(model: MlpMixer, images: Any, *, batch_size: int = 16) -> torch.Tensor:
    """Logits of images prepared as the model was trained: ``(n, num_classes)``.

    ``images`` is what :func:`mixer_lite.images.preprocess` takes.

    Raises:
        ValueError: the model does not know its preprocessing, ``batch_size`` is below 1, or an
            image cannot be opened.
    """
    return torch.cat(list(_logits_by_batch(model, images, batch_size)))


def _logits_by_batch(model: MlpMixer, images: Any, batch_size: int) -> Iterator[torch.Tensor]:
    """``(b, num_classes)`` for one batch after the other; only one batch is open at a time."""
    from mixer_lite.images import preprocess

    if model.config is None:
        raise ValueError(
            "This model does not know how its images were prepared: set model.config to a "
            "mixer_lite.specs.ModelConfig, or load it with load_pretrained or load_checkpoint."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}.")
    many = images if _is_batch(images) else [images]
    if not len(many):
        raise ValueError("There are no images to predict: the list is empty.")
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        for i in range(0, len(many), batch_size):
            with torch.inference_mode():
                batch = preprocess(many[i : i + batch_size], model.config)
                out = fast.logits(model, batch.to(device)).cpu()
            yield out
    finally:
        model.train(was_training)


def predict(
    model: MlpMixer, images: Any, top_k: int = 5, *, batch_size: int = 16
) -> list[Prediction] | list[list[Prediction]]:
    """The ``top_k`` most probable classes of each image, most probable first.

    Args:
        model: a loaded model; its ``config`` says how to prepare images and names the classes.
        images: a path, PIL image, array ``(h, w, 3)`` or tensor ``(3, h, w)``; or a list of
            them, an array ``(n, h, w, 3)`` or a tensor ``(n, 3, h, w)``.
        top_k: classes for each image; more than there are gives all.
        batch_size: images that are open and go through the model at once; of each only its
            ``top_k`` classes are kept, so that a long list fits in memory.

    Returns:
        A list of :class:`Prediction` for one image, a list of such lists for several.

    Raises:
        ValueError: an image cannot be opened, the model has no head or no preprocessing, or
            ``top_k`` or ``batch_size`` is below 1.
    """
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it names no classes.")
    if top_k < 1:
        raise ValueError(f"top_k must be 1 or more, not {top_k}.")
    names = model.config.class_names if model.config else ()
    results = []
    for out in _logits_by_batch(model, images, batch_size):
        top = out.softmax(dim=1).topk(min(top_k, model.num_classes), dim=1)
        results += [
            [
                Prediction(names[i] if names else f"class {i}", p, i)
                for p, i in zip(row_p, row_i, strict=True)
            ]
            for row_p, row_i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
    return results if _is_batch(images) else results[0]


def _is_batch(images: Any) -> bool:
    return isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
