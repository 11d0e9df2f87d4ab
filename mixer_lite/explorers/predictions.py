"""A prediction taken apart: its classes, its patches, its depth; with patches covered or shuffled.

The page draws; the network is asked here, through :mod:`mixer_lite.explain`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import traitlets
from torch import Tensor

from mixer_lite.datasets import cifar10_sample
from mixer_lite.explain import patch_evidence, prediction_by_depth, shuffle_patches
from mixer_lite.explorers.base import HERE, Explorer, packed, page_code
from mixer_lite.images import (
    ImageSource,
    list_photos,
    open_image,
    photo,
    photo_info,
    preprocess,
    unnormalize,
)
from mixer_lite.model import MlpMixer
from mixer_lite.specs import CIFAR10_CLASSES

if TYPE_CHECKING:
    from mixer_lite.drawing import Picture
    from mixer_lite.specs import ModelConfig

FEW = 20  # evidence and depth go to the page for so many classes, and for the chosen one
MOST = 24  # photographs: each costs two passes of the network, and its pixels in the page
CIFAR10_PLACES = (16, 13, 55, 23, 29, 40)  # of the bundled slice, beside the photographs


class PredictionExplorer(Explorer):
    """What :func:`explore_predictions` returns. Its traits are what a reader chooses.

    Attributes:
        image: which photograph, from 0. Another one starts uncovered and in order.
        class_index: whose evidence is shown; ``None``: the most probable class of the
            photograph as it was.
        covered: patches of the photograph, counted row by row, that have the mean colour.
        shuffle: seed of the order of the patches; ``None``: each is in its place. A covered
            patch stays covered where the shuffle puts it.
        overlay: strength of the evidence over the photograph, in percent.
        message: why the last file was not opened, or empty.
    """

    _esm = page_code("predictions")
    _css = Explorer._css + (HERE / "predictions.css").read_text(encoding="utf-8")
    title = "Why this prediction"

    image = traitlets.Int(0).tag(sync=True)
    class_index = traitlets.Int(None, allow_none=True).tag(sync=True)
    covered = traitlets.List(traitlets.Int()).tag(sync=True)
    shuffle = traitlets.Int(None, allow_none=True).tag(sync=True)
    overlay = traitlets.Int(50).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    # What the page draws. _now is empty where a photograph's own entry says it all.
    _name = traitlets.Unicode().tag(sync=True)
    _classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _bias = traitlets.Dict().tag(sync=True)
    _sizes = traitlets.Dict().tag(sync=True)
    _photographs = traitlets.List(traitlets.Dict()).tag(sync=True)
    _now = traitlets.Dict().tag(sync=True)
    _upload = traitlets.Dict().tag(sync=True)

    def __init__(self, model: MlpMixer, config: ModelConfig):
        super().__init__()
        self._network, self._config = model, config
        self._tensors: list[Tensor] = []
        self._name = config.name
        names = config.class_names or [f"class {k}" for k in range(model.num_classes)]
        self._classes = list(names)
        self._head_bias = cast(Tensor, model.head.bias)  # (K,)
        self._bias = packed(self._head_bias)
        mean = unnormalize(torch.zeros(1, 3, 1, 1), config)[0, 0, 0]
        self._sizes = dict(
            grid=list(model.grid_size),
            patch=model.patch_size,
            blocks=model.num_blocks,
            mean=mean.tolist(),
        )

    def add(self, image: ImageSource, label: str) -> int:
        """One more photograph, at the end; what is chosen stays chosen.

        Returns:
            Its index, for ``image``.

        Raises:
            FileNotFoundError, ValueError: as :func:`mixer_lite.images.preprocess`, or there are
                24 photographs already.
        """
        if len(self._tensors) == MOST:
            raise ValueError(f"There are {MOST} photographs already: open another explorer.")
        batch = preprocess(open_image(image), self._config)  # (1, 3, h, w)
        tensor = batch[0].to(self._network.stem.weight)
        entry = self._answer(tensor, [], None)
        pixels = packed(unnormalize(batch, self._config)[0])
        self._tensors.append(tensor)
        self._photographs = [*self._photographs, {**entry, "label": label, "pixels": pixels}]
        return len(self._tensors) - 1

    @property
    def chosen_class(self) -> int:
        """The class whose evidence is shown, also where ``class_index`` is ``None``."""
        if self.class_index is not None:
            return self.class_index
        return self._photographs[self.image]["top"]

    @property
    def input(self) -> Tensor:
        """What the model sees now, ``(3, h, w)``: patches covered, then shuffled."""
        p, (_, gw) = self._network.patch_size, self._network.grid_size
        image = self._tensors[self.image].clone()
        for patch in self.covered:
            row, column = patch // gw * p, patch % gw * p
            image[:, row : row + p, column : column + p] = 0  # after preprocessing: the mean
        return shuffle_patches(image, p, patch_order=self.order)

    @property
    def order(self) -> Tensor:
        """Which patch stands at each place: ``(S,)``."""
        s = self._network.num_tokens
        if self.shuffle is None:
            return torch.arange(s)
        return torch.randperm(s, generator=torch.Generator().manual_seed(self.shuffle))

    def _answer(self, image: Tensor, also: list[int], chosen: int | None) -> dict[str, Any]:
        # What the network makes of an image; evidence and depth of the likely classes and others.
        evidence = patch_evidence(self._network, image)  # (K, gh, gw)
        depth = prediction_by_depth(self._network, image)  # (L + 1, K)
        probabilities = depth.softmax(dim=1)
        ranked = depth[-1].argsort(descending=True)
        likely = ranked[:FEW].tolist()
        extra = [] if chosen is None else [chosen]
        listed = sorted({*likely, *also, *extra})
        return dict(
            top=likely[0],
            classes=listed,
            evidence=packed(evidence[listed]),
            logits=packed(depth[-1]),
            probabilities=packed(probabilities[-1]),
            depth=packed(probabilities[:, listed]),
        )

    @traitlets.validate("image", "class_index", "overlay")
    def _in_range(self, proposal: Any) -> int | None:
        name, value = proposal.trait.name, proposal.value
        ends = {"image": len(self._tensors) - 1, "class_index": len(self._classes) - 1}
        end = ends.get(name, 100)
        if value is not None and not 0 <= value <= end:
            raise traitlets.TraitError(f"{name} must be from 0 to {end}, not {value}.")
        return value

    @traitlets.validate("covered")
    def _patches(self, proposal: Any) -> list[int]:
        patches, last = sorted(set(proposal.value)), self._network.num_tokens - 1
        wrong = [k for k in patches if not 0 <= k <= last]
        if wrong:
            raise traitlets.TraitError(f"A covered patch is from 0 to {last}, not {wrong[0]}.")
        return patches

    @traitlets.validate("shuffle")
    def _seed(self, proposal: Any) -> int | None:
        if proposal.value is not None and not 0 <= proposal.value < 2**31:
            raise traitlets.TraitError(
                f"shuffle must be a seed from 0 to {2**31 - 1}, or None, not {proposal.value}."
            )
        return proposal.value

    @traitlets.observe("image")
    def _start_afresh(self, _: Any) -> None:
        with self.hold_trait_notifications():
            self.covered, self.shuffle = [], None
        self._update()

    @traitlets.observe("covered", "shuffle", "class_index")
    def _update(self, _: Any = None) -> None:
        base = self._photographs[self.image]
        state = dict(image=self.image, covered=self.covered, shuffle=self.shuffle)
        changed = bool(self.covered) or self.shuffle is not None
        if not changed and self.chosen_class in base["classes"]:
            self._now = {}
            return
        known = {k: self._now.get(k) for k in state} == state
        if known and self.chosen_class in self._now["classes"]:
            return
        answer = self._answer(self.input, base["classes"], self.chosen_class)
        self._now = {**state, "order": packed(self.order), **answer}

    @traitlets.observe("_upload")
    def _open(self, change: Any) -> None:
        if not change.new:
            return
        name = str(change.new.get("name", "the file"))
        file = io.BytesIO(bytes(change.new.get("data", b"")))
        file.name = name
        try:
            self.image = self.add(file, Path(name).stem[:40] or "your photograph")
            self.message = ""
        except ValueError as error:
            self.message = str(error)
        self._upload = {}  # the file's bytes are not kept

    def figure(self) -> Picture:
        """The picture of what is chosen now: photograph, evidence, classes, depth."""
        from mixer_lite.figures_learned import plot_evidence

        network, image = self._network, self.input
        logits = prediction_by_depth(network, image)[-1]
        likely = logits.argsort(descending=True).tolist()
        classes = [self.chosen_class, *(k for k in likely if k != self.chosen_class)][:2]
        said = logits.softmax(dim=0)
        answer = ", ".join(f"{self._classes[k]} {said[k]:.0%}" for k in likely[:3])
        return plot_evidence(
            unnormalize(image[None], self._config)[0],
            patch_evidence(network, image)[classes],
            self._head_bias[classes],
            [self._classes[k] for k in classes],
            title=f"Photograph “{self._photographs[self.image]['label']}”: {answer}",
        )


def _bundled(config: ModelConfig) -> tuple[list[ImageSource], list[str]]:
    # Photographs of the model's own classes; for CIFAR-10 also pictures as it was trained on.
    if config.class_names == CIFAR10_CLASSES:
        names = [name for name in list_photos() if photo_info(name).cifar10]
        images, labels = cifar10_sample()
        tests = [images[k] for k in CIFAR10_PLACES]
        said = [CIFAR10_CLASSES[labels[k]] for k in CIFAR10_PLACES]
        return [*map(photo, names), *tests], [*names, *said]
    names = [name for name in list_photos() if photo_info(name).imagenet]
    return list(map(photo, names)), names


def _label(image: ImageSource, number: int) -> str:
    return Path(image).stem if isinstance(image, (str, Path)) else f"photograph {number}"


def explore_predictions(
    model: MlpMixer,
    images: ImageSource | Sequence[ImageSource] | None = None,
    *,
    labels: Sequence[str] | None = None,
) -> PredictionExplorer:
    """Take predictions apart: which classes, which patches, after which block; and interfere.

    The page shows the most probable classes, the exact evidence of every patch for a class
    (:func:`mixer_lite.explain.patch_evidence`) over the photograph, and the prediction after each
    block (:func:`mixer_lite.explain.prediction_by_depth`). A reader may cover patches with the
    mean colour, shuffle them, or open a photograph of their own.

    Args:
        model: a loaded model; its ``config`` says how to prepare images and names the classes.
        images: what :func:`mixer_lite.images.open_image` takes, or a list, an array
            ``(n, h, w, 3)`` or a tensor ``(n, 3, h, w)`` of up to 24. ``None``: bundled
            photographs.
        labels: a name for each image.

    Raises:
        FileNotFoundError, ValueError: an image cannot be opened, there are none or more than 24,
            not as many labels as images, or the model has no head, no preprocessing or does not
            take square pictures in three colours.
    """
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it predicts nothing.")
    config = model.config
    if config is None:
        raise ValueError(
            "This model does not know how its images were prepared: set model.config to a "
            "mixer_lite.specs.ModelConfig, or load it with load_pretrained or load_checkpoint."
        )
    if (model.in_channels, *model.image_size) != (3, config.image_size, config.image_size):
        raise ValueError(
            f"The model takes {model.in_channels} x {model.image_size[0]} x "
            f"{model.image_size[1]} numbers, but its config prepares photographs of 3 x "
            f"{config.image_size} x {config.image_size}: they must agree."
        )
    if images is None:
        several, names = _bundled(config)
    else:
        many = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
        several = list(images) if many else [images]  # type: ignore[arg-type, list-item]
        names = [_label(image, n) for n, image in enumerate(several, start=1)]
    if labels is not None:
        names = [str(label) for label in labels]
    if not 1 <= len(several) <= MOST:
        raise ValueError(f"Give from 1 to {MOST} images, not {len(several)}.")
    if len(names) != len(several):
        raise ValueError(f"{len(several)} images need as many labels, not {len(names)}.")
    explorer = PredictionExplorer(model, config)
    for image, name in zip(several, names, strict=True):
        explorer.add(image, name)
    return explorer
