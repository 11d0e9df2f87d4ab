"""Figures of training: curves and results of several seeds, filters of several runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from mixer_lite.figures.drawing import (
    ACCENT,
    SIGNED,
    Picture,
    bare,
    canvas,
    montage,
    numbers,
    style,
)

DASHES: Any = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


@style()
def plot_curves(
    curves: Mapping[str, tuple[Any, Any]],
    *,
    x: str = "images learned from",
    y: str = "accuracy",
    log: bool = False,
    alt: str = "",
) -> Picture:
    """Several lines: of each the mean of its seeds, and a band from the lowest to the highest.

    Args:
        curves: name -> places ``(n,)`` and values ``(n,)`` or, a row a seed, ``(seeds, n)``.
        x, y: what the axes are; an accuracy is written in per cent.
        log: places on a logarithmic scale.
        alt: alt text; by default where each line ends.

    Raises:
        ValueError: places and values of a line do not fit together.
    """
    lines: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (places, values) in curves.items():
        at, rows = numbers([places, values])
        rows = np.atleast_2d(rows)
        if at.ndim != 1 or rows.ndim != 2 or rows.shape[1] != len(at):
            raise ValueError(
                f"{name!r} has {at.size} places and values of shape {np.shape(values)}: give one "
                f"value a place, or a row of them a seed."
            )
        lines[name] = at, rows
    percent = y.startswith("accuracy")
    ends = [f"{n} {v[:, -1].mean():{'.0%' if percent else '.3g'}}" for n, (_, v) in lines.items()]
    count = f"{len(lines)} lines" if len(lines) > 1 else "One line"
    alt = alt or f"{count} of {y} against {x}; at the end: {'; '.join(ends)}."
    figure, axes = canvas(size=(7, 3.2), alt=alt)
    for k, (name, (at, rows)) in enumerate(lines.items()):
        # Colour and dashes both tell the lines apart.
        look: Any = dict(color=f"C{k % 6}", linestyle=DASHES[k % len(DASHES)])
        axes.plot(at, rows.mean(0), label=name, marker="o" if len(at) < 12 else "", **look)
        axes.fill_between(at, rows.min(0), rows.max(0), color=look["color"], alpha=0.2, lw=0)
    axes.set(xlabel=x, ylabel=y)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if log:
        axes.set_xscale("log")
    elif max(at.max() for at, _ in lines.values()) >= 10_000:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@style()
def plot_results(
    results: Mapping[str, Any],
    *,
    guesses: Mapping[str, float | None] | None = None,
    beside: tuple[str, Mapping[str, float]] | None = None,
    x: str = "accuracy on the test images",
    alt: str = "",
) -> Picture:
    """One number a seed, and a row a run: a dot for each seed, a stroke for their mean.

    Args:
        results: name -> shares ``(seeds,)``.
        guesses: what the reader expected, by the same names: drawn as an open diamond.
        beside: what the results are to be compared with: what it is called, and a number by the
            same names, drawn as a grey stroke.
        x: what the numbers are.
        alt: alt text; by default each mean and its spread.
    """
    rows = dict(zip(results, numbers(list(results.values())), strict=True))
    told = [
        f"{name} {row.mean():.1%}"
        + (f" ({row.min():.1%} to {row.max():.1%})" if row.size > 1 else "")
        for name, row in rows.items()
    ]
    guessed = {n: g for n, g in (guesses or {}).items() if n in rows and g is not None}
    called, compared = beside or ("", {})
    alike = len(set(compared.values())) == 1
    if not alike:
        told = [f"{t}, {called} {compared[n]:.1%}" if n in compared else t
                for n, t in zip(rows, told, strict=True)]  # fmt: skip
    alt = alt or f"{x.capitalize()} of {len(rows)} runs: {'; '.join(told)}." + (
        f" {called.capitalize()}: {next(iter(compared.values())):.1%}." if alike else ""
    )
    figure, axes = canvas(size=(7, 1.0 + (0.36 if len(rows) < 10 else 0.27) * len(rows)), alt=alt)
    for place, (name, row) in enumerate(rows.items()):
        axes.plot([row.mean()] * 2, [place - 0.28, place + 0.28], color="C0", lw=2.5)
        axes.plot(row, [place] * row.size, "o", color="C0", ms=5, alpha=0.55)
        if name in compared:
            axes.plot([compared[name]] * 2, [place - 0.4, place + 0.4], color="#777777", lw=2)
        if name in guessed:
            axes.plot(guessed[name], place, "D", color=ACCENT, mfc="none", ms=8)
        axes.annotate(
            f"{row.mean():.1%}", (1.01, place), xycoords=("axes fraction", "data"), va="center"
        )
    key = ["dots: seeds, strokes: their mean"] * any(row.size > 1 for row in rows.values())
    key += [f"grey: {called}"] * bool(compared) + ["diamonds: your guess"] * bool(guessed)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel=x + (f"\n({'; '.join(key)})" if key else ""), ylim=(len(rows) - 0.5, -0.5))
    axes.locator_params(axis="x", nbins=5, min_n_ticks=3)
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g}%")
    axes.grid(axis="x", alpha=0.3)
    return figure


@style()
def plot_filter_rows(filters: Mapping[str, Any], *, alt: str = "") -> Picture:
    """Token-mixing filters of several runs, a row each, every filter on its own scale.

    Red weights are positive, blue ones negative.

    Args:
        filters: name -> ``(n, gh, gw)``.
        alt: alt text; by default the names.
    """
    rows = dict(zip(filters, numbers(list(filters.values())), strict=True))
    alt = alt or f"Token-mixing filters in {len(rows)} rows, one for each of: {', '.join(rows)}."
    # Each row as high as its filters are in this width, and its name.
    heights = [0.28 + 8 * h / (n * (w + 1)) for n, h, w in (maps.shape for maps in rows.values())]
    figure, axes = canvas(len(rows), 1, size=(8, sum(heights)), alt=alt, squeeze=False)
    for place, (name, maps) in zip(axes[:, 0], rows.items(), strict=True):
        maps = maps / np.abs(maps).max(axis=(1, 2), keepdims=True).clip(1e-12)
        strip = montage(maps, columns=len(maps))[:-1]  # (n, h, w) -> (h, n (w + 1))
        place.imshow(strip, cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
        bare(place)
        place.set_title(name, loc="left", fontsize=10, pad=3)
    return figure
