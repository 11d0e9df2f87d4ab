"""Judging a learner's figure of filters: the table of what may be wrong with it, in order."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from mixer_lite.check.engine.panels import (
    TURNS,
    Drawing,
    Opened,
    Panel,
    diverges,
    drawings,
    figures_closed,
    in_reading_order,
    overlapping,
    panels,
    words,
)
from mixer_lite.check.engine.planted import wave_numbers, waves
from mixer_lite.check.engine.trial import Trial


class Shown:
    """What a figure shows of filters ``(n, gh, gw)``."""

    def __init__(self, figure: Any, filters: np.ndarray):
        self.figure, self.filters, self.n = figure, filters, len(filters)
        self.seen: list[Drawing] = drawings(figure)
        self.each = [panels(drawing, filters) for drawing in self.seen]
        self.found: list[Panel] = in_reading_order([p for ps in self.each for p in ps])
        self.units = [p.unit for p in self.found]
        self.missing = [u for u in range(self.n) if u not in self.units]
        self.unknown = [d for d, ps in zip(self.seen, self.each, strict=True) if not ps]

    def sizes(self) -> dict[str, Any]:
        """What the words are filled in with."""
        shapes = sorted({str(d.values.shape) for d in self.seen if d.values is not None})
        n, gh, gw = self.filters.shape
        return dict(n=n, gh=gh, gw=gw, s=gh * gw, arrays=len(self.seen), shapes=", ".join(shapes))

    @cached_property
    def curves(self) -> np.ndarray:
        """Where on its map of colours each unit shows weights from -top to top: ``(n, 41)``."""
        top = float(abs(self.filters).max())
        return np.stack([p.colour(np.linspace(-top, top, 41)) for p in self.found])

    @cached_property
    def ends(self) -> np.ndarray:
        """Where each unit shows its own smallest and largest weight: ``(n, 2)``."""
        own = [[f(self.filters[p.unit]) for f in (np.min, np.max)] for p in self.found]
        return np.array([p.colour(np.array(w)) for p, w in zip(self.found, own, strict=True)])

    @property
    def zeros(self) -> dict[str, str]:
        """Where each unit shows zero, in words."""
        return dict(zeros=", ".join(f"{z:.2f}" for z in self.curves[:, 20]))

    def maps(self) -> dict[str, Any]:
        """The maps of colours, by name."""
        cmaps = [p.drawing.artist.get_cmap() for p in self.found]
        return {cmap.name: cmap for cmap in cmaps}


Fill = dict[str, Any] | None  # for the words; None: this is not what is wrong


def _if(wrong: Any, **fill: Any) -> Fill:
    return fill if wrong else None


def _alike(values: np.ndarray | None, other: np.ndarray) -> bool:
    # Equal up to a factor and a shift.
    if values is None or values.shape != other.shape or not np.isfinite(values).all():
        return False
    a, b = values - values.mean(), other - other.mean()
    return abs((a * b).sum()) > (1 - 1e-5) * np.linalg.norm(a) * np.linalg.norm(b) > 0


def _drawn(what: Callable[[np.ndarray, np.ndarray], Any], p: Shown) -> Fill:
    # Whether one of these arrays is drawn where units are missing; of filters, and (n, S).
    if not p.missing:
        return None
    arrays = [np.asarray(a) for a in what(p.filters, p.filters.reshape(p.n, -1))]
    return _if(any(_alike(d.values, a) for d in p.unknown for a in arrays))


def _turned(turn: str, p: Shown) -> Fill:
    first = next((panel for panel in p.found if panel.turn or not panel.signs), None)
    return _if(first is not None and first.turn == turn)


def _stretched(p: Shown) -> Fill:
    for panel in p.found:
        wide, high = panel.drawing.cell
        if not 0.75 < wide / high < 1.33:
            return dict(wide=wide, high=high)
    return None


def _down(p: Shown) -> Fill:
    down = sorted(p.found, key=lambda panel: (round(panel.box[0]), -panel.box[1]))
    straight = p.units != list(range(p.n)) and [d.unit for d in down] == list(range(p.n))
    return _if(straight, units=p.units)


def _scales_differ(p: Shown) -> bool:
    return bool(np.ptp(p.curves, axis=0).max() > 0.01)


def _own_scales(p: Shown) -> Fill:
    centred = np.abs(p.curves[:, 20] - 0.5).max() < 0.01
    full = [
        (panel.drawing.artist.norm.vmax - panel.shift) / panel.factor
        for panel in p.found
        if _scales_differ(p) and centred
    ]
    return _if(full, full=", ".join(f"{float(f):.2f}" for f in full))


def _lopsided(p: Shown) -> Fill:
    off = np.abs(p.curves[:, 20] - 0.5).max() > 0.01
    uneven = np.abs(p.curves + p.curves[:, ::-1] - 1).max() > 0.02
    return _if(off or uneven, **p.zeros)


def _not_diverging(p: Shown) -> Fill:
    poor = [name for name, colours in p.maps().items() if not diverges(colours)]
    return _if(poor, poor=[*poor, ""][0])


ORDER = ("down the columns", "backwards", "wrong order")

# The first row that gives a dict names the mistake.
FIGURE: tuple[tuple[str, Callable[[Shown], Fill]], ...] = (
    ("nothing drawn", lambda p: _if(not p.seen, axes=len(p.figure.axes))),
    ("colours, not numbers", lambda p: _if(any(d.values is None for d in p.seen))),
    ("raw matrix", partial(_drawn, lambda f, flat: (flat, flat.T, abs(flat), abs(flat).T))),
    (
        "not folded",
        partial(_drawn, lambda f, flat: [m for r in flat for m in (r[None], r[:, None])]),
    ),
    ("mean of all units", partial(_drawn, lambda f, flat: (f.mean(0), abs(f).mean(0)))),
    ("not the weights: squares", partial(_drawn, lambda f, flat: [*np.square(f), *np.sign(f)])),
    ("likeness of units", partial(_drawn, lambda f, flat: (flat @ flat.T, np.corrcoef(flat)))),
    ("not the weights", lambda p: _if(p.missing and p.unknown)),
    ("units missing", lambda p: _if(p.missing, missing=len(p.missing), first=[*p.missing, 0][0])),
    ("on top of each other", lambda p: _if(overlapping(p.found))),
    (
        "units repeated",
        lambda p: _if(
            len(p.units) > p.n, twice=next((u for u in p.units if p.units.count(u) > 1), 0)
        ),
    ),
    ("cut off", lambda p: _if(any(d.hidden for d in p.seen), hidden=sum(d.hidden for d in p.seen))),
    *((turn, partial(_turned, turn)) for turn in TURNS if turn),
    ("signs lost", lambda p: _if(not all(panel.signs for panel in p.found))),
    ("smoothed", lambda p: _if(any(panel.drawing.smooth for panel in p.found))),
    ("stretched", _stretched),
    ("down the columns", _down),
    ("backwards", lambda p: _if(p.units == list(range(p.n))[::-1], units=p.units)),
    ("wrong order", lambda p: _if(p.units != list(range(p.n)), units=p.units)),
    ("sign turned", lambda p: _if(all(panel.factor < 0 for panel in p.found))),
    ("min-max scaling", lambda p: _if(np.abs(p.ends - [0, 1]).max() < 0.01, **p.zeros)),
    ("weights without colour", lambda p: _if(not np.isfinite(p.curves).all())),
    ("each on its own scale", _own_scales),
    ("scales differ", lambda p: _if(_scales_differ(p), **p.zeros)),
    ("limits not symmetric", _lopsided),
    ("washed out", lambda p: _if(p.curves[0, -1] < 0.6, reached=p.curves[0, -1])),
    ("saturated", lambda p: _if(p.curves[0, 22] > 0.99)),
    ("map not diverging", _not_diverging),
    ("maps differ", lambda p: _if(len(p.maps()) > 1, maps=", ".join(p.maps()))),
    ("no words", lambda p: _if(not words(p.figure))),
)


def judge_figure(t: Trial, answer: Any) -> None:
    """Pass, or end with the first mistake of the table."""
    t.rounds = 2
    for _ in range(t.rounds):
        gh, gw = t.random.choice([(3, 4), (4, 3), (3, 5), (5, 3), (4, 5), (5, 4)])
        n = t.random.choice([n for n in range(5, 9) if n not in (gh, gw) and n % gh])
        if t.square:
            gw, n = gh, 9
        strength = torch.tensor([t.random.uniform(0.5, 2) for _ in range(n)]).to(t.randn(1))
        filters = (t.randn(n, gh, gw) + 0.3) * strength[:, None, None]
        filters[:, 0, 0], filters[:, -1, -1] = -0.7 * strength, 1.1 * strength  # both signs
        with figures_closed() as opened:
            figure, blame = _figure_in(t, t.call(answer, filters), opened)
            picture = Shown(figure, filters.double().numpy())
            t.sizes = picture.sizes()
            for key, wrong in FIGURE:
                fill = wrong(picture)
                if fill is None or ("units" in fill and key in ORDER and _by_frequency(t, answer)):
                    continue
                t.fail(key, t.line(key, **fill), **fill)
        if blame:
            t.fail(blame[0], **blame[1])


def _by_frequency(t: Trial, answer: Any) -> bool:
    # Whether it draws filters of known frequency in order, slow or fast first.
    gh, gw = t.choose(2, 10, 14)
    gh, gw = t.sides(gh, gw)
    made, order, _ = waves(t, wave_numbers(t, gh, gw), gh, gw)
    with figures_closed() as opened:
        figure, _ = _figure_in(t, t.call(answer, made), opened)
        units = Shown(figure, made.double().numpy()).units
    if units not in (order, order[::-1]):
        return False
    t.remarks.append(t.line("by frequency"))
    return True


def _figure_in(t: Trial, got: Any, looked: Opened) -> tuple[Any, Any]:
    # The figure to look at, and what to say if it is right.
    from matplotlib.figure import FigureBase

    if isinstance(got, FigureBase):
        return got.figure, None
    kind = dict(kind=type(got).__name__)
    opened, saved = looked()
    if got is None or isinstance(got, (str, os.PathLike)):  # perhaps where it was saved
        if saved:
            return saved[-1], None
        if opened and got is None:
            return opened[-1], ("returns nothing: right", kind)
        t.fail("returns nothing" if got is None else "not a figure", **kind)
    several = isinstance(got, (list, tuple, np.ndarray))
    for part in np.ravel(np.asarray(got, dtype=object)) if several else [got]:
        figure = getattr(part, "figure", None)
        if isinstance(figure, FigureBase):
            return figure.figure, ("not a figure: right", kind)
    t.fail("not a figure", **kind)
