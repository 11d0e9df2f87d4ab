"""The models by name: Table 1 of the paper under timm's names, and the course's small ones.

Plain data. ``ModelConfig`` is what a trained model carries besides its weights.
"""

from __future__ import annotations

import math
from typing import Any

from mixer_lite._support.words import did_you_mean
from mixer_lite.model import MlpMixer, grid_of
from mixer_lite.model import ModelConfig as ModelConfig


def _table1(patch_size: int, num_blocks: int, hidden_dim: int) -> dict[str, int]:
    # Every column of Table 1 has D_S = C / 2 and D_C = 4 C, at 224 pixels.
    return dict(
        image_size=224,
        patch_size=patch_size,
        num_classes=1000,
        num_blocks=num_blocks,
        hidden_dim=hidden_dim,
        tokens_mlp_dim=hidden_dim // 2,
        channels_mlp_dim=hidden_dim * 4,
    )


def _cifar10(patch_size: int, num_blocks: int, hidden_dim: int, **widths: int) -> dict[str, int]:
    return dict(
        image_size=32,
        patch_size=patch_size,
        num_classes=10,
        num_blocks=num_blocks,
        hidden_dim=hidden_dim,
        **widths,
    )


CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# Constructor arguments of MlpMixer by model name. timm has no H/14 and no small ones.
SPECS: dict[str, dict[str, int]] = {
    "mixer_s32_224": _table1(32, 8, 512),
    "mixer_s16_224": _table1(16, 8, 512),
    "mixer_b32_224": _table1(32, 12, 768),
    "mixer_b16_224": _table1(16, 12, 768),
    "mixer_l32_224": _table1(32, 24, 1024),
    "mixer_l16_224": _table1(16, 24, 1024),
    "mixer_h14_224": _table1(14, 32, 1280),
    # For 32-pixel images, in the paper's proportions D_S = C / 2 and D_C = 4 C: an 8 x 8 grid.
    "mixer_nano_cifar10": _cifar10(4, 8, 128, tokens_mlp_dim=64, channels_mlp_dim=512),
    # Patches of 2 x 2 pixels: a 16 x 16 grid, finer than B/16's, for looking at filters.
    "mixer_grid16_cifar10": _cifar10(2, 6, 96, tokens_mlp_dim=128, channels_mlp_dim=288),
    # Small enough to train while a lesson lasts; the first in five minutes on two cores.
    "mixer_femto_cifar10": _cifar10(4, 4, 96, tokens_mlp_dim=48, channels_mlp_dim=192),
    "mixer_pico_cifar10": _cifar10(4, 4, 128, tokens_mlp_dim=64, channels_mlp_dim=256),
}


def list_models() -> list[str]:
    """Names that :func:`create_model` takes."""
    return list(SPECS)


def spec(name: str) -> dict[str, int]:
    """Constructor arguments of a named model, as a copy.

    Raises:
        ValueError: there is no model of this name; the nearest names are suggested.
    """
    if name not in SPECS:
        hint = did_you_mean(name, SPECS, f"Choose from {', '.join(SPECS)}.")
        raise ValueError(f"There is no model named {name!r}. {hint}")
    return dict(SPECS[name])


def create_model(name: str, **overrides: Any) -> MlpMixer:
    """A model of a known shape with random weights.

    Args:
        name: one of :func:`list_models`.
        overrides: arguments of :class:`MlpMixer` that replace the named model's own,
            for example ``num_classes=10`` or ``image_size=448``.

    Raises:
        ValueError: unknown name, or a configuration that :class:`MlpMixer` refuses.
    """
    model = MlpMixer(**{**spec(name), **overrides})
    if model.image_size[0] == model.image_size[1]:
        cifar = name.endswith("cifar10")
        names = CIFAR10_CLASSES if cifar and model.num_classes == 10 else ()
        model.config = ModelConfig(
            name=name,
            image_size=model.image_size[0],
            class_names=names,
            crop=1.0 if cifar else 0.875,
        )
    return model


