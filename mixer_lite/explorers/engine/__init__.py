"""The Mixer in the page: asked by saved explorers, and in a notebook before Python has answered.

``mixer.js`` is the network, to be read beside ``mixer_lite/model.py``; ``arithmetic.js`` its matrix
products, by ``kernel.wasm`` (from ``kernel.c``) or in plain JavaScript; ``influence.js`` and
``photograph.js`` follow ``explain.py`` and ``images.py``; ``worker.js`` answers questions, and
``live.js`` is the page's side. Here a model is packed for them.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import torch

from mixer_lite.model import MlpMixer
from mixer_lite.specs import arguments_of

HERE = Path(__file__).parent
MOST = 3_000_000  # parameters: 6 MB in half precision, 8 MB in a page
WORKER = ("arithmetic", "mixer", "influence", "stations", "photograph", "worker")


def worker_code() -> str:
    """The script that a worker runs."""
    return "\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in WORKER)


def why_not(model: MlpMixer) -> str:
    """Why this network cannot be in a page, in one sentence; empty where it can."""
    count = sum(p.numel() for p in model.parameters())
    if count > MOST:
        return (
            f"The network has {count / 1e6:.1f} million parameters, and a page holds up to "
            f"{MOST / 1e6:.0f} million."
        )
    config = model.config
    if config is None or (3, config.image_size, config.image_size) != (
        model.in_channels,
        *model.image_size,
    ):
        return "The network does not take square pictures in three colours."
    if config.resize != "pillow" or config.interpolation not in ("bicubic", "bilinear"):
        return "The network's photographs are resized in a way that a page cannot follow."
    if not all(p.detach().half().isfinite().all() for p in model.parameters()):
        return "Some of the network's weights are too large for half precision."
    return ""


def parts(model: MlpMixer) -> tuple[dict[str, Any], list[bytes]]:
    """A model for the ``Engine``: sizes and preprocessing; and the bytes of weights and kernel.

    Weights are in half precision, one tensor after another, as ``sizes["tensors"]`` names them.
    The bundled models' weights are halves already, and lose nothing.

    Raises:
        ValueError: the network cannot be in a page; :func:`why_not` says why.
    """
    if reason := why_not(model):
        raise ValueError(reason)
    state = model.state_dict()
    config = model.config
    assert config is not None  # see why_not
    halves = torch.cat([tensor.detach().cpu().half().flatten() for tensor in state.values()])
    told = dict(
        sizes=dict(
            **arguments_of(model), grid_size=model.grid_size, num_tokens=model.num_tokens,
            tensors=[[name, list(tensor.shape)] for name, tensor in state.items()],
        ),
        config=dict(
            name=config.name, image_size=config.image_size, crop=config.crop,
            interpolation=config.interpolation, mean=config.mean, std=config.std,
            class_names=config.class_names, temperature=config.temperature,
        ),
    )  # fmt: skip
    return told, [halves.numpy().astype("<f2").tobytes(), (HERE / "kernel.wasm").read_bytes()]


def packed(model: MlpMixer) -> dict[str, Any]:
    """All of :func:`parts` as JSON may hold it, for a page."""
    told, (weights, kernel) = parts(model)
    text = [base64.b64encode(part).decode() for part in (weights, kernel)]
    return {**told, "weights": text[0], "kernel": text[1]}
