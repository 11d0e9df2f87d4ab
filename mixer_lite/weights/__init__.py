"""Weights on files: names, downloads and the layouts of other projects, turned into models."""

from mixer_lite.weights.checkpoints import (
    load_checkpoint,
    save_checkpoint,
    to_google_npz,
    to_lucidrains_state_dict,
    to_openmmlab_state_dict,
    to_timm_state_dict,
)
from mixer_lite.weights.pretrained import describe_pretrained, list_pretrained, load_pretrained
from mixer_lite.weights.relatives import list_relatives, load_token_mixing

__all__ = [
    "describe_pretrained",
    "list_pretrained",
    "list_relatives",
    "load_checkpoint",
    "load_pretrained",
    "load_token_mixing",
    "save_checkpoint",
    "to_google_npz",
    "to_lucidrains_state_dict",
    "to_openmmlab_state_dict",
    "to_timm_state_dict",
]
