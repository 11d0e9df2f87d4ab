"""Mixer Lite: build MLP-Mixer with einops, load trained weights, see what it learned.

The names in ``__all__`` are the public ones. Modules that draw are imported when they are first
used, so that ``import mixer_lite`` costs little more than ``import torch``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mixer_lite import datasets, explain, filters, images, specs
from mixer_lite.checkpoints import (
    load_checkpoint,
    save_checkpoint,
    to_google_npz,
    to_openmmlab_state_dict,
    to_timm_state_dict,
)
from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer
from mixer_lite.predict import Prediction, predict
from mixer_lite.pretrained import describe_pretrained, list_pretrained, load_pretrained
from mixer_lite.relatives import list_relatives, load_token_mixing
from mixer_lite.specs import ModelConfig, create_model, list_models

if TYPE_CHECKING:
    from mixer_lite import checks as check
    from mixer_lite import figures
    from mixer_lite.explorers.filters import explore_filters
    from mixer_lite.explorers.influence import explore_influence
    from mixer_lite.explorers.patches import explore_patches
    from mixer_lite.explorers.predictions import explore_predictions
    from mixer_lite.explorers.training import explore_training, watch_training

__version__ = "0.1.0"

__all__ = [
    "MixerBlock",
    "MlpBlock",
    "MlpMixer",
    "ModelConfig",
    "Prediction",
    "check",
    "create_model",
    "datasets",
    "describe_pretrained",
    "explain",
    "explore_filters",
    "explore_influence",
    "explore_patches",
    "explore_predictions",
    "explore_training",
    "figures",
    "filters",
    "images",
    "list_models",
    "list_pretrained",
    "list_relatives",
    "load_checkpoint",
    "load_pretrained",
    "load_token_mixing",
    "predict",
    "save_checkpoint",
    "specs",
    "to_google_npz",
    "to_openmmlab_state_dict",
    "to_timm_state_dict",
    "watch_training",
]


def __getattr__(name: str) -> Any:
    if name == "figures":
        return importlib.import_module("mixer_lite.figures")
    if name == "check":
        return importlib.import_module("mixer_lite.checks")
    if name == "explore_filters":
        return importlib.import_module("mixer_lite.explorers.filters").explore_filters
    if name == "explore_influence":
        return importlib.import_module("mixer_lite.explorers.influence").explore_influence
    if name == "explore_patches":
        return importlib.import_module("mixer_lite.explorers.patches").explore_patches
    if name == "explore_predictions":
        return importlib.import_module("mixer_lite.explorers.predictions").explore_predictions
    if name in ("explore_training", "watch_training"):
        return getattr(importlib.import_module("mixer_lite.explorers.training"), name)
    raise AttributeError(f"mixer_lite has no {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
