"""Sheets of small maps, laid out in whole screen pixels: every weight is drawn equally large."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from torch import Tensor

from mixer_lite.figures.drawing import DPI, FAINT, INK, SIGNED, Picture, numbers

LABEL = 9  # pixels that a unit's number needs above its map


def checked_maps(filters: Any, axes: int = 3) -> np.ndarray:
    """Filters as an array, checked: ``(n, gh, gw)``, or with 4 axes ``(C, 3, P, P)``."""
    (array,) = numbers([filters])
    shape = "(units, grid_h, grid_w)" if axes == 3 else "(channels, 3, P, P)"
    wanted = {3: "ml.filters.token_filters", 4: "ml.filters.embedding_filters"}[axes]
    if array.ndim != axes or not array.size:
        raise ValueError(f"filters must be {shape}, as {wanted} gives them, not {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("filters must be finite, but some numbers are infinite or NaN.")
    return array


def checked_units(order: Any, count: int, name: str) -> np.ndarray:
    """Numbers of units as an array of the same shape, checked."""
    chosen = np.asarray(order.cpu() if isinstance(order, Tensor) else order)
    if not chosen.size or chosen.dtype.kind not in "iu" or not (0 <= chosen.min() <= chosen.max()):
        raise ValueError(f"{name} must hold numbers of units from 0 to {count - 1}.")
    if chosen.max() >= count:
        raise ValueError(f"{name} names unit {chosen.max()}, but units go from 0 to {count - 1}.")
    return chosen


def _robust(array: np.ndarray) -> float:
    # A few large weights would make all others look white: 1 % may lie beyond the scale.
    return float(np.quantile(np.abs(array), 0.99)) or float(np.abs(array).max()) or 1.0


class Sheet:
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
        """Lay out maps, ``group`` of them close together; returns rows and groups in a row.

        ``look`` is AxesImage's; a list in it holds one value a map.
        """
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
            own = {key: v[k] if isinstance(v, list) else v for key, v in look.items()}
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
        """A line of words below what is laid out so far."""
        self.drawings.append(("text", 8, self.y + 4, text, dict(size=10, va="top")))
        self.y += 24

    def draw(self, alt: str) -> Picture:
        """The page as a picture."""
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
                axes.add_image(image)  # much faster than imshow
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


def signed_sheet(
    maps: np.ndarray,
    labels: list[str],
    title: str,
    limit: float | None,
    each: bool,
    width: float,
    **layout: Any,
) -> tuple[Picture, tuple[int, int], str]:
    """A sheet of maps of signed numbers with its colour bar: the picture, rows and columns, scale.

    ``layout`` is what :meth:`Sheet.rows` takes.
    """
    norms, note, clipped = _scales(maps, limit, each)
    sheet = Sheet(width, title, note, None if each else norms[0])
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
