"""Images in, named classes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixer_lite import fast
from mixer_lite._support.machine import enough_memory, free_memory
from mixer_lite.images import is_batch, preprocess
from mixer_lite.model import MlpMixer, ModelConfig


@dataclass(frozen=True)
class Prediction:
    """One class that a model proposes for an image."""

    label: str
    probability: float
    index: int


def fitting(model: MlpMixer, batch_size: int) -> int:
    """How many images fit into memory at once, at most ``batch_size``.

    A file can ask for a lot with few weights: what a model works on is not its size.

    Raises:
        MemoryError: not even one image fits.
    """
    pixels, tokens = model.in_channels * math.prod(model.image_size), model.num_tokens
    widest = max(tokens * model.channels_mlp_dim, model.hidden_dim * model.tokens_mlp_dim)
    # Of an image its pixels in three forms and its tokens in four; of the parts that are in a
    # block at once, what lies before and behind the GELU, and a copy.
    each = 4 * (3 * pixels + 4 * tokens * model.hidden_dim)
    parts = min(torch.get_num_threads() * max(widest, fast.PART), batch_size * widest)
    fixed = 4 * 3 * parts
    if next(model.parameters()).device.type != "cpu":
        each, fixed = 4 * 3 * pixels, 0  # a GPU reports its own lack of memory
    free = free_memory()
    if fixed + each > free:
        raise MemoryError(
            f"The model takes about {(fixed + each) / 1e9:.1f} GB for an image of "
            f"{model.image_size[0]:,} x {model.image_size[1]:,} pixels, and {free / 1e9:.1f} GB "
            f"are free: end other programs, or take a smaller model."
        )
    return max(1, min(batch_size, int((0.8 * free - fixed) / each)))


def in_memory(model: MlpMixer, count: int) -> AbstractContextManager[None]:
    """Around work on so many images: a ``MemoryError`` of one sentence if memory runs out."""
    height, width = model.image_size
    fewer = "fewer images at once (batch_size), or " if count > 1 else ""
    return enough_memory(
        f"The model takes more memory than there is for {count:,} image{'s' * (count > 1)} of "
        f"{height:,} x {width:,} pixels: take {fewer}a smaller model."
    )


def known_config(model: MlpMixer) -> ModelConfig:
    """How a model's images are prepared.

    Raises:
        ValueError: it does not know.
    """
    if model.config is None:
        raise ValueError(
            "This model does not know how its images were prepared: set model.config to a "
            "mixer_lite.specs.ModelConfig, or load it with load_pretrained or load_checkpoint."
        )
    return model.config


def class_names(model: MlpMixer) -> Sequence[str]:
    """What a model calls its classes; ``"class 0"`` and so on where it has no names."""
    known = model.config.class_names if model.config else ()
    return known or [f"class {k}" for k in range(model.num_classes)]


def logits(model: MlpMixer, images: Any, *, batch_size: int = 16) -> torch.Tensor:
    """Logits of images prepared as the model was trained: ``(n, num_classes)``.

    ``images`` is what :func:`mixer_lite.images.preprocess` takes.

    Raises:
        ValueError: the model does not know its preprocessing, ``batch_size`` is below 1, or an
            image cannot be opened.
        MemoryError: the model takes more memory than there is.
    """
    return torch.cat(list(_logits_by_batch(model, images, batch_size)))


def _logits_by_batch(model: MlpMixer, images: Any, batch_size: int) -> Iterator[torch.Tensor]:
    """``(b, num_classes)`` for one batch after the other; only one batch is open at a time."""
    config = known_config(model)
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}.")
    batch_size = fitting(model, batch_size)
    many = images if is_batch(images) else [images]
    if not len(many):
        raise ValueError("There are no images to predict: the list is empty.")
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        for i in range(0, len(many), batch_size):
            some = many[i : i + batch_size]
            with torch.inference_mode(), in_memory(model, len(some)):
                batch = preprocess(some, config, model.in_channels)
                out = fast.logits(model, batch.to(device)).cpu()
            yield out
    finally:
        model.train(was_training)


def predict(
    model: MlpMixer,
    images: Any,
    top_k: int = 5,
    *,
    batch_size: int = 16,
    calibrated: bool = True,
) -> list[Prediction] | list[list[Prediction]]:
    """The ``top_k`` most probable classes of each image, most probable first.

    Args:
        model: a loaded model; its ``config`` says how to prepare images and names the classes.
        images: a path, PIL image, array ``(h, w, 3)`` or tensor ``(3, h, w)``; or a list of
            them, an array ``(n, h, w, 3)`` or a tensor ``(n, 3, h, w)``.
        top_k: classes for each image; more than there are gives all.
        batch_size: images that are open and go through the model at once, fewer where memory
            takes no more; of each only its ``top_k`` classes are kept.
        calibrated: divide the logits by the temperature that ``model.config`` holds, which changes
            the probabilities and never the order of the classes; ``False`` leaves them as they are.

    Returns:
        A list of :class:`Prediction` for one image, a list of such lists for several.

    Raises:
        ValueError: an image cannot be opened, the model has no head or no preprocessing, or
            ``top_k`` or ``batch_size`` is below 1.
        MemoryError: the model takes more memory for one image than there is.
    """
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it names no classes.")
    if top_k < 1:
        raise ValueError(f"top_k must be 1 or more, not {top_k}.")
    names = class_names(model)
    results = []
    for out in _logits_by_batch(model, images, batch_size):
        chances = probabilities(out, model.config) if calibrated else out.softmax(dim=1)
        top = chances.topk(min(top_k, model.num_classes), dim=1)
        results += [
            [Prediction(names[i], p, i) for p, i in zip(row_p, row_i, strict=True)]
            for row_p, row_i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
    return results if is_batch(images) else results[0]


def probabilities(logits: Tensor, config: ModelConfig | None) -> Tensor:
    """What :func:`predict` makes of logits ``(..., num_classes)``, of the same shape.

    The softmax over the classes, of the logits divided by the model's temperature.
    """
    return (logits / (config.temperature if config else 1.0)).softmax(dim=-1)
