"""All token-mixing units of a block as folded maps, one of them in detail, and life without it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
import traitlets
from torch import Tensor

from mixer_lite import explain, filters
from mixer_lite.explorers.base import (
    answering_code,
    in_range,
    notebook_code,
    packed,
    page_code,
    page_style,
    quantized,
    quantized_maps,
)
from mixer_lite.explorers.filters.found import ImageSearch
from mixer_lite.explorers.photographs import Opener
from mixer_lite.figures.drawing import SIGNED, Picture, bare, canvas, montage, style
from mixer_lite.images import ImageSource, preprocess, unnormalize
from mixer_lite.model import MlpMixer
from mixer_lite.prediction import class_names, known_config, probabilities
from mixer_lite.specs import CIFAR10_CLASSES
from mixer_lite.weights.relatives import TokenMixing

LAYERS = ("fc1", "fc2")
ORDERS = ("index", "frequency", "pairs", "importance", "match")
SCALES = ("unit", "block")
IMAGES = 100  # of the bundled slice on which importance is measured
CLASSES = 6  # bars
CHANNELS = 4  # shown in detail
READS = {"fc1": "read", "fc2": "write"}


def columns_for(units: int, grid_width: int) -> int:
    """Maps in a row: even, so that pairs stay side by side, and about two for each row.

    A divisor of the number of units is preferred; all maps at two pixels a weight, with gaps,
    stay within 760 pixels.
    """
    most = max(2, 380 // (grid_width + 1))
    best = math.sqrt(2 * units)
    even = range(2, most + 1, 2)
    near = [c for c in even if units % c == 0 and best / 2 < c < best * 2] or even
    return min(near, key=lambda c: (abs(math.log(c / best)), -c))


class FilterExplorer(Opener):
    """What :func:`explore_filters` returns.

    Attributes:
        block, unit: chosen, from 0.
        layer: ``"fc1"``: what units read; ``"fc2"``: what they write.
        order: of the units: ``"index"``, ``"frequency"``, ``"pairs"``, ``"importance"`` or, of two
            models, ``"match"``: the least alike first.
        scale: of the colours: ``"unit"``, each map its own, or ``"block"``, one for all.
        off: units that write nothing, as ``[block, unit]`` pairs.
        predictions: the top classes with everything on (``before``) and as it is (``after``):
            lists of equal length, with ``labels``. Empty without an image. Read it, don't set it.
    """

    _page = page_code("filters", "sheet", "found")
    _css = page_style("filters")
    _answering = answering_code("filters")
    _esm = notebook_code(_page, _answering)
    _told = ("message", "predictions")
    title = "Token-mixing units"

    block = traitlets.Int(0).tag(sync=True)
    unit = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Enum(LAYERS, "fc1").tag(sync=True)
    order = traitlets.Enum(ORDERS, "pairs").tag(sync=True)
    scale = traitlets.Enum(SCALES, "unit").tag(sync=True)
    off: traitlets.List = traitlets.List().tag(sync=True)
    predictions = traitlets.Dict().tag(sync=True)

    # For the page alone. Letters: L blocks, 2 layers (fc1, fc2), D_S units.
    _sizes = traitlets.Dict().tag(sync=True)
    _weights = traitlets.Dict().tag(sync=True)  # (L * layers * D_S, gh, gw), one scale a unit
    _opposites = traitlets.Dict().tag(sync=True)  # closest inverse and its similarity: (L, 2, D_S)
    _orders = traitlets.Dict().tag(sync=True)  # frequency, pairs: (L, 2, D_S), -1: not yet known
    _importance = traitlets.Dict().tag(sync=True)  # block -> order, and what each removal does
    _unoffered = traitlets.Unicode().tag(sync=True)  # why there is no order by importance
    _busy = traitlets.Unicode().tag(sync=True)
    _other = traitlets.Dict().tag(sync=True)  # of the second model: weights, matches, likeness
    _found = traitlets.Dict().tag(sync=True)  # block -> the images that excite its units most
    _wanted = traitlets.Int(0).tag(sync=True)  # grows when the page asks for them
    _image = traitlets.Dict().tag(sync=True)  # as the model sees it: (h, w, 3)
    _response = traitlets.Dict().tag(sync=True)  # of the chosen unit to every channel

    def __init__(
        self,
        model: MlpMixer | TokenMixing,
        image: ImageSource | None = None,
        other: MlpMixer | TokenMixing | None = None,
    ):
        if isinstance(model, TokenMixing):
            if image is not None:
                raise ValueError(
                    f"Of {model.name} only the token mixing is here, which predicts nothing: leave "
                    f"the image away."
                )
            model = cast(MlpMixer, model)  # it has all that is asked of it without an image
        self.model = model
        self._pixels: Tensor | None = None  # (1, 3, h, w), as the model takes it
        if image is not None:
            self._pixels = preprocess(image, known_config(model)).to(next(model.parameters()))
        gh, gw = model.grid_size
        # Relatives of the Mixer may have a single matrix a block.
        first = filters.block_at(model, 0).mlp_tokens
        self._layers = [layer for layer in LAYERS if getattr(first, layer) is not None]
        # (L, layers, D_S, gh, gw), a copy: what the model held when the explorer was made.
        self._folded = _folded(model, self._layers)
        self._search = ImageSearch(model) if isinstance(model, MlpMixer) and model.config else None
        super().__init__()
        pairs = [filters.closest_inverse(f) for f in self._folded.flatten(0, 1)]
        shape = self._folded.shape[:3]
        self._known = {kind: np.full(shape, -1, np.int32) for kind in ("frequency", "pairs")}
        self._order_block(0, 0)
        with self.hold_sync():
            self._sizes = dict(
                blocks=model.num_blocks, layers=len(self._layers), units=model.tokens_mlp_dim,
                gh=gh, gw=gw, columns=columns_for(model.tokens_mlp_dim, gw),
                pictured=image is not None, looks=isinstance(model, MlpMixer),
                searched=self._search.name if self._search else "",
                head=bool(model.num_classes), name=model.config.name if model.config else "",
                temperature=model.config.temperature if model.config else 1.0,
            )  # fmt: skip
            self._weights = quantized_maps(self._folded.flatten(0, 2))
            if other is not None:
                self._compare(cast(MlpMixer, other))
            self._opposites = dict(
                unit=packed(torch.stack([index for index, _ in pairs])),
                similarity=packed(torch.stack([value for _, value in pairs])),
            )
            self._unoffered = _why_not(model)
            self._send_orders()
            if self._pixels is not None:
                self._look_at(self._pixels)
        # The other blocks' orders take a moment (2 s for B/16); the first is shown at once.
        self._ordering = threading.Thread(target=self._order_rest)
        self._ordering.start()

    # --- state -----------------------------------------------------------------------------

    @traitlets.validate("block", "unit")
    def _in_range(self, proposal: Any) -> int:
        counts = dict(block=self.model.num_blocks, unit=self.model.tokens_mlp_dim)
        return in_range(proposal, counts[proposal.trait.name])

    @traitlets.validate("order")
    def _offered(self, proposal: Any) -> str:
        if proposal["value"] == "importance" and self._unoffered:
            raise traitlets.TraitError(self._unoffered)
        if proposal["value"] == "match" and not self._other:
            raise traitlets.TraitError('"match" orders the units of two models; here is one.')
        return proposal["value"]

    @traitlets.validate("layer")
    def _has_layer(self, proposal: Any) -> str:
        if proposal["value"] not in self._layers:
            raise traitlets.TraitError('This model mixes tokens with one matrix a block: "fc1".')
        return proposal["value"]

    @traitlets.validate("off")
    def _pairs_in_range(self, proposal: Any) -> list[list[int]]:
        blocks, units = self.model.num_blocks, self.model.tokens_mlp_dim
        pairs = set()
        for pair in proposal["value"]:
            good = isinstance(pair, (list, tuple)) and len(pair) == 2
            good = good and all(isinstance(n, int) for n in pair)
            if not (good and 0 <= pair[0] < blocks and 0 <= pair[1] < units):
                raise traitlets.TraitError(
                    f"off must hold [block, unit] pairs, blocks from 0 to {blocks - 1} and units "
                    f"from 0 to {units - 1}, not {pair!r}."
                )
            pairs.add(tuple(pair))
        return [list(pair) for pair in sorted(pairs)]

    # --- orders ----------------------------------------------------------------------------

    def _order_block(self, block: int, layer: int) -> None:
        maps = self._folded[block, layer]
        self._known["frequency"][block, layer] = filters.order_by_frequency(maps).cpu()
        self._known["pairs"][block, layer] = filters.order_by_pairs(maps)

    def _send_orders(self) -> None:
        self._orders = {kind: packed(order) for kind, order in self._known.items()}

    def _order_rest(self) -> None:
        sent = time.monotonic()
        for block in range(self.model.num_blocks):
            for layer in range(len(self._layers)):
                if not threading.main_thread().is_alive():
                    return  # Python is ending
                if (block, layer) != (0, 0):
                    self._order_block(block, layer)
            if time.monotonic() - sent > 0.3:
                self._send_orders()
                sent = time.monotonic()
        self._send_orders()

    @traitlets.observe("block", "order")
    def _measure_importance(self, _: Any = None) -> None:
        if self.order != "importance" or str(self.block) in self._importance:
            return
        self._busy = (
            f"Removing the {self.model.tokens_mlp_dim} units of block {self.block}, one after "
            f"another, and counting the mistakes on {IMAGES} images: this takes a while."
        )
        try:
            self._importance = {
                **self._importance,
                str(self.block): _importance_of(explain.independent(self.model), self.block),
            }
        finally:
            self._busy = ""

    # --- another model, and many images ------------------------------------------------------

    def _compare(self, other: MlpMixer) -> None:
        found = [filters.match_units(self.model, other, b) for b in range(self.model.num_blocks)]
        self._likeness = torch.stack([likeness for _, likeness in found])  # (L, D_S)
        config = getattr(other, "config", None)
        name = config.name if config else "another model"
        self._other = dict(
            name=name, weights=quantized_maps(_folded(other, self._layers).flatten(0, 2)),
            match=packed(torch.stack([index for index, _ in found])),
            similarity=packed(self._likeness),
        )  # fmt: skip
        self.order = "match"

    def find_images(self, images: Sequence[ImageSource] | None = None) -> explain.TopImages:
        """Look for the images that excite the units of the chosen block most, and show them.

        Args:
            images: what :func:`mixer_lite.images.open_image` takes, several of it, or a tensor
                ``(n, 3, h, w)``. ``None``: those of the last call, at first the bundled test
                images for a model of CIFAR-10's classes, the bundled photographs for another.

        Returns:
            As :func:`mixer_lite.explain.top_images`, five for each unit.

        Raises:
            ValueError: not images, none, or the model does not know its preprocessing.
        """
        if self._search is None:
            raise ValueError(
                "This model does not know how its images were prepared: set model.config to a "
                "mixer_lite.specs.ModelConfig and open the explorer again."
            )
        known = self._found
        if images is not None:
            self._search, known = ImageSearch(self.model, images), {}
            self._sizes = {**self._sizes, "searched": self._search.name}
        found, top = self._search.found(self.block)
        self._found = {**known, str(self.block): found}
        return top

    @traitlets.observe("_wanted")
    def _find(self, change: Any) -> None:
        if str(self.block) not in self._found:
            self.find_images()

    # --- the image -------------------------------------------------------------------------

    def _live_network(self) -> MlpMixer | None:
        return self.model if self._sizes["pictured"] else None

    def _take(self, file: IO[bytes], label: str) -> None:
        pixels = preprocess(file, known_config(self.model))
        self._look_at(pixels.to(next(self.model.parameters())))

    def _look_at(self, pixels: Tensor) -> None:
        self._pixels = pixels
        self._image = packed(unnormalize(pixels, known_config(self.model))[0])
        self._predict()

    @contextmanager
    def _edited(self) -> Iterator[MlpMixer]:
        # JupyterLab reports choices on another thread, while a cell may use the model.
        network = explain.independent(self.model)
        with explain.edit(network) as units:
            for block, unit in self.off:
                units.remove(block, unit)
            yield network

    @traitlets.observe("off")
    def _predict(self, _: Any = None) -> None:
        self._heard: dict[int, tuple[Tensor, Tensor]] = {}  # by block, until units change
        if self._pixels is None:
            return
        config = self.model.config
        if self.model.num_classes:
            with torch.no_grad():
                before = probabilities(self.model(self._pixels)[0], config)
                with self._edited() as network:
                    after = probabilities(network(self._pixels)[0], config)
            # The classes that are highest in either, and stay in the order of before.
            high = torch.maximum(before, after).topk(min(CLASSES, len(before))).indices
            top = high[before[high].argsort(descending=True, stable=True)].tolist()
            names = class_names(self.model)
            self.predictions = dict(
                labels=[names[i] for i in top],
                before=before[top].tolist(),
                after=after[top].tolist(),
            )
        self._respond()

    @traitlets.observe("block", "unit")
    def _respond(self, _: Any = None) -> None:
        if self._pixels is None:
            return
        if self.block not in self._heard:
            with self._edited() as network:
                heard = explain.unit_responses(network, self._pixels, self.block)
            self._heard[self.block] = heard
        channels, answers = self._heard[self.block]  # (C, gh, gw), (C, D_S)
        answer = answers[:, self.unit]
        top = answer.topk(min(CHANNELS, len(answer))).indices
        self._response = dict(
            block=self.block, unit=self.unit, values=packed(answer),
            top=packed(top), channels=quantized(channels[top]),
        )  # fmt: skip

    # --- pictures --------------------------------------------------------------------------

    def shown(self) -> list[int]:
        """Units in the order in which they are shown."""
        if self.order == "index":
            return list(range(self.model.tokens_mlp_dim))
        if self.order == "match":
            return self._likeness[self.block].argsort(stable=True).tolist()
        if self.order == "importance":
            return np.frombuffer(self._importance[str(self.block)]["order"]["data"], "<i4").tolist()
        layer = LAYERS.index(self.layer)
        if self._known[self.order][self.block, layer][0] < 0:
            self._ordering.join()
        return self._known[self.order][self.block, layer].tolist()

    @style()
    def figure(self) -> Picture:
        """The maps of the chosen block as the page shows them."""
        maps = self._folded[self.block, LAYERS.index(self.layer)][self.shown()].double().cpu()
        alike = (1, 2) if self.scale == "unit" else (0, 1, 2)
        most = maps.abs().amax(dim=alike, keepdim=True)
        sheet = montage((maps / most.clamp_min(1e-300)).numpy(), self._sizes["columns"])
        doing = READS[self.layer]
        title = f"What the {len(maps)} token-mixing units of block {self.block} {doing}"
        figure, axes = canvas(
            size=(8, 8 * sheet.shape[0] / sheet.shape[1] + 0.4),
            alt=f"{title}: each a map of {maps.shape[1]} by {maps.shape[2]} patches, red "
            f"for positive weights, blue for negative ones, ordered by {self.order}.",
        )
        axes.imshow(sheet, cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
        bare(axes, f"{title}, by {self.order}")
        return figure

    def save_html(self, path: str | Path, *, live: bool = True) -> Path:
        """Write one page that works from a file, without Python or a network connection.

        Everything about weights can be chosen in it, whatever the model's size; for the image see
        the other explorers' ``save_html``.

        Returns:
            The path written to; the file is replaced whole or not at all.
        """
        self._ordering.join()
        return super().save_html(path, live=live)


def _folded(model: MlpMixer, layers: Sequence[Any]) -> Tensor:
    # All token-mixing filters: (L, layers, D_S, gh, gw).
    rows = [
        torch.stack([filters.token_filters(model, block, layer) for layer in layers])
        for block in range(model.num_blocks)
    ]
    return torch.stack(rows)


def _why_not(model: MlpMixer) -> str:
    # Importance needs labelled images that the model was trained for.
    names = model.config.class_names if model.config else ()
    if model.num_classes == len(CIFAR10_CLASSES) and names == CIFAR10_CLASSES:
        return ""
    return (
        "Order by importance is offered only for models of CIFAR-10's ten classes, because the "
        "labelled images that come with the course are CIFAR-10's."
    )


def _importance_of(model: MlpMixer, block: int) -> dict[str, Any]:
    # For the page: what each unit's removal does, (D_S,) each, and the order that makes.
    from mixer_lite.datasets.cifar import cifar10_sample

    images, labels = cifar10_sample()
    step = len(images) // IMAGES
    weight = next(model.parameters())
    batch = preprocess(images[::step], known_config(model)).to(weight)
    measured = explain.unit_importance(model, batch, labels[::step].to(weight.device), block)
    order = measured.loss.argsort(descending=True, stable=True)
    return {
        "order": packed(order),
        **{name: packed(value) for name, value in measured._asdict().items()},
    }


def explore_filters(
    model: MlpMixer | TokenMixing, image: ImageSource | MlpMixer | TokenMixing | None = None
) -> FilterExplorer:
    """Every token-mixing unit of a model: what it reads, what it writes, and what it is good for.

    A slider over the blocks, orders, one unit in detail, and the test images that excite it most;
    with an image, how the unit answers to it and how the prediction changes when units are
    switched off. With a second model, ``explore_filters(before, after)``, each unit stands beside
    the one of the other model that is most like it (:func:`mixer_lite.filters.match_units`). The
    weights shown are those that the models hold at this moment; the models are left as they are.

    Args:
        model: any Mixer, or a relative's token mixing (:func:`mixer_lite.load_token_mixing`). With
            an image it must be a Mixer that has ``model.config``, as loaded models have.
        image: anything :func:`mixer_lite.images.open_image` takes, or the second model, of as
            many blocks and units on the same patches.

    Raises:
        ValueError: not an image, the model does not know its preprocessing, or the two models
            differ in size.
    """
    if not isinstance(image, (MlpMixer, TokenMixing)):
        return FilterExplorer(model, image)
    if model.num_blocks != image.num_blocks:
        raise ValueError(
            f"Two models are compared block by block: give two of as many blocks, not "
            f"{model.num_blocks} and {image.num_blocks}."
        )
    return FilterExplorer(model, other=image)
