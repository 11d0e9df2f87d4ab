"""Figures of what a model learned and why it predicts, over ``filters`` and ``explain``.

Thin drawings of plain tensors: one function a picture, each returning a
:class:`~mixer_lite.drawing.Picture` with its alt text. Sheets of filters are laid out in whole
screen pixels, so that every weight of every unit is drawn equally large.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from mixer_lite import filters as measures
from mixer_lite.drawing import (
    ACCENT,
    DPI,
    MAGNITUDE,
    SIGNED,
    Picture,
    bare,
    canvas,
    draw_image,
    numbers,
    pixels_of,
    style,
)
from mixer_lite.model import MlpMixer

INK, FAINT = "#444444", "#777777"  # of words beside maps; both dark enough to read on white
LABEL = 9  # pixels that a unit's number needs above its map

# --- sheets of small maps ---------------------------------------------------------------------


def _maps(filters: Any, what: str = "filters", axes: int = 3) -> np.ndarray:
    (array,) = numbers([filters])
    shape = "(units, grid_h, grid_w)" if axes == 3 else "(channels, 3, P, P)"
    wanted = {3: "ml.filters.token_filters", 4: "ml.filters.embedding_filters"}[axes]
    if array.ndim != axes or not array.size:
        raise ValueError(f"{what} must be {shape}, as {wanted} gives them, not {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} must be finite, but some numbers are infinite or NaN.")
    return array


def _indices(order: Any, count: int, name: str) -> np.ndarray:
    chosen = np.asarray(order.cpu() if isinstance(order, torch.Tensor) else order)
    if not chosen.size or chosen.dtype.kind not in "iu" or not (0 <= chosen.min() <= chosen.max()):
        raise ValueError(f"{name} must hold numbers of units from 0 to {count - 1}.")
    if chosen.max() >= count:
        raise ValueError(f"{name} names unit {chosen.max()}, but units go from 0 to {count - 1}.")
    return chosen


def _robust(array: np.ndarray) -> float:
    # A few large weights would turn all others white: 1 of 100 may lie beyond the scale.
    return float(np.quantile(np.abs(array), 0.99)) or float(np.abs(array).max()) or 1.0


class _Sheet:
    """Small maps in rows on a page whose coordinates are screen pixels, counted from the top."""

    def __init__(self, width: float, title: str, note: str, norm: Normalize | None = None):
        self.wide, self.norm = round(width * DPI), norm
        self.drawings: list[Any] = []
        self.y = 8
        room = self.wide - (210 if norm else 16)  # beside a colour bar
        for words, size, step, colour in ((title, 12, 21, "black"), (note, 8.5, 14, FAINT)):
            for line in textwrap.wrap(words, max(10, int(room / (0.69 * size)))):
                look = dict(size=size, color=colour, va="top")
                self.drawings.append(("text", 8, self.y, line, look))
                self.y += step
        self.y = max(self.y, 36 if norm else 0) + 8

    def rows(
        self,
        maps: Sequence[np.ndarray],
        labels: Sequence[str],
        group: int = 1,
        columns: int | None = None,
        below: Sequence[str] = (),
        **look: Any,
    ) -> tuple[int, int]:
        """Lay out maps, ``group`` of them close together; returns rows and groups in a row."""
        gh, gw = maps[0].shape[:2]
        n = -(-len(maps) // group)
        apart, close = (10, 2) if group > 1 else (6, 0)
        margin = 8
        room = self.wide - 2 * margin + apart

        def pitch(pixel: int) -> int:  # of a group
            return group * gw * pixel + (group - 1) * close + apart

        if columns is None:
            columns = (16 if len(maps) <= 128 else 24) // group
            if pitch(2) * columns > room:  # large maps at their smallest: fill the page
                columns = room // pitch(1)
        columns = max(1, min(columns, n, room // pitch(1)))
        pixel = max(p for p in range(1, 200) if p == 1 or pitch(p) * columns <= room)
        pixel = max(1, min(pixel, 120 // max(gh, gw)))
        needed = 6 * max(map(len, labels), default=0)  # pixels of the longest label
        head = LABEL + 3 if labels and needed <= gw * pixel + 4 else 0
        foot = LABEL + 4 if below and 6 * max(map(len, below)) <= pitch(pixel) else 0
        step = gh * pixel + head + foot + 7
        small: dict[str, Any] = dict(size=6.5, color=INK, ha="center")
        for k, shown in enumerate(maps):
            g, place = divmod(k, group)
            row, column = divmod(g, columns)
            x = margin + column * pitch(pixel) + place * (gw * pixel + close)
            y = self.y + row * step + head
            extent = (x, x + gw * pixel, y + gh * pixel, y)
            own = {key: v[k] if key == "norm" else v for key, v in look.items()}
            self.drawings.append(("image", shown, extent, own))
            if head:
                look_above = dict(small, va="bottom")
                self.drawings.append(("text", x + gw * pixel / 2, y - 2, labels[k], look_above))
            if foot and not place:
                centre = x + (pitch(pixel) - apart) / 2
                look_below = dict(small, va="top")
                self.drawings.append(("text", centre, y + gh * pixel + 3, below[g], look_below))
        rows = -(-n // columns)
        self.y += rows * step + 4
        return rows, columns

    def heading(self, text: str) -> None:
        self.drawings.append(("text", 8, self.y + 4, text, dict(size=10, va="top")))
        self.y += 24

    def draw(self, alt: str) -> Picture:
        figure = Picture(figsize=(self.wide / DPI, self.y / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        figure.alt = alt
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, self.wide), ylim=(self.y, 0))
        axes.set_axis_off()
        for kind, *rest in self.drawings:
            if kind == "image":
                shown, extent, look = rest
                image = AxesImage(axes, extent=extent, interpolation="nearest", **look)
                image.set_data(shown)
                image.set_clip_path(axes.patch)
                axes.add_image(image)  # many times as fast as imshow
            else:
                x, y, text, look = rest
                axes.text(x, y, text, **look)
        return figure


def _bar(figure: Picture, norm: Normalize, clipped: bool) -> None:
    # A slim colour bar in the sheet's top right corner.
    wide, high = figure.get_size_inches() * DPI
    spot = figure.add_axes(((wide - 178) / wide, 1 - 20 / high, 150 / wide, 9 / high))
    bar = figure.colorbar(
        ScalarMappable(norm, SIGNED),
        cax=spot,
        orientation="horizontal",
        extend="both" if clipped else "neither",
        ticks=[norm.vmin, 0, norm.vmax],
    )
    bar.outline.set_visible(False)
    top = f"{norm.vmax:.2g}"
    bar.ax.set_xticklabels([f"−{top}", "0", f"+{top}"], fontsize=8)
    bar.ax.tick_params(length=0, pad=2)


def _scales(maps: np.ndarray, limit: float | None, each: bool) -> tuple[list[Normalize], str, bool]:
    # For maps (n, h, w): their scales, symmetric about zero; what to say of them; clipped or not.
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be above 0, not {limit}.")
    if each and limit is not None:
        raise ValueError("Give limit, one scale for all, or each=True, a scale for each: not both.")
    if each:
        tops = np.abs(maps).max(axis=(1, 2))
        note = "each unit on its own scale: full colour is its largest weight; strengths differ"
        return [Normalize(-t, t) for t in np.where(tops > 0, tops, 1)], note, False
    top = limit or _robust(maps)
    beyond = float((np.abs(maps) > top).mean())
    note = "one scale for all, red above zero, blue below"
    if beyond:
        share = f"{beyond:.0%}" if beyond >= 0.01 else "under 1%"
        note += f"; {share} of the weights lie beyond it, up to {np.abs(maps).max():.2g}"
    return [Normalize(-top, top)] * len(maps), note, bool(beyond)


def _signed_sheet(
    maps: np.ndarray,
    labels: list[str],
    title: str,
    limit: float | None,
    each: bool,
    width: float,
    **layout: Any,
) -> tuple[Picture, tuple[int, int], str]:
    norms, note, clipped = _scales(maps, limit, each)
    sheet = _Sheet(width, title, note, None if each else norms[0])
    shape = sheet.rows(list(maps), labels, norm=norms, cmap=SIGNED, **layout)
    figure = sheet.draw("")
    if not each:
        _bar(figure, norms[0], clipped)
    scale = (
        "each on its own scale"
        if each
        else f"on one scale from -{norms[0].vmax:.2g} to its opposite"
    )
    return figure, shape, scale


@style()
def plot_token_filters(
    filters: Any,
    *,
    order: Any = None,
    columns: int | None = None,
    title: str = "",
    labels: Sequence[str] | None = None,
    limit: float | None = None,
    each: bool = False,
    width: float = 8,
    alt: str = "",
) -> Picture:
    """All units of a token-mixing layer, each folded to the patch grid (the paper's Figure 5).

    Args:
        filters: ``(n, gh, gw)``, from :func:`mixer_lite.filters.token_filters`.
        order: ``(m,)`` unit numbers in the order wanted, for example from
            :func:`mixer_lite.filters.order_by_frequency`; some units or all. ``None``: by number.
        columns: units in a row; by default 16, or 24 of more than 128.
        title: above the sheet.
        labels: a word for each unit of ``filters``; by default its number, where there is room.
        limit: the scale goes from ``-limit`` to ``limit``. ``None``: the 99th percentile of the
            magnitudes drawn; what lies beyond is drawn in full colour, and the picture says so.
        each: every unit on a scale of its own, which shows patterns and hides strengths.
        width: of the picture, in inches.
        alt: alt text; by default how many units, the scale, and where the largest weight is.

    Raises:
        ValueError: filters, order, labels or limit are not as above.
    """
    maps = _maps(filters)
    n, gh, gw = maps.shape
    units = np.arange(n) if order is None else _indices(order, n, "order")
    words = [str(u) for u in range(n)] if labels is None else [str(w) for w in labels]
    if units.ndim != 1:
        raise ValueError(f"order must be one row of unit numbers, not of shape {units.shape}.")
    if len(words) != n:
        raise ValueError(f"{n} units need as many labels, not {len(words)}.")
    shown = maps[units]
    figure, (rows, wide), scale = _signed_sheet(
        shown, [words[u] for u in units], title, limit, each, width, columns=columns
    )
    k, y, x = np.unravel_index(np.abs(shown).argmax(), shown.shape)
    figure.alt = alt or (
        f"{len(units)} token-mixing units, each folded to the {gh} by {gw} grid of patches, in "
        f"{rows} rows of up to {wide}, {scale}. First is unit {units[0]}, last unit {units[-1]}. "
        f"The largest weight, {shown[k, y, x]:.2g}, is unit {units[k]}'s at row {y}, column {x}."
    )
    return figure


@style()
def plot_filter_pairs(
    filters: Any,
    pairs: Any = None,
    *,
    columns: int | None = None,
    title: str = "",
    limit: float | None = None,
    each: bool = False,
    width: float = 8,
    alt: str = "",
) -> Picture:
    """Units beside their closest inverse, low frequencies first (the paper's Figures 5 and 6).

    Under a pair, where there is room, stands its cosine similarity: -1 for exact opposites.

    Args:
        filters: ``(n, gh, gw)``.
        pairs: ``(m, 2)`` unit numbers, drawn in this order. ``None``: those of
            :func:`mixer_lite.filters.pair_opposite_phases`.
        columns: pairs in a row; by default 8, or 12 of more than 64.
        title, limit, each, width: as in :func:`plot_token_filters`.
        alt: alt text; by default how many pairs and how opposite they are.

    Raises:
        ValueError: filters, pairs or limit are not as above.
    """
    maps = _maps(filters)
    n, gh, gw = maps.shape
    if pairs is None:
        if n < 2:
            raise ValueError("One unit alone makes no pair: filters must hold two or more.")
        pairs = measures.pair_opposite_phases(torch.from_numpy(maps))
    couples = _indices(pairs, n, "pairs")
    if couples.ndim != 2 or couples.shape[1] != 2:
        raise ValueError(f"pairs must be (m, 2), two units of a pair in a row: {couples.shape}.")
    shown = maps[couples.ravel()]  # (m, 2) -> (2 m, gh, gw): the two of a pair adjacent
    flat = shown.reshape(len(couples), 2, -1)
    length = np.linalg.norm(flat, axis=2).prod(axis=1)
    cosine = (flat[:, 0] * flat[:, 1]).sum(axis=1) / np.where(length > 0, length, 1)
    figure, (rows, wide), scale = _signed_sheet(
        shown,
        [str(u) for u in couples.ravel()],
        title,
        limit,
        each,
        width,
        group=2,
        columns=columns,
        below=[f"cos {c:.2f}".replace("-", "−") for c in cosine],
    )
    best = int(cosine.argmin())
    figure.alt = alt or (
        f"{len(couples)} pairs of token-mixing units of nearly opposite sign, folded to the {gh} "
        f"by {gw} grid of patches, in {rows} rows of up to {wide} pairs, {scale}. Their cosine "
        f"similarity is {np.median(cosine):.2f} at the median; the most opposite are units "
        f"{couples[best, 0]} and {couples[best, 1]}, {cosine[best]:.2f}."
    )
    return figure


@style()
def plot_embedding_filters(
    filters: Any,
    *,
    order: Any = None,
    components: int = 0,
    columns: int | None = None,
    title: str = "",
    limit: float | None = None,
    width: float = 8,
    alt: str = "",
) -> Picture:
    """What the stem's channels look for in a patch, as colours (the paper's Figure 7).

    A weight of 0 is mid-grey, ``limit`` full colour, ``-limit`` none, in each of red, green, blue.

    Args:
        filters: ``(C, 3, P, P)``, from :func:`mixer_lite.filters.embedding_filters`.
        order: ``(m,)`` channels in the order wanted; ``None``: by number.
        components: how many principal components to draw below, each scaled to its own largest
            weight, with its share of the variance.
        columns: filters in a row; by default 16, or 24 of more than 128.
        limit: of the scale; by default the largest magnitude drawn, so nothing is clipped.
        title, width: as in :func:`plot_token_filters`.
        alt: alt text; by default counts, scale and shares.

    Raises:
        ValueError: filters are not of three colours, or order or limit are not as above.
    """
    maps = _maps(filters, axes=4)
    if maps.shape[1] != 3:
        raise ValueError(
            f"Filters of {maps.shape[1]} channels have no colours: draw one channel of them with "
            f"plot_token_filters(filters[:, channel])."
        )
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be above 0, not {limit}.")
    channels = np.arange(len(maps)) if order is None else _indices(order, len(maps), "order")
    chosen = maps[channels]
    top = limit or float(np.abs(chosen).max()) or 1.0

    def colours(weights: np.ndarray, top: float) -> np.ndarray:
        rgb = rearrange(weights, "rgb p1 p2 -> p1 p2 rgb")
        return (0.5 + 0.5 * rgb / top).clip(0, 1)

    note = f"mid-grey is a weight of 0; full red, green or blue is +{top:.2g}, none −{top:.2g}"
    if components:
        note += "; components each to its own largest"
    sheet = _Sheet(width, title, note)
    rows, wide = sheet.rows(
        [colours(w, top) for w in chosen], [str(c) for c in channels], columns=columns
    )
    more = ""
    if components:
        parts, shares = measures.principal_components(torch.from_numpy(maps), components)
        sheet.heading(f"Their {len(parts)} strongest principal components, share of the variance")
        sheet.rows(
            [colours(w, float(np.abs(w).max()) or 1.0) for w in parts.numpy()],
            [f"{s:.1%}" for s in shares.tolist()],
            columns=columns or 16,
        )
        more = f" Below, their {len(parts)} strongest principal components: "
        more += f"{float(shares.sum()):.0%} of the variance."
    p1, p2 = maps.shape[2:]
    alt = alt or (
        f"{len(channels)} filters of the patch embedding, {p1} by {p2} pixels each, as colours "
        f"around mid-grey, in {rows} rows of up to {wide}; full colour is {top:.2g}.{more}"
    )
    return sheet.draw(alt)


# --- one unit ---------------------------------------------------------------------------------


def _frame(axes: Axes, title: str, below: str = "", **look: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#999999")
    axes.set_title(title, fontsize=10, **look)
    axes.set_xlabel(below, fontsize=8.5, color=FAINT)


def _signed_map(axes: Axes, values: np.ndarray, title: str, below: str = "") -> None:
    top = float(np.abs(values).max()) or 1.0
    axes.imshow(values, cmap=SIGNED, vmin=-top, vmax=top, interpolation="nearest")
    _frame(axes, title, below or f"scale ±{top:.2g}")


@torch.no_grad()
def _excitations(model: MlpMixer, x: torch.Tensor, block: int, unit: int) -> tuple[Any, Any]:
    # What the unit hears of each channel, (C,), and what the block gives it to hear, (C, gh, gw).
    target = measures.block_at(model, block)
    tokens = model.stem(model.patchify(x))  # (1, S, C)
    for earlier in list(model.blocks)[: block % model.num_blocks]:
        tokens = earlier(tokens)
    heard = rearrange(target.norm1(tokens), "1 (gh gw) c -> c gh gw", gh=model.grid_size[0])
    layer = target.mlp_tokens.fc1
    return heard.flatten(1) @ layer.weight[unit] + layer.bias[unit], heard  # (C, S) @ (S,)


@style()
def plot_unit(
    model: MlpMixer, block: int, unit: int, image: Any = None, *, title: str = "", alt: str = ""
) -> Picture:
    """One token-mixing unit: what it reads, what it writes, its spectrum, its closest inverse.

    With an image also what excites it. The unit sees every channel alone: one number for each
    channel, the sum of the channel's map times the pattern that the unit reads, plus a bias; after
    GELU that number times the pattern that it writes is added to the channel. The two channels
    that excite and inhibit it most are drawn, so that the likeness can be seen.

    Args:
        model: any Mixer; with an image it must know its preprocessing (``model.config``).
        block: from 0; negative numbers count from the end.
        unit: from 0.
        image: one photograph, as :func:`mixer_lite.predict` takes it.
        title: above the picture.
        alt: alt text; by default the unit's frequency, its partner and what excites it.

    Raises:
        ValueError: no such block or unit, or an image that the model cannot prepare.
    """
    reads = measures.token_filters(model, block, "fc1").cpu()
    writes = measures.token_filters(model, block, "fc2").cpu()
    count, gh, gw = reads.shape
    if not 0 <= unit < count:
        raise ValueError(f"unit must be from 0 to {count - 1}, not {unit}.")
    if image is not None and model.config is None:
        raise ValueError("To show it an image the model must know its preprocessing: model.config.")

    flat = reads.double().flatten(1)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
    cosine = flat @ flat[unit]
    cosine[unit] = torch.inf
    partner = int(cosine.argmin()) if count > 1 else unit
    power = measures.spectrum(reads[unit][None], pad=4)[0].numpy()
    frequency = float(measures.dominant_frequency(reads[unit][None]))

    rows = 1 if image is None else 2
    figure, axes = canvas(rows, 4, size=(8, 2.6 * rows + 0.3 * bool(title)), alt="", squeeze=False)
    figure.set_layout_engine("constrained", wspace=0.06, hspace=0.08)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    _signed_map(axes[0, 0], reads[unit].numpy(), "reads (row of W₁)")
    _signed_map(axes[0, 1], writes[unit].numpy(), "writes (column of W₂)")
    axes[0, 2].imshow(power, cmap=MAGNITUDE, vmin=0, extent=(-0.5, 0.5, 0.5, -0.5), aspect="equal")
    _frame(axes[0, 2], "spectrum of what it reads")
    axes[0, 2].set_xticks([-0.5, 0, 0.5])
    axes[0, 2].tick_params(labelsize=8, length=2)
    axes[0, 2].set_xlabel(
        f"periods per patch; highest at {frequency:.2f}", fontsize=8.5, color=FAINT
    )
    inverse = f"cos {float(cosine[partner]):.2f}".replace("-", "−")
    _signed_map(axes[0, 3], reads[partner].numpy(), f"closest inverse: unit {partner}")
    axes[0, 3].set_xlabel(f"{inverse}, {axes[0, 3].get_xlabel()}")
    where = block % model.num_blocks
    said = (
        f"Unit {unit} of block {where}: what it reads and what it writes on the {gh} by {gw} grid, "
        f"its spectrum, highest at {frequency:.2f} periods per patch, and its closest inverse, "
        f"unit {partner}, cosine {float(cosine[partner]):.2f}."
    )
    if image is not None:
        said += _draw_response(axes[1], model, where, unit, image)
    figure.alt = alt or said
    return figure


def _draw_response(axes: Any, model: MlpMixer, block: int, unit: int, image: Any) -> str:
    from mixer_lite.images import preprocess, unnormalize

    assert model.config is not None
    x = preprocess(image, model.config)
    if len(x) != 1:
        raise ValueError(f"This takes one image, not {len(x)}.")
    before, heard = _excitations(model, x.to(next(model.parameters())), block, unit)
    after = measures.block_at(model, block).mlp_tokens.act(before)
    before, after, heard = before.cpu().numpy(), after.cpu().numpy(), heard.cpu().numpy()
    draw_image(axes[0], unnormalize(x, model.config)[0])
    _frame(axes[0], "what the model sees")

    order = before.argsort()[::-1]
    rank = np.arange(len(order)) + 0.5
    axes[1].fill_between(rank, before[order], step="mid", color="#bbbbbb", label="before GELU")
    axes[1].plot(rank, after[order], color=ACCENT, drawstyle="steps-mid", label="after GELU")
    axes[1].axhline(0, color=INK, linewidth=0.6)
    axes[1].set_title("its response to each channel", fontsize=10)
    axes[1].set_xlabel(f"{len(order)} channels, sorted", fontsize=8.5, color=FAINT)
    axes[1].set(xlim=(0, len(order)), xticks=[])
    axes[1].set_box_aspect(heard.shape[1] / heard.shape[2])
    axes[1].tick_params(labelsize=8)
    axes[1].legend(fontsize=8, loc="upper right", handlelength=1.2, borderaxespad=0)
    for spot, c, word in ((axes[2], order[0], "excites"), (axes[3], order[-1], "inhibits")):
        title = f"{word} it: channel {c}"
        _signed_map(spot, heard[c], title)
        spot.set_xlabel(
            f"{before[c]:+z.1f} → {after[c]:+z.1f}, {spot.get_xlabel()}".replace("-", "−")
        )
    return (
        f" Below: the photograph, the unit's response to each of {len(order)} channels, and the "
        f"channels that excite it most, {order[0]} ({before[order[0]]:+z.1f} before GELU), and "
        f"least, {order[-1]} ({before[order[-1]]:+z.1f})."
    )


# --- reasons of a prediction ------------------------------------------------------------------


def _sum_of(mean: float, bias: float) -> str:
    # As few decimals as make the written sum come out right.
    logit = mean + bias
    for places in (2, 3, 4):
        parts = [round(v, places) for v in (mean, bias, logit)]
        if abs(parts[0] + parts[1] - parts[2]) < 1e-9:
            break
    else:
        places = 2
    sign = "−" if bias < 0 else "+"
    terms = f"mean {mean:z.{places}f} {sign} bias {abs(bias):.{places}f}"
    text = f"{terms} = logit {logit:z.{places}f}"
    return text.replace("-", "−")


@style()
def plot_evidence(
    image: Any,
    evidence: Any,
    bias: Any,
    names: Sequence[str] = (),
    *,
    limit: float | None = None,
    title: str = "",
    alt: str = "",
) -> Picture:
    """A photograph, and over it what each patch says for one or several classes.

    The mean of a map plus the class's bias is the logit: the sum stands above each map.

    Args:
        image: the photograph as the model sees it, anything that
            :func:`mixer_lite.figures.show_images` takes.
        evidence: ``(gh, gw)`` or ``(k, gh, gw)``, from :func:`mixer_lite.explain.patch_evidence`.
        bias: of the classes in the head, one number or ``(k,)``.
        names: of the classes, one for each map.
        limit: the one scale of all maps goes from ``-limit`` to ``limit``; by default the largest
            magnitude.
        title: above the picture.
        alt: alt text; by default each class's sum and its strongest patch.

    Raises:
        ValueError: evidence, bias, names or limit are not as above.
    """
    (maps,) = numbers([evidence])
    maps = maps[None] if maps.ndim == 2 else maps
    if maps.ndim != 3 or not maps.size:
        raise ValueError(
            f"evidence must be (gh, gw) or (classes, gh, gw), as ml.explain.patch_evidence gives "
            f"it, not {maps.shape}."
        )
    biases = numbers([bias])[0].reshape(-1)
    if len(biases) != len(maps) or len(names) not in (0, len(maps)):
        raise ValueError(
            f"{len(maps)} maps need as many biases and names, not {len(biases)} and {len(names)}."
        )
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be above 0, not {limit}.")
    top = limit or float(np.abs(maps).max()) or 1.0
    pixels = pixels_of(image)
    height, width = pixels.shape[:2]

    wide = min(len(maps) + 1, 4 if len(maps) != 4 else 3)
    rows = -(-(len(maps) + 1) // wide)
    cell = 7.4 / wide
    size = (
        8 if wide > 2 else 6.2,
        rows * (min(cell, 2.9) * height / width + 0.65) + 0.35 * bool(title),
    )
    figure, axes = canvas(rows, wide, size=size, alt="", squeeze=False)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    draw_image(axes[0, 0], pixels)
    bare(axes[0, 0], "photograph")
    said = []
    light = pixels[..., :3].astype(float) / (1 if pixels.dtype.kind == "f" else 255)
    light = light @ [0.3, 0.59, 0.11] if light.ndim == 3 else light
    shade = np.zeros((height, width, 4))  # black, more of it where the photograph is darker
    shade[..., 3] = 0.35 * (1 - light)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    for k, spot in enumerate(list(axes.flat)[1:]):
        if k >= len(maps):
            spot.set_axis_off()
            continue
        mesh = spot.imshow(
            maps[k], cmap=SIGNED, vmin=-top, vmax=top, extent=extent, interpolation="nearest"
        )
        spot.imshow(shade, extent=extent)
        bare(spot)
        total = _sum_of(maps[k].mean(), biases[k])
        name = names[k] if len(names) else f"map {k}" if len(maps) > 1 else "evidence"
        spot.set_title(name, fontsize=11, pad=28)
        spot.annotate(
            total.replace(" =", "\n="), (0.5, 1), (0, 5),
            xycoords="axes fraction", textcoords="offset points",
            ha="center", fontsize=8.5, color=INK,
        )  # fmt: skip
        y, x = np.unravel_index(maps[k].argmax(), maps[k].shape)
        said.append(f"{name}: {total}, most at row {y}, column {x} ({maps[k].max():+.2g})")
    bar = figure.colorbar(
        mesh, ax=axes, shrink=0.75, aspect=25, pad=0.02,
        extend="both" if (np.abs(maps) > top).any() else "neither",
    )  # fmt: skip
    bar.ax.set_title("logits", fontsize=8.5, color=INK, loc="left")
    bar.outline.set_visible(False)
    figure.alt = alt or f"A photograph and evidence maps over it. {'; '.join(said)}."
    return figure


@style()
def plot_depth(
    logits: Any, names: Sequence[str] = (), *, top: int = 4, title: str = "", alt: str = ""
) -> Picture:
    """The most probable classes if the network ended after 0, 1, ... L blocks.

    Classes that are among the ``top`` at the end, or lead after some block, have a colour (six at
    most); the rest are grey. A ring marks the class that leads.

    Args:
        logits: ``(L + 1, K)``, from :func:`mixer_lite.explain.prediction_by_depth`; rows that are
            probabilities already are drawn as they are.
        names: of the K classes; by default their numbers.
        top: classes followed, from 1 to 6.
        title: above the picture.
        alt: alt text; by default which class leads from where on.

    Raises:
        ValueError: logits, names or top are not as above.
    """
    (values,) = numbers([logits])
    if values.ndim != 2 or len(values) < 2 or not values.size:
        raise ValueError(
            f"logits must be (blocks + 1, classes), as ml.explain.prediction_by_depth gives "
            f"them, not {values.shape}."
        )
    depth, k = values.shape[0] - 1, values.shape[1]
    if len(names) not in (0, k):
        raise ValueError(f"{k} classes need as many names, not {len(names)}.")
    if not 1 <= top <= 6:
        raise ValueError(f"top must be from 1 to 6, not {top}: there are no more colours.")
    if not ((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-4)):
        values = np.exp(values - values.max(axis=1, keepdims=True))
        values = values / values.sum(axis=1, keepdims=True)
    words = [str(w) for w in names] if len(names) else [f"class {c}" for c in range(k)]
    leaders = values.argmax(axis=1)
    final = values[-1].argsort(kind="stable")[::-1]
    followed = list(dict.fromkeys([*final[:top].tolist(), *leaders[::-1].tolist()]))[:6]
    followed.sort(key=final.tolist().index)

    figure, axes = canvas(size=(7.4, 3.6), alt="")
    blocks = np.arange(depth + 1)
    for c in final[:40]:
        if c not in followed:
            axes.plot(blocks, values[:, c], color="#cccccc", linewidth=0.8, zorder=1)
    high = max(0.1, 1.08 * values.max())
    gap = 0.062 * high
    places = values[-1, followed].copy()  # of the names at the right, pushed apart
    for i in range(1, len(places)):
        places[i] = min(places[i], places[i - 1] - gap)
    places[-1] = max(places[-1], 0)  # and up again, where they ran out below
    for i in reversed(range(len(places) - 1)):
        places[i] = max(places[i], places[i + 1] + gap)
    for c, place in zip(followed, places, strict=True):
        (line,) = axes.plot(blocks, values[:, c], linewidth=2, marker="o", markersize=3)
        first = leaders == c
        axes.plot(
            blocks[first], values[first, c], "o", markersize=8, markeredgewidth=1.8,
            markerfacecolor="white", color=line.get_color(), zorder=4,
        )  # fmt: skip
        name = f"{words[c]} {values[-1, c]:.0%}"
        axes.text(depth * 1.03, place, name, color=line.get_color(), va="center")
    axes.set(xlim=(-0.2, depth + 0.1), ylim=(0, high), ylabel="probability")
    axes.set_xlabel("blocks passed before the final norm and head")
    step = max(1, depth // 12)
    axes.set_xticks(blocks[::step], ["stem", *map(str, blocks[step::step])])
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    if title:
        axes.set_title(title, loc="left")
    winner = int(leaders[-1])
    since = depth + 1 - int((leaders[::-1] == winner).cumprod().sum())
    since_words = "from the stem on" if since == 0 else f"from block {since} on"
    figure.alt = alt or (
        f"Probabilities of {k} classes after the stem and each of {depth} blocks. {words[winner]} "
        f"leads {since_words} and ends at {values[-1, winner]:.0%}; after the stem "
        f"{words[leaders[0]]} leads with {values[0, leaders[0]]:.0%}."
    )
    return figure


@style()
def plot_influence(
    matrix: Any,
    tokens: Any,
    grid: tuple[int, int],
    image: Any = None,
    *,
    title: str = "",
    alt: str = "",
) -> Picture:
    """Whom patches listen to: a row of the influence matrix, folded to the patch grid.

    A token hears itself loudest, by the skip connections. Its own cell is hatched, its number
    written above the map, and it is left out of the scale, which all maps share and which begins
    at 0; so the others can be seen. For who listens to a patch, pass the matrix transposed.

    Args:
        matrix: ``(S, S)`` from :func:`mixer_lite.explain.influence`; or ``(len(tokens), S)``,
            what ``influence(..., tokens=tokens)`` returns. A square one is taken as the first.
        tokens: one number or several: output tokens, counted from 0 in reading order.
        grid: ``(gh, gw)``, for example ``model.grid_size``.
        image: the photograph as the model sees it, drawn beside with the tokens marked.
        title: above the picture.
        alt: alt text; by default each token's loudest other.

    Raises:
        ValueError: matrix, tokens and grid do not fit together.
    """
    (table,) = numbers([matrix])
    gh, gw = grid
    s = gh * gw
    rows = np.atleast_1d(numbers([tokens])[0]).astype(int).tolist()
    if not rows or not all(0 <= t < s for t in rows):
        raise ValueError(f"tokens must be one or more numbers from 0 to {s - 1}, not {rows}.")
    if table.ndim != 2 or table.shape[1] != s or len(table) not in (s, len(rows)):
        raise ValueError(
            f"On a {gh} x {gw} grid the matrix must be ({s}, {s}), or a row of {s} for each of "
            f"{len(rows)} tokens, not {table.shape}."
        )
    chosen = table[rows] if len(table) == s else table  # (n, S)
    others = chosen.copy()
    others[np.arange(len(rows)), rows] = np.nan
    top = float(np.nanmax(others)) if s > 1 else 1.0

    extra = image is not None
    wide = min(len(rows) + extra, 4)
    lines = -(-(len(rows) + extra) // wide)
    cell = {1: 3.6, 2: 3.2}.get(wide, 7.2 / wide)
    size = (cell * wide + 0.9, lines * (min(cell, cell * gh / gw) + 0.8) + 0.25 * bool(title))
    figure, axes = canvas(lines, wide, size=size, alt="", squeeze=False)
    figure.set_layout_engine("constrained")  # "compressed" cuts the colour bar's numbers
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    spots = list(axes.flat)
    if extra:
        pixels = pixels_of(image)
        draw_image(spots[0], pixels, "photograph")
        ph, pw = pixels.shape[0] / gh, pixels.shape[1] / gw
        for t in rows:
            corner = (t % gw * pw - 0.5, t // gw * ph - 0.5)
            for colour, thick in (("black", 3.5), ("white", 1.5)):
                spots[0].add_patch(
                    Rectangle(corner, pw, ph, fill=False, edgecolor=colour, linewidth=thick)
                )
            if len(rows) > 1:
                middle = (corner[0] + pw / 2, corner[1] + ph / 2)
                spots[0].text(
                    *middle, str(t), ha="center", va="center", color="white", fontsize=8,
                    bbox=dict(boxstyle="round,pad=0.15", facecolor="black", alpha=0.6, linewidth=0),
                )  # fmt: skip
    said = []
    for spot, t, row, own in zip(spots[extra:], rows, others, chosen, strict=False):
        field = np.ma.masked_invalid(row.reshape(gh, gw))
        mesh = spot.imshow(field, cmap=MAGNITUDE, vmin=0, vmax=top or 1.0, interpolation="nearest")
        y, x = divmod(t, gw)
        spot.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5), 1, 1, facecolor="white", edgecolor="#555555", hatch="/////",
                linewidth=1.2,
            )
        )  # fmt: skip
        bare(spot)
        spot.set_title(f"token {t}", pad=18)
        loudest = int(np.nanargmax(row)) if s > 1 else t
        note = f"itself {own[t]:.3g}, others up to {own[loudest]:.3g}"
        spot.annotate(
            note, (0.5, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
            ha="center", fontsize=8.5, color=INK,
        )  # fmt: skip
        said.append(
            f"token {t} (row {y}, column {x}) most to token {loudest} (row {loudest // gw}, "
            f"column {loudest % gw}), {own[loudest]:.3g}, and to itself {own[t]:.3g}"
        )
    for spot in spots[extra + len(rows) :]:
        spot.set_axis_off()
    bar = figure.colorbar(mesh, ax=axes, shrink=0.75, aspect=25, pad=0.02)
    bar.ax.set_title("others", fontsize=8.5, color=INK, loc="left")
    bar.outline.set_visible(False)
    figure.alt = alt or (
        f"Whom tokens listen to on the {gh} by {gw} grid, the own cell hatched and left out of the "
        f"scale: {'; '.join(said)}."
    )
    return figure
