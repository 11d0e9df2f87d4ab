"""Checkpoint files to our models and back, exactly: whoever wrote them, whatever they are called.

``weightfiles`` reads a file safely, ``layouts`` knows each project's names and shapes; here they
meet the model, with the activation, LayerNorm epsilon and preprocessing that the source used.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_lite.labels import imagenet_names
from mixer_lite.layouts import (
    LAYOUTS,
    Layout,
    from_layout,
    meta_model,
    printable,
    read_arguments,
    recognise,
    to_layout,
)
from mixer_lite.model import MlpMixer
from mixer_lite.resources import replace_file
from mixer_lite.specs import ModelConfig
from mixer_lite.weightfiles import read_file

__all__ = [
    "from_timm_state_dict",
    "load_checkpoint",
    "read_arguments",
    "read_file",
    "save_checkpoint",
    "to_google_npz",
    "to_lucidrains_state_dict",
    "to_openmmlab_state_dict",
    "to_timm_state_dict",
]

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def load_checkpoint(path: str | Path, *, config: ModelConfig | None = None) -> MlpMixer:
    """A model from a file of any Mixer's weights, in evaluation mode.

    The file may be safetensors, PyTorch's (the zip of today or the older kind) or NumPy's
    ``.npz``; its weights in the layout of timm, Google, OpenMMLab, lucidrains or our own,
    wrapped by a training script or not, with a head of any number of classes or none. All is
    recognised by content. Sizes are read off the shapes; GELU, LayerNorm epsilon and
    preprocessing are the source's:

    ========== ===== ===== ================================================================
    layout     GELU  eps   preprocessing
    ========== ===== ===== ================================================================
    timm       exact 1e-6  mean and std 0.5, bicubic, crop 0.875; with MIIL's head of 11221
                           classes mean 0, std 1, bilinear
    Google     tanh  1e-6  mean and std 0.5, bicubic, crop 0.875
    OpenMMLab  exact 1e-5  the same, resized by OpenCV where it is installed
    lucidrains exact 1e-5  mean and std 0.5, bicubic, crop 0.875
    ours       what :func:`save_checkpoint` wrote; without it, timm's
    ========== ===== ===== ================================================================

    MIIL's ImageNet-1k weights cannot be told from others of timm's layout: give their
    ``config``. Weights become float32, in memory of their own; nothing else of the file is kept,
    so the peak of memory is little more than the weights.

    Args:
        path: the file.
        config: preprocessing and class names, in place of those above.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or unsafe; its weights are not a Mixer's, or do not fit
            together: then every entry that is missing, unexpected or misshapen is named; some
            are of another type than floating point; or some are NaN or infinite, so that
            every output would be.
    """
    state, metadata = read_file(path)
    try:
        layout = recognise(state)
        ours = layout is LAYOUTS["mixer_lite"]
        saved = _saved(metadata if ours else {})
        hints = {k: saved[k] for k in ("image_size", "patch_size") if k in saved}
        arguments = read_arguments(state, **hints)
        for name, tensor in state.items():
            if tensor.dtype not in _FLOATS:
                raise ValueError(
                    f"{printable([name])} is of type {str(tensor.dtype).removeprefix('torch.')}: "
                    f"weights are float32, float64, float16 or bfloat16."
                )
        gelu, norm_eps = saved.get("gelu", layout.gelu), saved.get("norm_eps", layout.norm_eps)
        model = meta_model(**arguments, gelu=gelu, norm_eps=norm_eps)
        storages: set[int] = set()
        weights = {
            name: _own(theirs, tensor, storages)
            for name, theirs, tensor in from_layout(state, model, layout)
        }
        model.load_state_dict(weights, assign=True)
        if config is None and model.grid_size[0] == model.grid_size[1]:
            config = _config(Path(path), model, layout, saved.get("config"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    model.config = config
    return model.eval()


def _own(name: str, tensor: Tensor, storages: set[int]) -> Tensor:
    # The weight as float32, dense and alone in its memory: two that share it could not train.
    weight = tensor.float().contiguous()
    storage = weight.untyped_storage()
    if storage.nbytes() != weight.nbytes or storage.data_ptr() in storages:
        weight = weight.clone()
    storages.add(weight.untyped_storage().data_ptr())
    # Of finite numbers the sum is nearly always finite, and it is the cheaper question.
    if not math.isfinite(weight.sum()) and not bool(weight.isfinite().all()):
        raise ValueError(
            f"{name} holds NaN or infinite weights, and so would every output: the training "
            f"diverged, the file is damaged, or its type was too narrow for it."
        )
    return weight


def _config(
    path: Path, model: MlpMixer, layout: Layout, saved: Mapping[str, Any] | None
) -> ModelConfig:
    if saved is not None:
        return _saved_config(saved, model)
    config = ModelConfig(
        name=path.stem,
        image_size=model.image_size[0],
        class_names=imagenet_names(model.num_classes),
        source=f"file {path.name}, in the layout of {layout.owner}",
    )
    if layout is LAYOUTS["timm"] and model.num_classes == 11221:  # MIIL's ImageNet-21k-P
        return replace(config, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear")
    if layout is not LAYOUTS["openmmlab"]:
        return config
    if importlib.util.find_spec("cv2"):
        return replace(
            config, resize="opencv", source=f"{config.source}; images resized by OpenCV, as there"
        )
    return replace(
        config,
        source=f"{config.source}; OpenCV, which resizes images there, is not installed: Pillow "
        f"does it a little differently (pip install opencv-python-headless)",
    )


def _saved(metadata: Mapping[str, str]) -> dict[str, Any]:
    # What save_checkpoint wrote beside the weights, checked: a file can claim anything.
    checks = {
        "gelu": lambda v: v in ("exact", "tanh"),
        "norm_eps": lambda v: isinstance(v, float) and 0 < v < 1,
        "image_size": lambda v: (
            isinstance(v, list) and len(v) == 2 and all(isinstance(x, int) and x > 0 for x in v)
        ),
        "patch_size": lambda v: isinstance(v, int) and v > 0,
        "config": lambda v: isinstance(v, dict),
    }
    saved: dict[str, Any] = {}
    for key, check in checks.items():
        if key in metadata:
            text = metadata[key]
            try:
                value = text if key == "gelu" else json.loads(text)
            except (ValueError, RecursionError):
                value = None
            if not check(value):
                raise ValueError(f"its metadata is damaged: {key} is {text!r:.60}.")
            saved[key] = value
    return saved


def _saved_config(saved: Mapping[str, Any], model: MlpMixer) -> ModelConfig:
    def numbers(v: Any) -> bool:
        # Neither NaN nor infinite: of those, abs(x) < 1e6 is False.
        floats = isinstance(v, list) and all(isinstance(x, int | float) for x in v)
        return floats and len(v) == 3 and all(abs(x) < 1e6 for x in v)

    checks = {
        "name": lambda v: isinstance(v, str),
        "image_size": lambda v: v == model.image_size[0],
        "mean": numbers,
        "std": lambda v: numbers(v) and all(x > 0 for x in v),
        "interpolation": lambda v: v in ("bicubic", "bilinear"),
        "crop": lambda v: isinstance(v, int | float) and 0 < v <= 1,
        "resize": lambda v: v in ("pillow", "opencv"),
        "class_names": lambda v: (
            isinstance(v, list)
            and all(isinstance(x, str) for x in v)
            and len(v) in (0, model.num_classes)
        ),
        "source": lambda v: isinstance(v, str),
    }
    known: dict[str, Any] = {k: v for k, v in saved.items() if k in checks}
    for key, value in known.items():
        if not checks[key](value):
            raise ValueError(f"its metadata is damaged: {key} of its config is {value!r:.60}.")
    if not {"name", "image_size"} <= known.keys():
        raise ValueError("its metadata is damaged: its config lacks name or image_size.")
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
    return ModelConfig(**known)


def save_checkpoint(
    model: MlpMixer, path: str | Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a ``.safetensors`` file that :func:`load_checkpoint` reads back whole.

    Beside the weights it holds the activation, the LayerNorm epsilon, the shape of the image
    and of its patches, and ``model.config``.

    ``dtype=torch.float16`` halves the file; every weight is then rounded to 11 bits.
    """
    from safetensors.torch import save

    # Copies, because the format refuses one tensor under two names, as tied weights have it.
    state = {k: v.detach().cpu().to(dtype, copy=True) for k, v in model.state_dict().items()}
    state = {k: v.contiguous() for k, v in state.items()}
    metadata: dict[str, str] = {
        "gelu": model.gelu,
        "norm_eps": json.dumps(model.norm_eps),
        "image_size": json.dumps(model.image_size),
        "patch_size": json.dumps(model.patch_size),
    }
    if model.config:
        metadata["config"] = json.dumps(asdict(model.config))
    replace_file(Path(path), save(state, metadata))


