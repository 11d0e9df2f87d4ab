"""A prediction taken apart: its classes, its patches, its depth; with patches covered or shuffled.

The page draws; the network is asked here, through :mod:`mixer_lite.explain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import traitlets
from torch import Tensor

from mixer_lite.explain import average, patch_evidence, prediction_by_depth, shuffle_patches
from mixer_lite.explorers.base import (
    answering_code,
    in_range,
    notebook_code,
    packed,
    page_code,
    page_style,
)
from mixer_lite.explorers.photographs import Photographs
from mixer_lite.images import ImageSource, unnormalize
from mixer_lite.model import MlpMixer
from mixer_lite.prediction import class_names, probabilities

if TYPE_CHECKING:
    from mixer_lite.figures.drawing import Picture

FEW = 20  # evidence and depth go to the page for so many classes, and for the chosen one


class PredictionExplorer(Photographs):
    """What :func:`explore_predictions` returns. Its traits are what a reader chooses.

    Attributes:
        image: which photograph, from 0. Another one starts uncovered and in order.
        class_index: whose evidence is shown; ``None``: the most probable class of the
            photograph as it was.
        shows: of the patches: ``"deviation"``, the evidence less its mean; ``"difference"``, that
            for the class less that for another; ``"evidence"``, as it is.
        rather_than: the other class of a difference; ``None``: the most probable other one.
        one_scale: colours on one scale for all classes of a photograph, instead of each map on
            its own.
        covered: patches of the photograph, counted row by row, that have the mean colour.
        shuffle: seed of the order of the patches; ``None``: each is in its place. A covered
            patch stays covered where the shuffle puts it.
        averaged: the mean over all photographs, of pixels, evidence, logits and probabilities,
            instead of the chosen one.
        overlay: strength of the evidence over the photograph, in percent.
        message: why the last file was not opened, or empty.
    """

    _page = page_code("predictions", "state")
    _css = page_style("predictions")
    _answering = answering_code("predictions")
    _esm = notebook_code(_page, _answering)
    title = "Why this prediction"

    class_index = traitlets.Int(None, allow_none=True).tag(sync=True)
    shows = traitlets.Enum(("deviation", "difference", "evidence"), "deviation").tag(sync=True)
    rather_than = traitlets.Int(None, allow_none=True).tag(sync=True)
    one_scale = traitlets.Bool(False).tag(sync=True)
    covered = traitlets.List(traitlets.Int()).tag(sync=True)
    shuffle = traitlets.Int(None, allow_none=True).tag(sync=True)
    averaged = traitlets.Bool(False).tag(sync=True)
    overlay = traitlets.Int(50).tag(sync=True)

    # What the page draws. _now is empty where a photograph's own entry says it all.
    _name = traitlets.Unicode().tag(sync=True)
    _classes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _bias = traitlets.Dict().tag(sync=True)
    _sizes = traitlets.Dict().tag(sync=True)
    _now = traitlets.Dict().tag(sync=True)

    def __init__(self, model: MlpMixer):
        super().__init__(model)
        self._name = self._config.name
        self._classes = list(class_names(model))
        self._head_bias = cast(Tensor, model.head.bias)  # (K,)
        self._bias = packed(self._head_bias)
        mean = unnormalize(torch.zeros(1, 3, 1, 1), self._config)[0, 0, 0]
        self._sizes = dict(
            grid=list(model.grid_size),
            patch=model.patch_size,
            blocks=model.num_blocks,
            mean=mean.tolist(),
            temperature=self._config.temperature,
        )

    def _entry(self, image: Tensor) -> dict[str, Any]:
        return self._answer(image, [])

    @property
    def chosen_class(self) -> int:
        """The class whose evidence is shown, also where ``class_index`` is ``None``."""
        if self.class_index is not None:
            return self.class_index
        if self.averaged:
            return int(self._mean_chances().argmax())
        return self._photographs[self.image]["top"]

    @property
    def other_class(self) -> int:
        """The other class of a difference, also where ``rather_than`` is ``None``."""
        if self.rather_than is not None and self.rather_than != self.chosen_class:
            return self.rather_than
        entry = self._photographs[self.image]
        chances = self._mean_chances() if self.averaged else _values(entry, "probabilities")
        ranked = chances.argsort(kind="stable")[::-1].tolist()
        return next((k for k in ranked if k != self.chosen_class), self.chosen_class)

    def _mean_chances(self) -> np.ndarray:
        return np.mean([_values(entry, "probabilities") for entry in self._photographs], axis=0)

    @property
    def input(self) -> Tensor:
        """What the model sees now, ``(3, h, w)``: patches covered, then shuffled."""
        image, p = self._covered_image(self.covered), self._network.patch_size
        return shuffle_patches(image, p, patch_order=self.order)

    @property
    def order(self) -> Tensor:
        """Which patch stands at each place: ``(S,)``."""
        s = self._network.num_tokens
        if self.shuffle is None:
            return torch.arange(s)
        return torch.randperm(s, generator=torch.Generator().manual_seed(self.shuffle))

    def _answer(self, image: Tensor, also: list[int]) -> dict[str, Any]:
        # What the network makes of an image; evidence and depth of the likely classes and others.
        evidence = patch_evidence(self._network, image)  # (K, gh, gw)
        depth = prediction_by_depth(self._network, image)  # (L + 1, K)
        chances = probabilities(depth, self._config)
        ranked = depth[-1].argsort(descending=True)
        likely = ranked[:FEW].tolist()
        listed = sorted({*likely, *also})
        return dict(
            top=likely[0],
            classes=listed,
            evidence=packed(evidence[listed]),
            logits=packed(depth[-1]),
            probabilities=packed(chances[-1]),
            depth=packed(chances[:, listed]),
        )

    @traitlets.validate("image", "class_index", "rather_than", "overlay")
    def _in_range(self, proposal: Any) -> int | None:
        counts = dict(image=len(self._tensors), overlay=101)
        return in_range(proposal, counts.get(proposal.trait.name, len(self._classes)))

    @traitlets.validate("covered")
    def _patches(self, proposal: Any) -> list[int]:
        return self._checked_patches(proposal.value)

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

    @traitlets.observe("covered", "shuffle", "class_index", "rather_than")
    def _update(self, _: Any = None) -> None:
        base = self._photographs[self.image]
        state = dict(image=self.image, covered=self.covered, shuffle=self.shuffle)
        changed = bool(self.covered) or self.shuffle is not None
        wanted = {self.chosen_class, self.other_class}
        if not changed and wanted <= set(base["classes"]):
            self._now = {}
            return
        known = {k: self._now.get(k) for k in state} == state
        if known and wanted <= set(self._now["classes"]):
            return
        answer = self._answer(self.input, [*base["classes"], *wanted])
        self._now = {**state, "order": packed(self.order), **answer}

    def figure(self) -> Picture:
        """The picture of what is chosen now: photograph, evidence, classes, depth."""
        from mixer_lite.figures.reasons import plot_evidence

        network, bias, config = self._network, self._head_bias, self._config
        images = torch.stack(self._tensors) if self.averaged else self.input[None]
        said = average(lambda x: probabilities(prediction_by_depth(network, x)[-1], config), images)
        likely = said.argsort(descending=True).tolist()
        classes = [self.chosen_class, *(k for k in likely if k != self.chosen_class)][:2]
        answer = ", ".join(f"{self._classes[k]} {said[k]:.0%}" for k in likely[:3])
        what = f"Photograph “{self._photographs[self.image]['label']}”"
        title = f"{f'Mean of {len(images)} photographs' if self.averaged else what}: {answer}"
        seen = unnormalize(images, self._config).mean(axis=0).round().astype(np.uint8)
        names = [self._classes[k] for k in classes]
        evidence = average(lambda x: patch_evidence(network, x), images)  # (K, gh, gw)
        if self.shows == "difference":
            a, b = self.chosen_class, self.other_class
            name = f"{self._classes[a]} rather than {self._classes[b]}"
            tilt = evidence[a] - evidence[b]
            return plot_evidence(seen, tilt, bias[a] - bias[b], [name], title=title)
        centred = self.shows == "deviation"
        return plot_evidence(
            seen, evidence[classes], bias[classes], names, centred=centred, title=title
        )


def _values(entry: dict[str, Any], name: str) -> np.ndarray:
    return np.frombuffer(entry[name]["data"], "<f4")


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
    mean colour, shuffle them, or open their own photograph.

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
    explorer = PredictionExplorer(model)
    explorer.add_all(images, labels)
    return explorer
