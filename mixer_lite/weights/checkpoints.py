"""Checkpoint files to our models and back, exactly, in the layout of any project.

``files`` reads a file safely, ``layouts`` knows each project's names and shapes; here they
meet the model, with the activation, LayerNorm epsilon and preprocessing that the source used.
"""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_lite._support.files import replaced
from mixer_lite._support.words import foreign, listed
from mixer_lite.datasets.imagenet import imagenet_names
from mixer_lite.model import MlpMixer, ModelConfig
from mixer_lite.weights.files import read_file
from mixer_lite.weights.layouts import (
    LAYOUTS,
    Layout,
    from_layout,
    meta_model,
    read_arguments,
    recognise,
    to_layout,
    without_prefix,
)

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

MAX_SIDE, MAX_NUMBERS = 4096, 2**25  # Mixer-H/14 has 448 pixels, and makes 5 million numbers
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def load_checkpoint(
    path: str | Path,
    *,
    config: ModelConfig | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
) -> MlpMixer:
    """A model from a file of any Mixer's weights, in evaluation mode.

    The file may be safetensors, PyTorch's (today's or the older kind) or NumPy's ``.npz``, in the
    layout of timm, Google, OpenMMLab, lucidrains or our own, wrapped by a training script or not,
    with or without a head; of a larger model the one Mixer in it is taken, and a warning names the
    rest. All is recognised by content. GELU, LayerNorm epsilon and preprocessing are the source's:

    ========== ===== ===== ================================================================
    layout     GELU  eps   preprocessing
    ========== ===== ===== ================================================================
    timm       exact 1e-6  mean and std 0.5, bicubic, crop 0.875; with MIIL's head of 11221
                           classes mean 0, std 1, bilinear
    Google     tanh  1e-6  mean and std 0.5, bicubic, crop 0.875
    OpenMMLab  exact 1e-5  the same, resized by OpenCV where it is installed
    lucidrains exact 1e-5  mean and std 0.5, bicubic, crop 0.875
    ========== ===== ===== ================================================================

    Of ours they are what :func:`save_checkpoint` wrote; without it, timm's. MIIL's ImageNet-1k
    weights look like others of timm's layout: give their ``config``. Weights become float32; the
    peak of memory is little more than the weights.

    Args:
        path: the file.
        config: preprocessing and class names, in place of those above.
        image_size: height and width in pixels, or the side of a square; by default a square,
            because files tell the number of tokens alone.
        patch_size, in_channels: where the file tells their product alone; by default RGB where
            it fits, else grey.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or unsafe; its weights are not a Mixer's, do not fit
            together, or are no finite floating-point numbers; says which.
    """
    given: dict[str, Any] = dict(
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        patch_size=patch_size, in_channels=in_channels,
    )  # fmt: skip
    given = {k: v for k, v in given.items() if v is not None}
    state, metadata = read_file(path)
    try:
        state, outside = without_prefix(state)
        model = _built(Path(path), state, metadata, config, given)
    except ValueError as error:
        raise ValueError(f"{foreign(path, 300)}: {error}") from error
    if outside:
        warnings.warn(
            f"{foreign(path, 300)}: ignored, because it lies outside of the Mixer: "
            f"{listed(outside, 10)}",
            stacklevel=2,
        )
    return model.eval()


def _built(
    path: Path,
    state: dict[str, Tensor],
    metadata: Mapping[str, str],
    config: ModelConfig | None,
    given: dict[str, Any],
) -> MlpMixer:
    # Without a config, the preprocessing is known for square images only.
    layout = recognise(state)
    saved = _saved(metadata if layout is LAYOUTS["mixer_lite"] else {})
    hints = {k: saved[k] for k in ("image_size", "patch_size") if k in saved} | given
    arguments = read_arguments(state, **hints)
    _check_work(**arguments)
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS:
            raise ValueError(
                f"{foreign(name)} is of type {str(tensor.dtype).removeprefix('torch.')}: "
                f"weights are float32, float64, float16 or bfloat16."
            )
    gelu, norm_eps = saved.get("gelu", layout.gelu), saved.get("norm_eps", layout.norm_eps)
    model = meta_model(**arguments, gelu=gelu, norm_eps=norm_eps)
    storages: set[int] = set()
    weights = {
        name: as_own_float32(theirs, tensor, storages)
        for name, theirs, tensor in from_layout(state, model, layout)
    }
    model.load_state_dict(weights, assign=True)
    if config is None and model.grid_size[0] == model.grid_size[1]:
        config = _config(path, model, layout, saved.get("config"))
        if "image_size" not in hints:
            config = replace(config, source=f"{config.source}; grid assumed square")
        if not layout.tells_channels and not {"patch_size", "in_channels"} & hints.keys():
            seen = {3: "RGB", 1: "grey"}.get(model.in_channels, f"{model.in_channels} channels")
            config = replace(config, source=f"{config.source}, {seen} images assumed")
    model.config = config
    return model


