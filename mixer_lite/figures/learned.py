"""Figures of what a model learned: sheets of filters, and one unit, over ``mixer_lite.filters``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes

from mixer_lite import explain
from mixer_lite.figures.drawing import (
    ACCENT,
    FAINT,
    INK,
    MAGNITUDE,
    SIGNED,
    Picture,
    canvas,
    draw_image,
    style,
)
from mixer_lite.figures.sheets import Sheet, checked_maps, checked_units, signed_sheet
from mixer_lite.filters import (
    block_at,
    closest_inverse,
    dominant_frequency,
    pair_opposite_phases,
    principal_components,
    spectrum,
    token_filters,
)
from mixer_lite.model import MlpMixer


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
        each: every unit on its own scale, which shows patterns and hides strengths.
        width: of the picture, in inches.
        alt: alt text; by default how many units, the scale, and where the largest weight is.

    Raises:
        ValueError: filters, order, labels or limit are not as above.
    """
    maps = checked_maps(filters)
    n, gh, gw = maps.shape
    units = np.arange(n) if order is None else checked_units(order, n, "order")
    words = [str(u) for u in range(n)] if labels is None else [str(w) for w in labels]
    if units.ndim != 1:
        raise ValueError(f"order must be one row of unit numbers, not of shape {units.shape}.")
    if len(words) != n:
        raise ValueError(f"{n} units need as many labels, not {len(words)}.")
    shown = maps[units]
    figure, (rows, wide), scale = signed_sheet(
        shown, [words[u] for u in units], title, limit, each, width, columns=columns
    )
    k, y, x = np.unravel_index(np.abs(shown).argmax(), shown.shape)
    figure.alt = alt or (
        f"{len(units)} token-mixing units, each folded to the {gh} by {gw} grid of patches, in "
        f"{rows} rows of up to {wide}, {scale}. First is unit {units[0]}, last unit {units[-1]}. "
        f"The largest weight, {shown[k, y, x]:.2g}, is unit {units[k]}'s at row {y}, column {x}."
    )
    return figure


