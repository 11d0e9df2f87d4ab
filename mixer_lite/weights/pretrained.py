"""Names to trained weights: bundled ones first, then a cache, then the network."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mixer_lite._support.files import data_path
from mixer_lite._support.words import did_you_mean
from mixer_lite.datasets.imagenet import imagenet_names
from mixer_lite.model import MlpMixer, ModelConfig
from mixer_lite.specs import count_parameters, spec
from mixer_lite.weights import downloads
from mixer_lite.weights.checkpoints import load_checkpoint, resized_as_there
from mixer_lite.weights.layouts import LAYOUTS
from mixer_lite.weights.relatives import RELATIVES

Origin = Literal["bundled", "timm", "Google", "OpenMMLab"]


# Their weights, cards and checksums lie in data/.
BUNDLED = ("mixer_nano_cifar10", "mixer_grid16_cifar10")


@dataclass(frozen=True)
class Pretrained:
    """What is known about trained weights before they are loaded.

    Attributes:
        name: what :func:`load_pretrained` takes.
        origin: who offers them.
        sizes: arguments of :class:`~mixer_lite.MlpMixer`.
        where: file in ``data/``, repository on the model hub, or address.
        trained_on: data and manner, in a few words.
        source: one sentence: where the weights come from and under what licence.
        mib: size of the file in MiB as published, or None.
        sha256: its checksum or the beginning of it, as published, or empty.
        top1, top5: published accuracy in percent on ImageNet-1k's validation images (bundled
            models: CIFAR-10's test images), or None where none was published.
        measured_by: who published it, or empty.
    """

    name: str
    origin: Origin
    sizes: Mapping[str, int] = field(repr=False)
    where: str
    trained_on: str
    source: str
    mib: float | None = None
    sha256: str = ""
    top1: float | None = None
    top5: float | None = None
    measured_by: str = ""

    @property
    def parameters(self) -> int:
        """Weights and biases, with the head."""
        return count_parameters(**self.sizes)["total"]

    @property
    def megabytes(self) -> float:
        """Size of the file in millions of bytes; four bytes a parameter where not published."""
        if self.origin == "bundled":
            return data_path(self.where).stat().st_size / 1e6
        return self.mib * 2**20 / 1e6 if self.mib else self.parameters * 4 / 1e6

    @property
    def url(self) -> str:
        """Where a browser finds the file; empty for bundled weights."""
        if self.origin == "timm":
            return downloads.on_hub(self.where)
        return "" if self.origin == "bundled" else self.where

    @property
    def here(self) -> Path | None:
        """The file on this machine, or None; no network is asked."""
        if self.origin == "bundled":
            return data_path(self.where)
        if self.origin == "timm":
            return downloads.kept_from_hub(self.where)
        return downloads.kept_from_url(self.where, mib=self.mib)


_FROM_SCRATCH = "ImageNet-1k, from scratch"
_SOURCES = {
    "from scratch": (
        "Google's MLP-Mixer trained from scratch on ImageNet-1k (Apache-2.0), as timm hosts it. "
        "timm's tag says goog_in21k_ft_in1k, but no fine-tuned ImageNet-21k weights were "
        "published: its accuracy is that of the paper's ImageNet row in Table 3."
    ),
    "in21k": "Google's MLP-Mixer trained on ImageNet-21k (Apache-2.0), as timm hosts it.",
    "miil": "Alibaba MIIL's MLP-Mixer trained on ImageNet-21k-P (Apache-2.0), as timm hosts it.",
    "miil 1k": (
        "Alibaba MIIL's MLP-Mixer trained on ImageNet-21k-P (Apache-2.0), as timm hosts it, then "
        "fine-tuned on ImageNet-1k."
    ),
    "openmmlab": (
        "Google's MLP-Mixer trained from scratch on ImageNet-1k, converted by OpenMMLab from "
        "timm's copy (Apache-2.0); OpenMMLab's metafile names B/16's ImageNet-21k file as the "
        "origin of L/16, which cannot be: this file has L/16's sizes and 1000 classes."
    ),
}
_GOOGLE = {
    "imagenet1k": _FROM_SCRATCH,
    "imagenet21k": "ImageNet-21k",
    "sam": "ImageNet-1k, from scratch, with SAM",
    "gsam": "ImageNet-1k, from scratch, with GSAM",
}
_TABLE_3 = "the paper, Table 3"
_TIMM = "timm's results"
_KECAM = "kecam's README"

# timm's names: sizes, classes, trained on, source, top-1, top-5, measured by.
_FROM_TIMM = (
    ("mixer_b16_224.goog_in21k_ft_in1k", 1000, _FROM_SCRATCH, "from scratch", 76.616, 92.25),
    ("mixer_l16_224.goog_in21k_ft_in1k", 1000, _FROM_SCRATCH, "from scratch", 72.084, 87.632),
    ("mixer_b16_224.miil_in21k_ft_in1k", 1000, "ImageNet-21k-P, then 1k", "miil 1k", 82.314, 95.71),
    ("mixer_b16_224.goog_in21k", 21843, "ImageNet-21k", "in21k", None, None),
    ("mixer_l16_224.goog_in21k", 21843, "ImageNet-21k", "in21k", None, None),
    ("mixer_b16_224.miil_in21k", 11221, "ImageNet-21k-P", "miil", None, None),
)  # fmt: skip
# Google's files: folder, model, MiB as its notebook lists them, top-1, measured by.
_GOOGLE_URL = "https://storage.googleapis.com/mixer_models/{folder}/Mixer-{letter}_{patch}.npz"
_FROM_GOOGLE = (
    ("imagenet1k", "b16", 228.47, 76.44, _TABLE_3),
    ("imagenet1k", "l16", 794.29, 71.76, _TABLE_3),
    ("imagenet21k", "b16", 289.61, None, ""),
    ("imagenet21k", "l16", 875.78, None, ""),
    ("sam", "b16", 228.47, 77.36, _KECAM),
    ("sam", "b32", 230.04, 72.47, _KECAM),
    ("gsam", "b16", 228.47, None, ""),
    ("gsam", "b32", 230.04, None, ""),
    ("gsam", "s16", 70.71, None, ""),
    ("gsam", "s32", 72.91, None, ""),
    ("gsam", "s8", 78.79, None, ""),
)
# OpenMMLab's files: model, file, top-1, top-5. The eight digits begin the file's sha256.
_OPENMMLAB_URL = "https://download.openmmlab.com/mmclassification/v0/mlp-mixer/"
_FROM_OPENMMLAB = (
    ("b16", "mixer-base-p16_3rdparty_64xb64_in1k_20211124-1377e3e0.pth", 76.68, 92.25),
    ("l16", "mixer-large-p16_3rdparty_64xb64_in1k_20211124-5a2519d2.pth", 72.34, 88.02),
)


def _sizes(model: str, classes: int) -> dict[str, int]:
    # Of "b16" and the like, at 224 pixels. The paper has no S/8: it is S/16 with finer patches.
    known = "mixer_s16_224" if model == "s8" else f"mixer_{model}_224"
    return {**spec(known), "patch_size": int(model[1:]), "num_classes": classes}


def _published() -> dict[str, Pretrained]:
    # Everything that is not bundled.
    rows = []
    for name, classes, trained_on, source, top1, top5 in _FROM_TIMM:
        rows.append(
            Pretrained(
                name, "timm", _sizes(name[6:9], classes), f"timm/{name}", trained_on,
                _SOURCES[source], top1=top1, top5=top5, measured_by=_TIMM if top1 else "",
            )
        )  # fmt: skip
    for folder, model, mib, top1, by in _FROM_GOOGLE:
        url = _GOOGLE_URL.format(folder=folder, letter=model[0].upper(), patch=model[1:])
        classes, trained_on = 21843 if folder == "imagenet21k" else 1000, _GOOGLE[folder]
        source = f"Google's MLP-Mixer trained on {trained_on}: its own file {url} (Apache-2.0)."
        rows.append(
            Pretrained(
                f"google/mixer_{model}_224.{folder}", "Google", _sizes(model, classes), url,
                trained_on, source, mib=mib, top1=top1, measured_by=by,
            )
        )  # fmt: skip
    for model, file, top1, top5 in _FROM_OPENMMLAB:
        rows.append(
            Pretrained(
                f"openmmlab/mixer_{model}_224.imagenet1k", "OpenMMLab", _sizes(model, 1000),
                _OPENMMLAB_URL + file, _FROM_SCRATCH, _SOURCES["openmmlab"],
                sha256=file[-12:-4], top1=top1, top5=top5, measured_by="OpenMMLab's model zoo",
            )
        )  # fmt: skip
    return {row.name: row for row in rows}


PUBLISHED = _published()


class PretrainedNames(list[str]):
    """Names of trained weights; shown in a notebook, or printed, as a table of what is known.

    The table tells whether the weights are on this machine when it is shown.
    """

    _HEADINGS = ("name", "from", "MB", "here", "trained on", "top-1", "top-5", "measured by")

    def _rows(self) -> list[tuple[str, ...]]:
        rows = []
        for name in self:
            known = describe_pretrained(name)
            top = [f"{x:.2f}" if x is not None else "" for x in (known.top1, known.top5)]
            rows.append((
                name, known.origin, f"{known.megabytes:.0f}", "yes" if known.here else "no",
                known.trained_on, *top, known.measured_by,
            ))  # fmt: skip
        return rows

    def __str__(self) -> str:
        rows = [self._HEADINGS, *self._rows()]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        right = {"MB", "top-1", "top-5"}
        lines = [
            "  ".join(
                cell.rjust(n) if heading in right else cell.ljust(n)
                for cell, n, heading in zip(row, wide, self._HEADINGS, strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def row(cells: tuple[str, ...], tag: str) -> str:
            start = f'<{tag} style="text-align:left">'  # notebooks set all to the right
            return "".join(f"{start}{html.escape(cell)}</{tag}>" for cell in cells)

        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in self._rows())
        head = f"<thead><tr>{row(self._HEADINGS, 'th')}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>"


def list_pretrained(*, bundled_only: bool = False) -> PretrainedNames:
    """Names that :func:`load_pretrained` takes; the bundled ones, which need no network, first.

    A list that shows itself, in a notebook or printed, as a table: who offers the weights, their
    size, whether they are here already, what they were trained on, and their published accuracy.
    :func:`describe_pretrained` tells more of one name.
    """
    return PretrainedNames([*BUNDLED, *([] if bundled_only else PUBLISHED)])


def _with_teacher(card: Mapping[str, Any]) -> str:
    # Beside an accuracy reached with a teacher, the best without one.
    if "teacher" not in card:
        return "CIFAR-10"
    alone = [run["test_accuracy"] for run in card.get("earlier", []) if "teacher" not in run]
    return f"distilled; {100 * max(alone):.2f} without" if alone else "distilled"


def describe_pretrained(name: str) -> Pretrained:
    """What is known about trained weights, without loading them and without a network.

    Raises:
        ValueError: there are no weights of this name.
    """
    if name in BUNDLED:
        card = json.loads(data_path(f"{name}.json").read_text(encoding="utf-8"))
        return Pretrained(
            name, "bundled", spec(name), f"{name}.safetensors", "CIFAR-10",
            f"Trained by this project on CIFAR-10 (MIT): data/{name}.md is its model card.",
            sha256=card["sha256"], top1=100 * card["test_accuracy"],
            measured_by=f"this project, {_with_teacher(card)}",
        )  # fmt: skip
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name in RELATIVES:
        raise ValueError(
            f"{name} is a relative of the Mixer, not a Mixer: load_token_mixing({name!r}) loads "
            f"its token-mixing matrices."
        )
    hint = did_you_mean(name, list_pretrained(), "list_pretrained() lists them.")
    raise ValueError(
        f"There are no trained weights named {name!r}. {hint} "
        f"load_checkpoint(path) opens a file of your own."
    )


def load_pretrained(name: str, *, file: str | Path | None = None) -> MlpMixer:
    """A trained model in evaluation mode, with its preprocessing and class names.

    Bundled weights need no network. The others come from a cache, else they are downloaded once:
    timm's through the model hub's client into its cache (``HF_HOME``), Google's and OpenMMLab's
    by address into ours (``MIXER_LITE_CACHE``). What has a published checksum or size is held to
    it; Google publishes no checksums, so of its files the size and the archive's own are checked.

    Args:
        name: one of :func:`list_pretrained`.
        file: these weights, brought by hand; nothing is downloaded then.

    Raises:
        ValueError: there are no weights of this name, or the file is damaged or another one.
        FileNotFoundError: ``file`` does not exist.
        ConnectionError: the weights are not in a cache and could not be downloaded.
        OSError: there is no room for them, or the cache cannot be written.
    """
    known = describe_pretrained(name)
    path = _file(known, file)
    config = None if known.origin == "bundled" else config_of(known)
    try:
        model = load_checkpoint(path, config=config)
    except ValueError as error:
        if file is not None or known.origin == "bundled":
            raise
        said, real = str(error).rstrip("."), path.resolve()
        if not any(real.is_relative_to(cache.resolve()) for cache in downloads.caches()):
            raise ValueError(
                f"{said}: it is a link out of the cache; remove the link and run this again."
            ) from error
        # In the hub's cache the path is a link: the file itself must go.
        raise ValueError(f"{said}: delete {real} and run this again.") from error
    has = sum(p.numel() for p in model.parameters()), model.num_classes
    if has != (known.parameters, known.sizes["num_classes"]):
        raise ValueError(
            f"{path} is not {name}: it holds {has[0]:,} parameters and {has[1]} classes, not "
            f"{known.parameters:,} and {known.sizes['num_classes']}."
        )
    return model


def _file(known: Pretrained, brought: str | Path | None) -> Path:
    # The file of the weights, checked against what is published about it.
    if brought is not None:
        path = Path(brought).expanduser()
        if path.is_file():
            try:
                downloads.verify(path, mib=known.mib, sha256=known.sha256)
            except downloads.WrongFileError as error:
                raise ValueError(f"{path} is not {known.name}: {error}.") from error
        return path
    if known.origin == "bundled":
        path = data_path(known.where)
        if hashlib.sha256(path.read_bytes()).hexdigest() != known.sha256:
            raise ValueError(
                f"{path} is not the file that came with Mixer Lite (its sha256 differs): "
                f"install the project again."
            )
        return path
    call = f"load_pretrained({known.name!r}, file={known.url.rsplit('/', 1)[-1]!r})"
    if known.origin == "timm":
        mib = known.parameters * 4 / 2**20
        return downloads.from_hub(known.where, mib=mib, name=known.name, call=call)
    return downloads.from_url(
        known.where, mib=known.mib, sha256=known.sha256, name=known.name, call=call
    )


def config_of(known: Pretrained) -> ModelConfig:
    """Preprocessing, class names and source of trained weights, without loading them.

    timm's weights are prepared for as timm does it, Google's as the official code does.
    OpenMMLab's images are resized by OpenCV where it is installed, else by Pillow.

    Raises:
        ValueError: the weights are bundled: their own file tells.
    """
    if known.origin == "bundled":
        raise ValueError(f"The file of {known.name} tells its preprocessing: load it.")
    preprocessing: dict[str, Any] = {}  # by default the official code's
    if known.origin == "timm":
        import timm

        cfg: Any = timm.get_pretrained_cfg(known.name)
        preprocessing = dict(
            mean=tuple(cfg.mean),
            std=tuple(cfg.std),
            interpolation=cfg.interpolation,
            crop=cfg.crop_pct,
        )
    config = ModelConfig(
        name=known.name,
        image_size=known.sizes["image_size"],
        class_names=imagenet_names(known.sizes["num_classes"]),
        source=known.source,
        **preprocessing,
    )
    return resized_as_there(config, LAYOUTS[known.origin.lower()])
