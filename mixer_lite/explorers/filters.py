"""All token-mixing units of a block as folded maps, one of them in detail, and life without it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import traitlets
from einops import rearrange
from torch import Tensor

from mixer_lite import explain, filters
from mixer_lite.drawing import SIGNED, Picture, bare, canvas, style
from mixer_lite.explorers.base import Explorer, packed, page_code, quantized
from mixer_lite.images import ImageSource, preprocess, unnormalize
from mixer_lite.model import MlpMixer
from mixer_lite.relatives import TokenMixing
from mixer_lite.specs import CIFAR10_CLASSES

LAYERS = ("fc1", "fc2")
ORDERS = ("index", "frequency", "pairs", "importance")
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


class FilterExplorer(Explorer):
    """What :func:`explore_filters` returns.

    Attributes:
        block, unit: chosen, from 0.
        layer: ``"fc1"``: what units read; ``"fc2"``: what they write.
        order: of the units: ``"index"``, ``"frequency"``, ``"pairs"`` or ``"importance"``.
        scale: of the colours: ``"unit"``, each map its own, or ``"block"``, one for all.
        off: units that write nothing, as ``[block, unit]`` pairs.
        predictions: the top classes with everything on (``before``) and as it is (``after``):
            lists of equal length, with ``labels``. Empty without an image. Read it, don't set it.
    """

    _esm = page_code("filters")
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
    _image = traitlets.Dict().tag(sync=True)  # as the model sees it: (h, w, 3)
    _response = traitlets.Dict().tag(sync=True)  # of the chosen unit to every channel

    def __init__(self, model: MlpMixer | TokenMixing, image: ImageSource | None = None):
        if isinstance(model, TokenMixing):
            if image is not None:
                raise ValueError(
                    f"Of {model.name} only the token mixing is here, which predicts nothing: leave "
                    f"the image away."
                )
            model = cast(MlpMixer, model)  # it has all that is asked of it without an image
        self.model = model
        self._pixels: Tensor | None = None
        if image is not None:
            if model.config is None:
                raise ValueError(
                    "This model does not know how its images were prepared: set model.config to "
                    "a mixer_lite.specs.ModelConfig, or leave the image away."
                )
            self._pixels = preprocess(image, model.config).to(next(model.parameters()))
        gh, gw = model.grid_size
        # Relatives of the Mixer may have a single matrix a block.
        first = filters.block_at(model, 0).mlp_tokens
        self._layers = [layer for layer in LAYERS if getattr(first, layer) is not None]
        self._folded = torch.stack(
            [
                torch.stack([filters.token_filters(model, b, layer) for layer in self._layers])  # type: ignore[arg-type]
                for b in range(model.num_blocks)
            ]
        )  # (L, layers, D_S, gh, gw), a copy: what the model held when the explorer was made
        super().__init__()
        weights = quantized(rearrange(self._folded, "l layer u gh gw -> (l layer u) gh gw"))
        weights["scale"] = packed(np.asarray(weights["scale"]))
        pairs = [filters.closest_inverse(f) for f in self._folded.flatten(0, 1)]
        shape = self._folded.shape[:3]
        self._known = {kind: np.full(shape, -1, np.int32) for kind in ("frequency", "pairs")}
        self._order_block(0, 0)
        with self.hold_sync():
            self._sizes = dict(
                blocks=model.num_blocks, layers=len(self._layers), units=model.tokens_mlp_dim,
                gh=gh, gw=gw, columns=columns_for(model.tokens_mlp_dim, gw),
                pictured=image is not None, looks=isinstance(model, MlpMixer),
                head=bool(model.num_classes), name=model.config.name if model.config else "",
            )  # fmt: skip
            self._weights = weights
            self._opposites = dict(
                unit=packed(torch.stack([index for index, _ in pairs])),
                similarity=packed(torch.stack([value for _, value in pairs])),
            )
            self._unoffered = _why_not(model)
            self._send_orders()
            if self._pixels is not None and model.config is not None:
                self._image = packed(unnormalize(self._pixels, model.config)[0])
                self._predict()
        # The other blocks' orders take a moment (2 s for B/16): meanwhile the first is shown.
        self._ordering = threading.Thread(target=self._order_rest)
        self._ordering.start()

    # --- state -----------------------------------------------------------------------------

    @traitlets.validate("block", "unit")
    def _in_range(self, proposal: Any) -> int:
        name = proposal["trait"].name
        last = (self.model.num_blocks if name == "block" else self.model.tokens_mlp_dim) - 1
        if not 0 <= proposal["value"] <= last:
            raise traitlets.TraitError(f"{name} must be from 0 to {last}, not {proposal['value']}.")
        return proposal["value"]

    @traitlets.validate("order")
    def _offered(self, proposal: Any) -> str:
        if proposal["value"] == "importance" and self._unoffered:
            raise traitlets.TraitError(self._unoffered)
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
        pairs = filters.pair_opposite_phases(maps).flatten().tolist()
        alone = set(range(len(maps))) - set(pairs)  # the one left over, if any
        self._known["frequency"][block, layer] = filters.order_by_frequency(maps).cpu()
        self._known["pairs"][block, layer] = [*pairs, *alone]

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

    # --- the image -------------------------------------------------------------------------

    @contextmanager
    def _edited(self) -> Iterator[MlpMixer]:
        # JupyterLab tells choices on a thread of their own, while a cell may use the model.
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
        if self.model.num_classes:
            with torch.no_grad():
                before = self.model(self._pixels)[0].softmax(dim=0)
                with self._edited() as network:
                    after = network(self._pixels)[0].softmax(dim=0)
            # The classes that are highest in either, and stay in the order of before.
            high = torch.maximum(before, after).topk(min(CLASSES, len(before))).indices
            top = high[before[high].argsort(descending=True, stable=True)].tolist()
            names = self.model.config.class_names if self.model.config else ()
            self.predictions = dict(
                labels=[names[i] if names else f"class {i}" for i in top],
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
        maps = torch.nn.functional.pad(maps / most.clamp_min(1e-300), (0, 1, 0, 1), value=math.nan)
        columns = self._sizes["columns"]
        rows = -(-len(maps) // columns)
        lacking = maps.new_full((rows * columns - len(maps), *maps.shape[1:]), math.nan)
        sheet = rearrange(
            torch.cat([maps, lacking]), "(r c) h w -> (r h) (c w)", r=rows
        )  # (D_S, gh + 1, gw + 1) -> one sheet
        doing = READS[self.layer]
        title = f"What the {len(maps)} token-mixing units of block {self.block} {doing}"
        figure, axes = canvas(
            size=(8, 8 * sheet.shape[0] / sheet.shape[1] + 0.4),
            alt=f"{title}: each a map of {maps.shape[1] - 1} by {maps.shape[2] - 1} patches, red "
            f"for positive weights, blue for negative ones, ordered by {self.order}.",
        )
        axes.imshow(sheet.numpy(), cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
        bare(axes, f"{title}, by {self.order}")
        return figure

    def save_html(self, path: str | Path) -> Path:
        """Write one page that works from a file, without Python or a network.

        Everything about weights can be chosen in it; what needs the network itself stands as it
        is now, and says so.

        Returns:
            The path written to; the file is replaced whole or not at all.
        """
        self._ordering.join()
        return super().save_html(path)


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
    from mixer_lite.datasets import cifar10_sample

    images, labels = cifar10_sample()
    step = len(images) // IMAGES
    assert model.config is not None  # see _why_not
    weight = next(model.parameters())
    batch = preprocess(images[::step], model.config).to(weight)
    measured = explain.unit_importance(model, batch, labels[::step].to(weight.device), block)
    order = measured.loss.argsort(descending=True, stable=True)
    return {
        "order": packed(order),
        **{name: packed(value) for name, value in measured._asdict().items()},
    }


def explore_filters(
    model: MlpMixer | TokenMixing, image: ImageSource | None = None
) -> FilterExplorer:
    """Every token-mixing unit of a model: what it reads, what it writes, and what it is good for.

    A slider over the blocks, orders, one unit in detail; with an image, how the unit answers to
    it and how the prediction changes when units are switched off. The weights shown are those
    that the model holds at this moment; the model itself is left as it is.

    Args:
        model: any Mixer, or a relative's token mixing (:func:`mixer_lite.load_token_mixing`). With
            an image it must be a Mixer that has ``model.config``, as loaded models have.
        image: anything :func:`mixer_lite.images.open_image` takes.

    Raises:
        ValueError: not an image, or the model does not know its preprocessing.
    """
    return FilterExplorer(model, image)
