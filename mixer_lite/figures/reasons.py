"""Figures of why a model predicts what it does, over ``mixer_lite.explain``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mixer_lite.figures.drawing import (
    INK,
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


def _sum_of(mean: float, bias: float) -> str:
    # With just enough decimals that the written sum is right.
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


def _shade(pixels: np.ndarray) -> np.ndarray:
    # Black, more opaque where the photograph is darker: (h, w, 4).
    light = pixels[..., :3].astype(float) / (1 if pixels.dtype.kind == "f" else 255)
    light = light @ [0.3, 0.59, 0.11] if light.ndim == 3 else light
    shade = np.zeros((*pixels.shape[:2], 4))
    shade[..., 3] = 0.35 * (1 - light)
    return shade


def _draw_evidence(
    spot: Axes, field: np.ndarray, mean: float, bias: float, name: str, look: dict[str, Any]
) -> tuple[Any, str]:
    # One class's map (gh, gw) under its sum; what colours it, and what to say of it.
    mesh = spot.imshow(field, cmap=SIGNED, interpolation="nearest", **look)
    bare(spot)
    total = _sum_of(mean, bias)
    spot.set_title(name, fontsize=11, pad=28)
    spot.annotate(
        total.replace(" =", "\n="), (0.5, 1), (0, 5),
        xycoords="axes fraction", textcoords="offset points",
        ha="center", fontsize=8.5, color=INK,
    )  # fmt: skip
    y, x = np.unravel_index(field.argmax(), field.shape)
    return mesh, f"{name}: {total}, most at row {y}, column {x} ({field.max():+.2g})"


def _bar(figure: Picture, axes: Any, mesh: Any, title: str, extend: str) -> None:
    bar = figure.colorbar(mesh, ax=axes, shrink=0.75, aspect=25, pad=0.02, extend=extend)
    bar.ax.set_title(title, fontsize=8.5, color=INK, loc="left")
    bar.outline.set_visible(False)


def _checked(
    evidence: Any, bias: Any, names: Sequence[str], limit: float | None
) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    # Maps (k, gh, gw), biases (k,) and k names, once they are known to fit.
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
    if not len(names):
        names = [f"map {k}" for k in range(len(maps))] if len(maps) > 1 else ["evidence"]
    return maps, biases, names


@style()
def plot_evidence(
    image: Any,
    evidence: Any,
    bias: Any,
    names: Sequence[str] = (),
    *,
    centred: bool = False,
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
        centred: each map less its mean: white is the mean, not 0.
        limit: the one scale of all maps goes from ``-limit`` to ``limit``; by default the largest
            magnitude.
        title: above the picture.
        alt: alt text; by default each class's sum and its strongest patch.

    Raises:
        ValueError: evidence, bias, names or limit are not as above.
    """
    maps, biases, names = _checked(evidence, bias, names, limit)
    means = maps.mean(axis=(1, 2))
    maps = maps - means[:, None, None] if centred else maps  # (classes, gh, gw)
    top = limit or float(np.abs(maps).max()) or 1.0
    pixels = pixels_of(image)
    height, width = pixels.shape[:2]

    wide = min(len(maps) + 1, 4 if len(maps) != 4 else 3)
    rows = -(-(len(maps) + 1) // wide)
    high = rows * (min(7.4 / wide, 2.9) * height / width + 0.65) + 0.35 * bool(title)
    size = (8 if wide > 2 else 6.2, high)
    figure, axes = canvas(rows, wide, size=size, alt="", squeeze=False)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    draw_image(axes[0, 0], pixels)
    bare(axes[0, 0], "photograph")
    said = []
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    look = dict(vmin=-top, vmax=top, extent=extent)
    for k, spot in enumerate(list(axes.flat)[1:]):
        if k >= len(maps):
            spot.set_axis_off()
            continue
        mesh, told = _draw_evidence(spot, maps[k], means[k], biases[k], names[k], look)
        spot.imshow(_shade(pixels), extent=extent)
        said.append(told)
    unit = "logits from the mean" if centred else "logits"
    _bar(figure, axes, mesh, unit, "both" if (np.abs(maps) > top).any() else "neither")
    figure.alt = alt or f"A photograph and evidence maps over it. {'; '.join(said)}."
    return figure


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    # Descending heights of names, pushed apart, and up again where they fall below 0.
    places = heights.copy()
    for i in range(1, len(places)):
        places[i] = min(places[i], places[i - 1] - gap)
    places[-1] = max(places[-1], 0)
    for i in reversed(range(len(places) - 1)):
        places[i] = max(places[i], places[i + 1] + gap)
    return places


def _checked_depth(logits: Any, names: Sequence[str], top: int) -> np.ndarray:
    # Probabilities (L + 1, K), once logits, names and top are known to fit.
    (values,) = numbers([logits])
    if values.ndim != 2 or len(values) < 2 or not values.size:
        raise ValueError(
            f"logits must be (blocks + 1, classes), as ml.explain.prediction_by_depth gives "
            f"them, not {values.shape}."
        )
    if len(names) not in (0, values.shape[1]):
        raise ValueError(f"{values.shape[1]} classes need as many names, not {len(names)}.")
    if not 1 <= top <= 6:
        raise ValueError(f"top must be from 1 to 6, not {top}: there are no more colours.")
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-4):
        return values
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


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
    values = _checked_depth(logits, names, top)
    depth, k = values.shape[0] - 1, values.shape[1]
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
    places = _apart(values[-1, followed], 0.062 * high)
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