def _check_work(
    *, image_size: int | tuple[int, int], patch_size: int, hidden_dim: int, tokens_mlp_dim: int,
    channels_mlp_dim: int, **_: int,
) -> None:  # fmt: skip
    # Refuses an image of too much work: few weights can stand for many tokens.
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    tokens = (height // patch_size) * (width // patch_size)
    most = max(
        tokens * hidden_dim, hidden_dim * tokens_mlp_dim, tokens * channels_mlp_dim
    )  # of the numbers that a layer gives
    if max(height, width) > MAX_SIDE or most > MAX_NUMBERS:
        raise ValueError(
            f"These weights are for images of {height:,} x {width:,} pixels, of which a layer "
            f"makes {most:,} numbers: more than any Mixer's ({MAX_SIDE:,} pixels a side, "
            f"{MAX_NUMBERS:,} numbers)."
        )


def as_own_float32(name: str, tensor: Tensor, storages: set[int]) -> Tensor:
    """The weight as float32, dense, in its own memory: two that share it could not train."""
    weight = tensor.float().contiguous()
    storage = weight.untyped_storage()
    if storage.nbytes() != weight.nbytes or storage.data_ptr() in storages:
        weight = weight.clone()
    storages.add(weight.untyped_storage().data_ptr())
    # Finite numbers nearly always have a finite sum, which is cheaper to check.
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
    return resized_as_there(config, layout)


def resized_as_there(config: ModelConfig, layout: Layout) -> ModelConfig:
    """Preprocessing with the library that resizes images in a layout's project, if it is here."""
    if layout.resize == "pillow":
        return config
    if importlib.util.find_spec("cv2"):
        return replace(config, resize="opencv", upright=True)
    told = config.source.rstrip(".")
    return replace(
        config,
        source=f"{told}; OpenCV, which resizes images there, is not installed: Pillow does it a "
        f"little differently (pip install opencv-python-headless).",
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
        "crop": lambda v: isinstance(v, int | float) and 0.1 <= v <= 1,
        "resize": lambda v: v in ("pillow", "opencv"),
        "class_names": lambda v: (
            isinstance(v, list)
            and all(isinstance(x, str) for x in v)
            and len(v) in (0, model.num_classes)
        ),
        "source": lambda v: isinstance(v, str),
        "upright": lambda v: isinstance(v, bool),
        "temperature": lambda v: isinstance(v, int | float) and 0 < v < 1e6,
    }
    known: dict[str, Any] = {k: v for k, v in saved.items() if k in checks}
    for key, value in known.items():
        if not checks[key](value):
            raise ValueError(f"its metadata is damaged: {key} of its config is {value!r:.60}.")
    if not {"name", "image_size"} <= known.keys():
        raise ValueError("its metadata is damaged: its config lacks name or image_size.")
    # Names go into tables, figures and terminals: keep them on one line.
    long = {"source": 200}  # a whole sentence
    known = {k: foreign(v, long.get(k, 150)) if isinstance(v, str) else v for k, v in known.items()}
    known["class_names"] = list(map(foreign, known.get("class_names", [])))
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
    with replaced(path) as file:
        file.write(save(state, metadata))


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
    with replaced(path) as file:
        np.savez(file, **arrays)


def from_timm_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names to ours; entries that are already ours pass through."""
    ours = dict(state)
    if "stem.proj.weight" in ours:
        ours["stem.weight"] = ours.pop("stem.proj.weight").flatten(1)
    if "stem.proj.bias" in ours:
        ours["stem.bias"] = ours.pop("stem.proj.bias")
    return ours