def _cosines(shown: np.ndarray) -> np.ndarray:
    # Of pairs that stand side by side: (2 m, gh, gw) -> (m,)
    flat = shown.reshape(len(shown) // 2, 2, -1)
    length = np.linalg.norm(flat, axis=2).prod(axis=1)
    return (flat[:, 0] * flat[:, 1]).sum(axis=1) / np.where(length > 0, length, 1)


@style()
def plot_filter_pairs(
    filters: Any,
    pairs: Any = None,
    *,
    columns: int | None = None,
    title: str = "",
    limit: float | None = None,
    each: bool = False,
    faded: float = math.inf,
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
        faded: pairs whose cosine lies above this are drawn faint: they are no opposites.
        alt: alt text; by default how many pairs and how opposite they are.

    Raises:
        ValueError: filters, pairs or limit are not as above.
    """
    maps = checked_maps(filters)
    n, gh, gw = maps.shape
    if pairs is None:
        if n < 2:
            raise ValueError("One unit alone makes no pair: filters must hold two or more.")
        pairs = pair_opposite_phases(torch.from_numpy(maps))
    couples = checked_units(pairs, n, "pairs")
    if couples.ndim != 2 or couples.shape[1] != 2:
        raise ValueError(f"pairs must be (m, 2), two units of a pair in a row: {couples.shape}.")
    shown = maps[couples.ravel()]  # (m, 2) -> (2 m, gh, gw): the two of a pair adjacent
    cosine = _cosines(shown)
    figure, (rows, wide), scale = signed_sheet(
        shown,
        [str(u) for u in couples.ravel()],
        title,
        limit,
        each,
        width,
        group=2,
        columns=columns,
        below=[f"cos {c:.2f}".replace("-", "−") for c in cosine],
        alpha=np.repeat(np.where(cosine > faded, 0.25, 1.0), 2).tolist(),
    )
    best, weak = int(cosine.argmin()), int((cosine > faded).sum())
    figure.alt = alt or (
        f"{len(couples)} pairs of token-mixing units, folded to the {gh} "
        f"by {gw} grid of patches, in {rows} rows of up to {wide} pairs, {scale}. Their cosine "
        f"similarity is {np.median(cosine):.2f} at the median; the most opposite are units "
        f"{couples[best, 0]} and {couples[best, 1]}, {cosine[best]:.2f}."
        + (f" Faint: {weak} pairs above {faded:g}." if weak else "")
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
    maps = checked_maps(filters, axes=4)
    if maps.shape[1] != 3:
        raise ValueError(
            f"Filters of {maps.shape[1]} channels have no colours: draw one channel of them with "
            f"plot_token_filters(filters[:, channel])."
        )
    if limit is not None and not limit > 0:
        raise ValueError(f"limit must be above 0, not {limit}.")
    channels = np.arange(len(maps)) if order is None else checked_units(order, len(maps), "order")
    chosen = maps[channels]
    top = limit or float(np.abs(chosen).max()) or 1.0
    note = f"mid-grey is a weight of 0; full red, green or blue is +{top:.2g}, none −{top:.2g}"
    if components:
        note += "; components each to its own largest"
    sheet = Sheet(width, title, note)
    rows, wide = sheet.rows(
        [_colours(w, top) for w in chosen], [str(c) for c in channels], columns=columns
    )
    more = _components_below(sheet, maps, components, columns or 16) if components else ""
    p1, p2 = maps.shape[2:]
    alt = alt or (
        f"{len(channels)} filters of the patch embedding, {p1} by {p2} pixels each, as colours "
        f"around mid-grey, in {rows} rows of up to {wide}; full colour is {top:.2g}.{more}"
    )
    return sheet.draw(alt)


def _colours(weights: np.ndarray, top: float) -> np.ndarray:
    rgb = rearrange(weights, "rgb p1 p2 -> p1 p2 rgb")
    return (0.5 + 0.5 * rgb / top).clip(0, 1)


def _components_below(sheet: Sheet, maps: np.ndarray, count: int, columns: int) -> str:
    # The strongest principal components of maps (n, 3, P, P), and what to say of them.
    parts, shares = principal_components(torch.from_numpy(maps), count)
    sheet.heading(f"Their {len(parts)} strongest principal components, share of the variance")
    sheet.rows(
        [_colours(w, float(np.abs(w).max()) or 1.0) for w in parts.numpy()],
        [f"{s:.1%}" for s in shares.tolist()],
        columns=columns,
    )
    share = f"{float(shares.sum()):.0%} of the variance"
    return f" Below, their {len(parts)} strongest principal components: {share}."


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


@style()
def plot_unit(
    model: MlpMixer, block: int, unit: int, image: Any = None, *, title: str = "", alt: str = ""
) -> Picture:
    """One token-mixing unit: what it reads, what it writes, its spectrum, its closest inverse.

    With an image also what excites it. The unit sees every channel alone: the sum of the channel's
    map times the pattern that the unit reads, plus a bias, goes through GELU; so much of the
    pattern that it writes is added to the channel. The channels that excite and inhibit it most
    are drawn.

    Args:
        model: any Mixer; with an image it must know its preprocessing (``model.config``).
        block: from 0; negative numbers count from the end.
        unit: from 0.
        image: one photograph, as :func:`mixer_lite.prediction` takes it.
        title: above the picture.
        alt: alt text; by default the unit's frequency, its partner and what excites it.

    Raises:
        ValueError: no such block or unit, or an image that the model cannot prepare.
    """
    reads = token_filters(model, block, "fc1").cpu()
    writes = token_filters(model, block, "fc2").cpu()
    count, gh, gw = reads.shape
    if not 0 <= unit < count:
        raise ValueError(f"unit must be from 0 to {count - 1}, not {unit}.")
    if image is not None and model.config is None:
        raise ValueError("To show it an image the model must know its preprocessing: model.config.")

    partners, cosines = closest_inverse(reads)
    partner, cosine = int(partners[unit]), float(cosines[unit])
    power = spectrum(reads[unit][None], pad=4)[0].numpy()
    frequency = float(dominant_frequency(reads[unit][None]))

    rows = 1 if image is None else 2
    figure, axes = canvas(rows, 4, size=(8, 2.6 * rows + 0.3 * bool(title)), alt="", squeeze=False)
    figure.set_layout_engine("constrained", wspace=0.06, hspace=0.08)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    _signed_map(axes[0, 0], reads[unit].numpy(), "reads (row of W₁)")
    _signed_map(axes[0, 1], writes[unit].numpy(), "writes (column of W₂)")
    axes[0, 2].imshow(power, cmap=MAGNITUDE, vmin=0, extent=(-0.5, 0.5, 0.5, -0.5), aspect="equal")
    _frame(
        axes[0, 2], "spectrum of what it reads", f"periods per patch; highest at {frequency:.2f}"
    )
    axes[0, 2].set_xticks([-0.5, 0, 0.5])
    axes[0, 2].tick_params(labelsize=8, length=2)
    inverse = f"cos {cosine:.2f}".replace("-", "−")
    _signed_map(axes[0, 3], reads[partner].numpy(), f"closest inverse: unit {partner}")
    axes[0, 3].set_xlabel(f"{inverse}, {axes[0, 3].get_xlabel()}")
    where = block % model.num_blocks
    said = (
        f"Unit {unit} of block {where}: what it reads and what it writes on the {gh} by {gw} grid, "
        f"its spectrum, highest at {frequency:.2f} periods per patch, and its closest inverse, "
        f"unit {partner}, cosine {cosine:.2f}."
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
    reads = block_at(model, block).mlp_tokens.fc1
    x = x.to(reads.weight)
    with torch.no_grad():
        seen, responses = explain.unit_responses(model, x[0], block)  # (C, gh, gw), (C, D_S)
        excited = seen.flatten(1) @ reads.weight[unit] + reads.bias[unit]  # (C, S) @ (S,)
    heard, before, after = (t.cpu().numpy() for t in (seen, excited, responses[:, unit]))
    draw_image(axes[0], unnormalize(x.cpu(), model.config)[0])
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