def _exported(model: MlpMixer, layout: str) -> dict[str, Tensor]:
    state = {k: v.detach() for k, v in model.state_dict().items()}
    theirs = to_layout(state, LAYOUTS[layout], model.patch_size)
    return {k: v.clone(memory_format=torch.contiguous_format) for k, v in theirs.items()}


def to_timm_state_dict(model: MlpMixer) -> dict[str, Tensor]:
    """The model's weights under timm's names and shapes, for ``timm``'s ``load_state_dict``.

    A model without a head gives no head entries, like timm's with ``num_classes=0``. Names and
    numbers only: timm's model computes the exact GELU with a LayerNorm epsilon of 1e-6,
    whatever this one does.
    """
    return _exported(model, "timm")


def to_openmmlab_state_dict(model: MlpMixer) -> dict[str, Tensor]:
    """The model's weights as OpenMMLab's ``ImageClassifier`` of an ``MlpMixer`` names them.

    ``torch.save({"meta": {}, "state_dict": to_openmmlab_state_dict(model)}, "mixer.pth")`` makes
    a file of the kind they publish. Their code computes the exact GELU with an epsilon of 1e-5.
    """
    return _exported(model, "openmmlab")


def to_lucidrains_state_dict(model: MlpMixer) -> dict[str, Tensor]:
    """The model's weights as lucidrains' ``mlp-mixer-pytorch`` names and shapes them.

    Its arguments are named the other way round: ``expansion_factor`` is D_S / C and
    ``expansion_factor_token`` D_C / C. It computes the exact GELU with an epsilon of 1e-5.
    """
    return _exported(model, "lucidrains")


def to_google_npz(model: MlpMixer, path: str | Path) -> None:
    """Write the model's weights as the official JAX code keeps them: a flat ``.npz``.

    The official code computes the tanh GELU with a LayerNorm epsilon of 1e-6, and
    :func:`load_checkpoint` takes that for granted of such a file: of a model with
    ``gelu="exact"`` the outputs differ a little there.
    """
    arrays: dict[str, Any] = {k: v.cpu().numpy() for k, v in _exported(model, "google").items()}
    with Path(path).open("wb") as file:  # given a name, NumPy would add .npz to it
        np.savez(file, **arrays)


def from_timm_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names to ours; entries that are already ours pass through."""
    ours = dict(state)
    if "stem.proj.weight" in ours:
        ours["stem.weight"] = ours.pop("stem.proj.weight").flatten(1)
    if "stem.proj.bias" in ours:
        ours["stem.bias"] = ours.pop("stem.proj.bias")
    return ours