def _mark_tokens(spot: Axes, tokens: list[int], ph: float, pw: float, gw: int) -> None:
    # Frames around patches of ph x pw pixels on a grid of gw columns, with numbers if several.
    for t in tokens:
        corner = (t % gw * pw - 0.5, t // gw * ph - 0.5)
        for colour, thick in (("black", 3.5), ("white", 1.5)):
            spot.add_patch(Rectangle(corner, pw, ph, fill=False, edgecolor=colour, linewidth=thick))
        if len(tokens) > 1:
            middle = (corner[0] + pw / 2, corner[1] + ph / 2)
            spot.text(
                *middle, str(t), ha="center", va="center", color="white", fontsize=8,
                bbox=dict(boxstyle="round,pad=0.15", facecolor="black", alpha=0.6, linewidth=0),
            )  # fmt: skip


def _draw_heard(
    spot: Axes, others: np.ndarray, own: np.ndarray, t: int, top: float
) -> tuple[Any, str]:
    # What token t hears: of the others (gh, gw), itself NaN; of all (S,). As _draw_evidence.
    gw = others.shape[1]
    field = np.ma.masked_invalid(others)
    mesh = spot.imshow(field, cmap=MAGNITUDE, vmin=0, vmax=top, interpolation="nearest")
    y, x = divmod(t, gw)
    spot.add_patch(
        Rectangle(
            (x - 0.5, y - 0.5), 1, 1, facecolor="white", edgecolor="#555555", hatch="/////",
            linewidth=1.2,
        )
    )  # fmt: skip
    bare(spot)
    spot.set_title(f"token {t}", pad=18)
    loudest = int(np.nanargmax(others)) if others.size > 1 else t
    note = f"itself {own[t]:.3g}, others up to {own[loudest]:.3g}"
    spot.annotate(
        note, (0.5, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
        ha="center", fontsize=8.5, color=INK,
    )  # fmt: skip
    return mesh, (
        f"token {t} (row {y}, column {x}) most to token {loudest} (row {loudest // gw}, "
        f"column {loudest % gw}), {own[loudest]:.3g}, and to itself {own[t]:.3g}"
    )


def _checked_influence(
    matrix: Any, tokens: Any, grid: tuple[int, int]
) -> tuple[np.ndarray, list[int]]:
    # Rows (n, S) of the matrix for these tokens, once all is known to fit.
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
    return (table[rows] if len(table) == s else table), rows


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
    chosen, rows = _checked_influence(matrix, tokens, grid)  # (n, S)
    gh, gw = grid
    others = chosen.copy()
    others[np.arange(len(rows)), rows] = np.nan
    top = float(np.nanmax(others)) if gh * gw > 1 else 1.0

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
        _mark_tokens(spots[0], rows, pixels.shape[0] / gh, pixels.shape[1] / gw, gw)
    said = []
    for spot, t, row, own in zip(spots[extra:], rows, others, chosen, strict=False):
        mesh, told = _draw_heard(spot, row.reshape(gh, gw), own, t, top or 1.0)
        said.append(told)
    for spot in spots[extra + len(rows) :]:
        spot.set_axis_off()
    _bar(figure, axes, mesh, "others", "neither")
    figure.alt = alt or (
        f"Whom tokens listen to on the {gh} by {gw} grid, the own cell hatched and left out of the "
        f"scale: {'; '.join(said)}."
    )
    return figure
