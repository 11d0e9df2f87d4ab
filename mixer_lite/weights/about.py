"""What is known of a model by its name or file: sizes, counts, preprocessing, where it comes from.

Nothing is downloaded, and only a file's own weights are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mixer_lite._support.words import did_you_mean
from mixer_lite.model import Gelu, MlpMixer, ModelConfig
from mixer_lite.specs import (
    arguments_of,
    count_macs,
    count_openmmlab_flops,
    count_parameters,
    create_model,
    list_models,
)
from mixer_lite.weights.checkpoints import load_checkpoint
from mixer_lite.weights.layouts import LAYOUTS
from mixer_lite.weights.pretrained import (
    config_of,
    describe_pretrained,
    list_pretrained,
    load_pretrained,
)
from mixer_lite.weights.relatives import list_relatives

NOT_PUBLISHED = "no accuracy is known"


@dataclass(frozen=True)
class About:
    """A model as it would be loaded.

    Attributes:
        name: as it was asked for.
        sizes: arguments of :class:`~mixer_lite.MlpMixer`.
        gelu, norm_eps: as for :class:`~mixer_lite.MlpMixer`.
        config: preprocessing and source.
        weights: one phrase: where the weights lie, or what it takes to get them.
        trained: whether there are any.
        top1, top5: published accuracy in percent, or None.
        measured_by: who published it, or empty.
    """

    name: str
    sizes: Mapping[str, Any]
    gelu: Gelu
    norm_eps: float
    config: ModelConfig
    weights: str
    trained: bool = True
    top1: float | None = None
    top5: float | None = None
    measured_by: str = ""

    @property
    def published(self) -> str:
        """The published accuracy in words."""
        tops = (("top-1", self.top1), ("top-5", self.top5))
        known = ", ".join(f"{name} {percent:g}%" for name, percent in tops if percent is not None)
        return f"{known} ({self.measured_by})" if known else NOT_PUBLISHED


def weights_file(name: str | Path) -> Path | None:
    """The file of weights that a path means, of the file itself or of a run's folder, or None.

    Raises:
        ValueError: a folder that holds no finished run, and has no name of trained weights.
    """
    path = Path(name).expanduser()
    if path.is_dir() and (path / "weights.safetensors").is_file():
        return path / "weights.safetensors"
    if path.is_dir() and str(name) not in [*list_pretrained(), *list_models()]:
        raise ValueError(
            f"{path} is a folder without weights.safetensors, which a run writes at its end: give "
            f"a file of weights, or the folder of a finished run."
        )
    return path if path.is_file() else None


def about(name: str | Path) -> About:
    """What is known of a model: of a file of weights, trained weights by name, or a named shape.

    Raises:
        ValueError: there is neither; the nearest names are suggested. Or the file is refused by
            :func:`~mixer_lite.load_checkpoint`.
    """
    path = weights_file(name)
    if path is not None:
        return _of_model(str(name), load_checkpoint(path), f"the file {path}")
    name = str(name)
    if name in list_pretrained():
        known = describe_pretrained(name)
        config = load_pretrained(name).config if known.origin == "bundled" else config_of(known)
        assert config is not None
        if known.origin == "bundled":
            weights = "bundled: no network needed"
        elif known.here:
            weights = f"on this machine, {known.here}"
        else:
            weights = f"not on this machine: {known.megabytes:.0f} MB to download, once"
        layout = LAYOUTS["mixer_lite" if known.origin == "bundled" else known.origin.lower()]
        return About(
            name, known.sizes, layout.gelu, layout.norm_eps, config, weights, True,
            known.top1, known.top5, known.measured_by,
        )  # fmt: skip
    if name in list_models():
        with torch.device("meta"):  # shapes without memory
            model = create_model(name)
        weights = "none: create_model draws them at random"
        return replace(_of_model(name, model, weights), trained=False)
    if name in list_relatives():
        describe_pretrained(name)  # says what it is instead
    names = dict.fromkeys([*list_pretrained(), *list_models()])  # some are both
    hint = did_you_mean(name, names, "mixer-lite models lists the names.")
    raise ValueError(f"There is no model and no file {name!r}. {hint}")


def _of_model(name: str, model: MlpMixer, weights: str) -> About:
    height, width = model.image_size
    config = model.config or ModelConfig(name, max(height, width), source=f"the file {name}")
    sizes = arguments_of(model) | {"image_size": height if height == width else model.image_size}
    gelu, norm_eps = sizes.pop("gelu"), sizes.pop("norm_eps")
    return About(name, sizes, gelu, norm_eps, config, weights)


def as_table(known: About) -> list[tuple[str, str]]:
    """Headings and contents of what ``mixer-lite info`` prints, counted from the sizes."""
    sizes, config = dict(known.sizes), known.config
    size, patch, classes = sizes["image_size"], sizes["patch_size"], sizes["num_classes"]
    height, width = size if isinstance(size, tuple) else (size, size)
    gh, gw = height // patch, width // patch
    whole = count_parameters(**sizes)["total"]
    bare = count_parameters(**sizes | {"num_classes": 0})["total"]
    macs, openmmlab = count_macs(**sizes)["total"], count_openmmlab_flops(**sizes)["total"]
    library = {"pillow": "Pillow", "opencv": "OpenCV"}[config.resize]
    mean, std = (" ".join(f"{x:g}" for x in row) for row in (config.mean, config.std))
    return [
        ("image", f"{height} x {width} pixels, {classes or 'no'} classes"),
        (
            "shape",
            f"P {patch}, S {gh * gw} ({gh} x {gw}), "
            f"C {sizes['hidden_dim']}, D_S {sizes['tokens_mlp_dim']}, "
            f"D_C {sizes['channels_mlp_dim']}, {sizes['num_blocks']} blocks",
        ),
        ("parameters", f"{_short(whole, 6)} M ({whole:,}){' with the head' if classes else ''}"),
        ("", f"{_short(bare, 6)} M ({bare:,}) without the head, as the paper counts them"),
        (
            "operations",
            f"{_short(macs, 9)} G multiply-accumulates in matrix products alone"
            f"{', with the head' if classes else ''}",
        ),
        (
            "",
            f"{_short(openmmlab, 9)} G as OpenMMLab counts: without the head, with the stem's "
            f"bias, the LayerNorms and the mean",
        ),
        ("GELU", {"exact": "exact", "tanh": "tanh approximation"}[known.gelu]),
        ("LayerNorm", f"epsilon {known.norm_eps:g}"),
        (
            "images",
            "how they are prepared is not known"
            if height != width
            else f"shorter side to {math.floor(config.image_size / config.crop)} pixels "
            f"({library}, {config.interpolation}), centre {config.image_size} x "
            f"{config.image_size}, 0..1, minus {mean}, divided by {std}",
        ),
        ("published", known.published),
        ("source", config.source),
        ("weights", known.weights),
    ]


def _short(count: int, power: int) -> str:
    """Four digits, as the published tables print them."""
    return f"{count / 10**power:#.4g}".rstrip(".")