# What a model's shape and arithmetic are made of: all arguments of MlpMixer.
ARGUMENTS = (
    "image_size", "patch_size", "num_classes", "num_blocks", "hidden_dim", "tokens_mlp_dim",
    "channels_mlp_dim", "in_channels", "gelu", "norm_eps",
)  # fmt: skip


def arguments_of(model: MlpMixer) -> dict[str, Any]:
    """What makes a model like this one: ``MlpMixer(**arguments_of(model))``."""
    return {name: getattr(model, name) for name in ARGUMENTS}


def count_parameters(
    *,
    image_size: int | tuple[int, int],
    patch_size: int,
    num_classes: int,
    num_blocks: int,
    hidden_dim: int,
    tokens_mlp_dim: int,
    channels_mlp_dim: int,
    in_channels: int = 3,
) -> dict[str, int]:
    """Weights and biases of a Mixer by part, from its sizes alone; nothing is built.

    Table 1 of the paper counts without the head: pass ``num_classes=0`` for its figures. The
    OpenMMLab and timm figures (59.88 M for B/16) include a head of 1000 classes.

    Returns:
        ``stem``, ``token mixing``, ``channel mixing``, ``norms``, ``head`` and their ``total``.

    Raises:
        ValueError: P does not divide the image.
    """
    s, c = math.prod(grid_of(image_size, patch_size)), hidden_dim
    parts = {
        "stem": in_channels * patch_size**2 * c + c,
        # Two matrices and two biases a block: D_S x S and S x D_S, D_S and S.
        "token mixing": num_blocks * (2 * s * tokens_mlp_dim + tokens_mlp_dim + s),
        "channel mixing": num_blocks * (2 * c * channels_mlp_dim + channels_mlp_dim + c),
        # A scale and a shift of C each: two norms a block and one after the last.
        "norms": (2 * num_blocks + 1) * 2 * c,
        "head": c * num_classes + num_classes,
    }
    return parts | {"total": sum(parts.values())}


def count_macs(
    *,
    image_size: int | tuple[int, int],
    patch_size: int,
    num_classes: int,
    num_blocks: int,
    hidden_dim: int,
    tokens_mlp_dim: int,
    channels_mlp_dim: int,
    in_channels: int = 3,
) -> dict[str, int]:
    """Multiply-accumulates of one image's matrix products, by part: 12.60 G for B/16.

    One multiply-accumulate is two floating-point operations. Biases, GELU, LayerNorm, skip
    connections and the mean are left out, as is usual: they are about 1 % of the work.

    Returns:
        ``stem``, ``token mixing``, ``channel mixing``, ``head`` and their ``total``.

    Raises:
        ValueError: P does not divide the image.
    """
    s, c = math.prod(grid_of(image_size, patch_size)), hidden_dim
    parts = {
        "stem": s * in_channels * patch_size**2 * c,
        "token mixing": num_blocks * 2 * c * s * tokens_mlp_dim,
        "channel mixing": num_blocks * 2 * s * c * channels_mlp_dim,
        "head": c * num_classes,
    }
    return parts | {"total": sum(parts.values())}


def count_openmmlab_flops(**config: Any) -> dict[str, int]:
    """What OpenMMLab's counter calls FLOPs, by part: the published 12.61 G for B/16.

    mmcv's ``get_model_complexity_info``, run on the backbone with pooling, counts the
    multiply-accumulates of stem and MLPs (not the head), one operation per output of the stem
    for its bias, one per number averaged by the mean, and two per number in every LayerNorm;
    biases of the MLPs, GELU and skip connections count nothing.

    Args:
        config: as for :func:`count_macs`.

    Returns:
        ``stem``, ``token mixing``, ``channel mixing``, ``stem bias``, ``norms``, ``mean`` and
        their ``total``.

    Raises:
        ValueError: P does not divide the image.
    """
    macs = count_macs(**config)
    tokens = math.prod(grid_of(config["image_size"], config["patch_size"]))
    table = tokens * config["hidden_dim"]  # S * C
    parts = {name: macs[name] for name in ("stem", "token mixing", "channel mixing")} | {
        "stem bias": table,
        "norms": (2 * config["num_blocks"] + 1) * 2 * table,
        "mean": table,
    }
    return parts | {"total": sum(parts.values())}
