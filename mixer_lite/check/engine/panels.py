"""What a matplotlib figure of filters shows: which unit where, which way up, in which colours.

Works on the data behind the picture, however it was drawn: each map in its own axes, or one large
image that holds all maps. Imports matplotlib only when it is given a figure.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda m: m,
    "upside down": lambda m: m[::-1],
    "mirrored": lambda m: m[:, ::-1],
    "turned by half": lambda m: m[::-1, ::-1],
    "transposed": lambda m: m.T,
    "turned by a quarter": lambda m: np.rot90(m),
    "turned back by a quarter": lambda m: np.rot90(m, 3),
    "transposed the other way": lambda m: np.rot90(m, 2).T,
    "reshaped": lambda m: m.reshape(m.shape[::-1]),
}


@dataclass(frozen=True)
class Drawing:
    """Coloured cells as one sees them: the first row on top, the first column left.

    Attributes:
        values: ``(rows, columns)``, NaN where nothing is; ``None`` for ready-made colours.
        corner: of the top left cell's outer corner on the screen, in pixels, y upwards.
        cell: width and height of a cell in pixels.
        artist: matplotlib's object.
        smooth: whether neighbouring cells flow into one another.
        hidden: cells that lie outside their axes.
    """

    values: np.ndarray | None
    corner: tuple[float, float]
    cell: tuple[float, float]
    artist: Any
    smooth: bool
    hidden: int


@dataclass(frozen=True)
class Panel:
    """One unit found in a drawing: its values are ``factor * weights + shift``."""

    unit: int
    turn: str  # key of TURNS
    signs: bool  # False: it is the magnitudes that are drawn
    factor: float
    shift: float
    box: tuple[float, float, float, float]  # left, top, right, bottom on the screen
    drawing: Drawing

    def colour(self, weights: np.ndarray) -> np.ndarray:
        """Where on the colour map, 0 to 1, weights of this unit would be."""
        values = self.factor * weights + self.shift
        places = np.ma.asarray(self.drawing.artist.norm(np.ma.asarray(values)))
        steps = places.dtype.kind in "iu"  # a norm of steps counts colours
        shown = np.ma.filled(places.astype(float), np.nan)
        return np.clip(shown / (self.drawing.artist.get_cmap().N - 1 if steps else 1), 0, 1)


Opened = Callable[[], tuple[list[Any], list[Any]]]


class _StandIn:
    """Called in place of matplotlib's; an object, for an answer may not call a check's function."""

    def __init__(self, does: Callable[..., None]):
        self.does = does

    def __call__(self, *args: Any, **how: Any) -> None:
        self.does(*args, **how)

    def __get__(self, figure: Any, kind: type) -> Callable[..., None]:
        return partial(self, figure)


@contextlib.contextmanager
def figures_closed() -> Iterator[Opened]:
    """Show nothing, and close figures that are opened in this block only at its end.

    Gives a list of them, and one of those that were saved. Nothing is written under a file name:
    the learner may have a picture of that name.
    """
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    before, show, close, save = set(plt.get_fignums()), plt.show, plt.close, Figure.savefig
    saved: list[Any] = []
    active = plt.gcf() if before else None
    if before:
        plt.figure()  # so that nothing is drawn into a figure of the learner's

    def opened() -> tuple[list[Any], list[Any]]:
        numbers = [n for n in plt.get_fignums() if n not in before]
        return [figure for figure in map(plt.figure, numbers) if figure.axes], saved

    def keep(figure: Any, fname: Any, *args: Any, **how: Any) -> None:
        saved.append(figure)
        if not isinstance(fname, (str, os.PathLike)):
            save(figure, fname, *args, **how)

    plt.show = plt.close = _StandIn(lambda *_, **__: None)
    Figure.savefig = _StandIn(keep)  # type: ignore[method-assign]
    try:
        yield opened
    finally:
        plt.show, plt.close, Figure.savefig = show, close, save  # type: ignore[method-assign]
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        if active is not None:
            plt.figure(active)


def drawings(figure: Any) -> list[Drawing]:
    """The images and meshes of a figure, colour bars left out."""
    from matplotlib.collections import QuadMesh
    from matplotlib.image import AxesImage

    found = []
    if any(axes.get_axes_locator() for axes in _all_axes(figure)):
        figure.draw_without_rendering()  # places that only drawing finds, as in an ImageGrid
    for axes in _all_axes(figure):
        if hasattr(axes, "_colorbar") or not axes.get_visible():
            continue
        # Places axes as drawing would, without the second that a layout engine takes.
        axes.viewLim  # noqa: B018  (sets the limits)
        if not axes.get_axes_locator():
            axes.apply_aspect()
        for artist in axes.get_children():
            if not artist.get_visible():
                continue
            if isinstance(artist, AxesImage):
                found.append(_of_image(axes, artist))
            elif isinstance(artist, QuadMesh) or hasattr(artist, "get_coordinates"):
                found.append(_of_mesh(axes, artist))
            else:
                continue
            artist.autoscale_None()
    return found


def _all_axes(figure: Any) -> list[Any]:
    found = list(figure.axes)
    for axes in found:  # grows: insets are children of their axes
        found += [child for child in axes.child_axes if child not in found]
    return found


def _of_image(axes: Any, image: Any) -> Drawing:
    array = image.get_array()
    rows, columns = array.shape[:2]
    left, right, bottom, top = image.get_extent()
    first, last = (top, bottom) if image.origin == "upper" else (bottom, top)
    corners = image.get_transform().transform([[left, first], [right, last]])
    smooth = image.get_interpolation() not in ("nearest", "none", "auto", "antialiased", None)
    return _seen(axes, array, corners, rows, columns, image, smooth)


def _of_mesh(axes: Any, mesh: Any) -> Drawing:
    points = mesh.get_coordinates()  # (rows + 1, columns + 1, 2)
    smooth = getattr(mesh, "_shading", "flat") == "gouraud"
    rows, columns = points.shape[0] - (not smooth), points.shape[1] - (not smooth)
    array = np.ma.asarray(mesh.get_array())
    if array.shape[:2] != (rows, columns):
        array = array.reshape(rows, columns, *array.shape[2:]) if array.size else array
    corners = mesh.get_transform().transform([points[0, 0], points[-1, -1]])
    return _seen(axes, array, corners, rows, columns, mesh, smooth)


def _seen(
    axes: Any, array: Any, corners: np.ndarray, rows: int, columns: int, artist: Any, smooth: bool
) -> Drawing:
    (x0, y0), (x1, y1) = corners  # of cell (0, 0) and of the last cell, on the screen
    values = None
    if array.ndim == 2:
        values = np.ma.filled(np.ma.asarray(array).astype(float), np.nan)
        if x1 < x0:
            values = values[:, ::-1]
        if y1 > y0:
            values = values[::-1]
    xs = np.linspace(x0, x1, 2 * columns + 1)[1::2]
    ys = np.linspace(y0, y1, 2 * rows + 1)[1::2]
    box = axes.bbox
    inside = ((xs > box.x0) & (xs < box.x1)).sum() * ((ys > box.y0) & (ys < box.y1)).sum()
    return Drawing(
        values,
        (min(x0, x1), max(y0, y1)),
        (abs(x1 - x0) / columns, abs(y1 - y0) / rows),
        artist,
        smooth,
        rows * columns - int(inside),
    )


def panels(drawing: Drawing, filters: np.ndarray) -> list[Panel]:
    """The units, each ``(gh, gw)`` of filters ``(n, gh, gw)``, that lie in a drawing.

    A unit is found by its values: whatever positive or negative factor and shift they have, with
    or without sign, turned in any way.
    """
    values = drawing.values
    if values is None:
        return []
    found = []
    turned: dict[tuple[int, int], list[tuple[int, str, bool, np.ndarray]]] = {}
    for unit, weights in enumerate(filters):
        for turn, how in TURNS.items():
            if turn == "reshaped" and weights.shape[0] == weights.shape[1]:
                continue  # nothing to tell
            for signs in (True, False):
                looks = how(weights if signs else np.abs(weights))
                turned.setdefault(looks.shape, []).append((unit, turn, signs, looks))
    for shape, candidates in turned.items():
        if shape[0] > values.shape[0] or shape[1] > values.shape[1]:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(values, shape)
        places = windows.shape[:2]
        flat = windows.reshape(-1, shape[0] * shape[1])
        known = np.flatnonzero(np.isfinite(flat).all(axis=1))
        flat = flat[known]
        centred = flat - flat.mean(axis=1, keepdims=True)
        length = np.linalg.norm(centred, axis=1)
        looks = np.stack([c[3].ravel() for c in candidates])
        shapes = looks - looks.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(shapes, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            alike = (centred @ shapes.T) / (length[:, None] * norms)
        for at, which in np.argwhere(np.abs(np.nan_to_num(alike)) > 1 - 1e-5):
            unit, turn, signs, _ = candidates[which]
            y, x = divmod(int(known[at]), places[1])
            factor = float(alike[at, which] * length[at] / norms[which])
            shift = float(flat[at].mean() - factor * looks[which].mean())
            (left, top), (wide, high) = drawing.corner, drawing.cell
            box = (
                left + x * wide,
                top - y * high,
                left + (x + shape[1]) * wide,
                top - (y + shape[0]) * high,
            )
            found.append(Panel(unit, turn, signs, factor, shift, box, drawing))
    return found


def in_reading_order(found: list[Panel]) -> list[Panel]:
    """Panels by rows, top row first, each from left to right."""
    rows: list[list[Panel]] = []
    for panel in sorted(found, key=lambda p: -(p.box[1] + p.box[3])):
        middle = (panel.box[1] + panel.box[3]) / 2
        if rows and middle > rows[-1][0].box[3]:  # above the lower edge of the row's first
            rows[-1].append(panel)
        else:
            rows.append([panel])
    return [panel for row in rows for panel in sorted(row, key=lambda p: p.box[0])]


def overlapping(found: list[Panel]) -> bool:
    """Whether two panels lie on top of each other by half or more."""
    for i, a in enumerate(found):
        for b in found[:i]:
            wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
            high = min(a.box[1], b.box[1]) - max(a.box[3], b.box[3])
            area = abs((a.box[2] - a.box[0]) * (a.box[1] - a.box[3]))
            if wide > 0 and high > 0 and wide * high > 0.5 * area:
                return True
    return False


def words(figure: Any) -> list[str]:
    """Everything written in a figure except the ticks' numbers."""
    texts, figures = [], [figure]
    for part in figures:  # grows: a figure may hold figures
        texts += part.texts
        figures += part.subfigs
    for axes in _all_axes(figure):
        texts += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        texts += [axes.xaxis.label, axes.yaxis.label]
    return [text.get_text().strip() for text in texts if text.get_text().strip()]


def diverges(colours: Any) -> bool:
    """Whether a colour map goes from one colour through a pale middle to another."""
    ends = np.array([colours(x)[:3] for x in (0.0, 0.2, 0.5, 0.8, 1.0)])
    light = ends @ (0.299, 0.587, 0.114)
    rises = light[2] > light[1] + 0.02 and light[2] > light[3] + 0.02
    pale = light[2] - max(light[0], light[4]) > 0.15 and np.ptp(ends[2]) < 0.36
    return bool(rises and pale and np.abs(ends[0] - ends[4]).max() > 0.2)
