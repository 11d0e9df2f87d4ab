"""Mixer Lite: build MLP-Mixer with einops, load trained weights, see what it learned.

The names in ``__all__`` are the public ones. A module is imported when one of its names is first
used, so that ``import mixer_lite`` costs little more than ``import torch``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch as torch  # what everything here needs, loaded with the package

if TYPE_CHECKING:
    from mixer_lite import (
        check,
        datasets,
        explain,
        figures,
        filters,
        images,
        specs,
    )
    from mixer_lite.explorers import (
        explore_filters,
        explore_influence,
        explore_mixer,
        explore_patches,
        explore_predictions,
        explore_training,
        watch_training,
    )
    from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer, ModelConfig
    from mixer_lite.prediction import Prediction, predict
    from mixer_lite.specs import create_model, list_models
    from mixer_lite.weights import (
        describe_pretrained,
        list_pretrained,
        list_relatives,
        load_checkpoint,
        load_pretrained,
        load_token_mixing,
        save_checkpoint,
        to_google_npz,
        to_openmmlab_state_dict,
        to_timm_state_dict,
    )

__version__ = "0.1.0"

# Where each public name lives; a module that is one itself stands for itself.
_MODULES = {
    "MixerBlock": "model",
    "MlpBlock": "model",
    "MlpMixer": "model",
    "ModelConfig": "model",
    "Prediction": "prediction",
    "check": "check",
    "create_model": "specs",
    "datasets": "datasets",
    "describe_pretrained": "weights",
    "explain": "explain",
    "explore_filters": "explorers",
    "explore_influence": "explorers",
    "explore_mixer": "explorers",
    "explore_patches": "explorers",
    "explore_predictions": "explorers",
    "explore_training": "explorers",
    "figures": "figures",
    "filters": "filters",
    "images": "images",
    "list_models": "specs",
    "list_pretrained": "weights",
    "list_relatives": "weights",
    "load_checkpoint": "weights",
    "load_pretrained": "weights",
    "load_token_mixing": "weights",
    "predict": "prediction",
    "save_checkpoint": "weights",
    "specs": "specs",
    "to_google_npz": "weights",
    "to_openmmlab_state_dict": "weights",
    "to_timm_state_dict": "weights",
    "watch_training": "explorers",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"mixer_lite has no {name!r}")
    module = importlib.import_module(f"mixer_lite.{_MODULES[name]}")
    return module if name == _MODULES[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
