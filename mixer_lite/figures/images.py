"""The lessons' figures: images, patches, matrices, predictions, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mixer_lite.figures.drawing import (
    ACCENT,
    MAGNITUDE,
    MARK,
    SIGNED,
    Picture,
    canvas,
    draw_grid,
    draw_image,
    draw_wide,
    montage,
    numbers,
    pixels_of,
    style,
)
from mixer_lite.model import grid_of

if TYPE_CHECKING:
    from mixer_lite.prediction import Prediction


@style()
def show_images(
    images: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    columns: int = 4,
    width: float = 8,
    alt: str = "",
) -> Picture:
    """Images side by side, ``columns`` in a row.

    Args:
        images: PIL images, arrays ``(h, w)`` or ``(h, w, 3)``, tensors ``(3, h, w)`` or
            ``(h, w, 3)``; whole numbers 0-255 or floats 0-1.
        titles: one for each image, or none.
        columns: how many stand side by side before a new row begins.
        width: of ``columns`` images, in inches; fewer images make a narrower figure.
        alt: alt text; by default the titles.
    """
    images = list(images)
    shape = pixels_of(images[0]).shape
    cell = width / columns
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (cell * columns, min(rows * (cell * shape[0] / shape[1] + 0.27 * bool(titles)), 12))
    alt = alt or f"{len(images)} images: {' '.join('; '.join(titles).split())}"
    figure, axes = canvas(rows, columns, size=size, alt=alt, squeeze=False)
    for k, spot in enumerate(axes.flat):
        if k < len(images):
            draw_image(spot, images[k], titles[k] if titles else "")
        else:
            spot.set_axis_off()
    return figure


@style()
def show_patches(image: Any, patch_size: int) -> Picture:
    """A photograph with the patch grid on it, and beside it the patches pulled apart.

    Raises:
        ValueError: ``patch_size`` does not divide the image's sides.
    """
    pixels = pixels_of(image)
    gh, gw = grid_of(pixels.shape, patch_size)
    gap = max(1, patch_size // 6)
    white = 255 if pixels.dtype.kind != "f" else 1
    patches = rearrange(
        pixels, "(gh p1) (gw p2) ... -> (gh gw) p1 p2 ...", p1=patch_size, p2=patch_size
    )
    apart = montage(patches, gw, gap, white)[:-gap, :-gap]

    height, width = pixels.shape[:2]
    figure, axes = canvas(
        1,
        2,
        size=(7, 3.5 * height / width + 0.3),
        alt=f"Left: a photograph of {height} by {width} pixels with a grid of {patch_size} by "
        f"{patch_size} pixel cells. Right: its {gh} times {gw} patches pulled apart.",
    )
    draw_image(axes[0], pixels, f"{height} × {width} pixels")
    draw_grid(axes[0], pixels.shape, patch_size)
    draw_image(axes[1], apart, f"{gh} × {gw} = {gh * gw} patches of {patch_size} × {patch_size}")
    return figure


@style()
def patch_figure(image: Any, patch_size: int, row: int, column: int) -> Picture:
    """One patch in the photograph, enlarged, and as one row of the table of tokens.

    The table is ``(S, 3 P P)``, a patch's values in the order ``c p1 p2``.

    Args:
        image: anything that :func:`show_images` takes, in colour, both sides divisible.
        patch_size: P, in pixels.
        row, column: of the patch on the grid, from 0.

    Raises:
        ValueError: ``patch_size`` does not divide the image, or there is no such patch.
    """
    pixels = pixels_of(image)
    gh, gw = grid_of(pixels.shape, patch_size)
    if not (0 <= row < gh and 0 <= column < gw):
        raise ValueError(
            f"There is no patch at row {row}, column {column}: rows go from 0 to {gh - 1}, "
            f"columns from 0 to {gw - 1}."
        )
    table = rearrange(
        pixels, "(gh p1) (gw p2) c -> (gh gw) (c p1 p2)", p1=patch_size, p2=patch_size
    )
    token = row * gw + column
    y, x = row * patch_size, column * patch_size
    patch = pixels[y : y + patch_size, x : x + patch_size]

    figure, axes = canvas(
        1,
        3,
        size=(8, 3.1),
        width_ratios=[3, 2, 3],
        alt=f"A photograph with the patch in row {row}, column {column} marked; that patch "
        f"enlarged; the table of all {gh * gw} tokens with row {token} marked.",
    )
    figure.set_layout_engine("constrained")
    draw_image(axes[0], pixels, f"P = {patch_size}: {gh} × {gw} grid")
    draw_grid(axes[0], pixels.shape, patch_size)
    frame: dict[str, Any] = dict(fill=False, edgecolor=MARK, linewidth=2.5, clip_on=False, zorder=3)
    axes[0].add_patch(Rectangle((x - 0.5, y - 0.5), patch_size, patch_size, **frame))
    draw_image(axes[1], patch, f"row {row}, column {column}")
    axes[1].spines[:].set(visible=True, color=MARK, linewidth=2.5)
    draw_wide(axes[2], table, cmap="gray", vmin=0, vmax=1 if table.dtype.kind == "f" else 255)
    axes[2].yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[2].add_patch(Rectangle((-0.5, token - 0.5), table.shape[1], 1, **frame))
    axes[2].set_title(f"token {token} in the {gh * gw} × {table.shape[1]} table")
    axes[2].set_xlabel(f"{table.shape[1]} values: red, green, blue")
    axes[2].set_ylabel("tokens, in reading order")
    return figure


Blocks = tuple[int, int] | Sequence[tuple[int, int]] | None


def _draw_matrix(axes: Axes, matrix: np.ndarray, blocks: tuple[int, int], **look: Any) -> Any:
    rows, columns = matrix.shape
    if columns > 4 * rows:  # square cells would make a thin strip
        mesh = draw_wide(axes, matrix, **look)
    else:
        mesh = axes.imshow(matrix, interpolation="nearest", **look)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#999999")
    ink = "#555555" if look["cmap"] == SIGNED else "white"
    lines: dict[str, Any] = dict(color=ink, linewidth=0.8)
    for y in range(blocks[0], rows, blocks[0]):
        axes.axhline(y - 0.5, **lines)
    for x in range(blocks[1], columns, blocks[1]):
        axes.axvline(x - 0.5, **lines)
    return mesh


def _written(value: float, whole: bool) -> str:
    # An exact zero looks different from a small number.
    return f"{value:.0f}" if whole or value == 0 else f"{value:z.2f}"


@style()
def _matrices(
    matrices: Sequence[Any],
    titles: Sequence[str],
    xlabel: str,
    ylabel: str,
    blocks: Blocks,
    values: bool,
    height: float,
    alt: str,
    look: dict[str, Any],
) -> Picture:
    if blocks is None:
        each = [matrix.shape for matrix in matrices]  # no line falls inside
    else:
        each = list(blocks) if isinstance(blocks[0], tuple) else [blocks] * len(matrices)
    figure, axes = canvas(1, len(matrices), size=(8, height), alt=alt, squeeze=False)
    for k, (spot, matrix) in enumerate(zip(axes.flat, matrices, strict=True)):
        mesh = _draw_matrix(spot, matrix, each[k], **look)
        spot.set(title=titles[k] if titles else "", xlabel=xlabel, ylabel="" if k else ylabel)
        if blocks and not values:
            for axis, cells, size in zip(
                (spot.yaxis, spot.xaxis), matrix.shape, each[k], strict=True
            ):
                centres = np.arange(0, cells, size) + (size - 1) / 2
                axis.set_ticks(centres, labels=range(len(centres)))
            spot.tick_params(length=0)
        if values:
            spot.set(xticks=range(matrix.shape[1]), yticks=range(matrix.shape[0]))
            whole = (matrix == matrix.round()).all()
            for (y, x), value in np.ndenumerate(matrix):
                red, green, blue, _ = mesh.cmap(mesh.norm(value))
                ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
                spot.text(
                    x, y, _written(value, whole), ha="center", va="center", color=ink, fontsize=8
                )
    if not values:
        figure.colorbar(mesh, ax=axes, shrink=0.85, aspect=30, pad=0.02)
    return figure


@style()
def show_signed(
    matrices: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    xlabel: str = "",
    ylabel: str = "",
    blocks: Blocks = None,
    values: bool = False,
    limit: float | None = None,
    height: float = 3.6,
    alt: str,
) -> Picture:
    """Matrices of signed numbers, red above zero, blue below, white at zero, on one scale.

    Args:
        matrices: ``(rows, columns)`` each.
        titles: one for each matrix, or none.
        xlabel, ylabel: of the columns and of the rows.
        blocks: rows and columns of a block; lines part the blocks, and they, not the cells, are
            counted beside the matrix. One pair, or one for each matrix.
        values: write each number into its cell, instead of a colour bar.
        limit: the scale goes from ``-limit`` to ``limit``; by default the largest magnitude.
        height: of the figure, in inches.
        alt: alt text.
    """
    arrays = numbers(matrices)
    limit = limit or max(float(np.abs(a).max()) for a in arrays) or 1.0
    look = dict(cmap=SIGNED, vmin=-limit, vmax=limit)
    return _matrices(arrays, titles, xlabel, ylabel, blocks, values, height, alt, look)


@style()
def show_table(
    matrices: Sequence[Any],
    titles: Sequence[str] = (),
    *,
    xlabel: str = "",
    ylabel: str = "",
    blocks: Blocks = None,
    values: bool = False,
    height: float = 3.6,
    alt: str,
) -> Picture:
    """Matrices of magnitudes (0 and above) on one viridis scale; arguments of `show_signed`."""
    arrays = numbers(matrices)
    top = max(float(a.max()) for a in arrays)
    look = dict(cmap=MAGNITUDE, vmin=min(0.0, *(float(a.min()) for a in arrays)), vmax=top)
    return _matrices(arrays, titles, xlabel, ylabel, blocks, values, height, alt, look)


PART_COLOURS = {
    "stem": "#009e73",
    "token mixing": ACCENT,
    "channel mixing": "#0072b2",
    "norms": "#999999",
    "head": "#cc79a7",
}


@style()
def show_counts(
    counts: Mapping[str, Mapping[str, float]], unit: str, *, title: str = "", alt: str = ""
) -> Picture:
    """Stacked bars of where a network's parameters or operations are, each bar's sum at its end.

    Args:
        counts: for each bar its parts by name, as ``specs.count_parameters`` and
            ``specs.count_macs`` return them, in any unit; other names are left out.
        unit: of the numbers.
        title: above the bars.
        alt: alt text; by default each bar's largest part.
    """
    parts = [part for part in PART_COLOURS if any(bar.get(part) for bar in counts.values())]
    largest = [f"{n}: mostly {max(parts, key=lambda p: b.get(p, 0))}" for n, b in counts.items()]
    alt = alt or f"Stacked bars, {unit}. {'; '.join(largest)}."
    figure, axes = canvas(size=(8, 1.3 + 0.36 * len(counts)), alt=alt)
    left = np.zeros(len(counts))
    for part in parts:
        width = np.array([bar.get(part, 0.0) for bar in counts.values()])
        axes.barh(range(len(counts)), width, left=left, color=PART_COLOURS[part], label=part)
        left += width
    if not np.allclose(left, left[0]):  # the sums of shares say nothing
        for row, total in enumerate(left):
            axes.text(total + 0.01 * left.max(), row, f"{total:,.3g}", va="center")
    axes.set(xlabel=unit, yticks=range(len(counts)), yticklabels=list(counts))
    axes.set_xlim(0, 1.1 * left.max())
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    figure.legend(loc="outside upper left", ncols=len(parts), title=title, alignment="left")
    return figure


@style()
def show_predictions(
    images: Sequence[Any],
    predictions: Sequence[Sequence[Prediction]],
    truths: Sequence[str | None] = (),
    *,
    columns: int = 2,
    alt: str = "",
) -> Picture:
    """Images, each with the probabilities of its most probable classes beside it.

    Args:
        images: as for :func:`show_images`.
        predictions: what ``mixer_lite.prediction`` returns for them, one list for each image.
        truths: what each image shows, in the model's words, or ``None`` where it has none; that
            class's bar is blue, the others grey.
        columns: images side by side.
        alt: alt text; by default each image's first answer.
    """
    truths = list(truths) or [None] * len(images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    first = [f"{p[0].label} {p[0].probability:.0%}" for p in predictions]
    alt = alt or f"{len(first)} images with the model's answers: {'; '.join(first)}."
    size = (8, rows * (0.35 + 0.24 * len(predictions[0])))
    figure, axes = canvas(
        rows, 2 * columns, size=size, alt=alt, squeeze=False, width_ratios=[2, 3] * columns
    )
    spots = rearrange(axes, "rows (columns pair) -> (rows columns) pair", pair=2)
    for k, (left, right) in enumerate(spots):
        if k >= len(images):
            left.set_axis_off()
            right.set_axis_off()
            continue
        draw_image(left, images[k])
        labels = [p.label for p in predictions[k]]
        chances = [p.probability for p in predictions[k]]
        colours = ["#0072b2" if label == truths[k] else "#9a9a9a" for label in labels]
        right.barh(range(len(labels)), chances, color=colours, height=0.7)
        for row, (label, chance) in enumerate(zip(labels, chances, strict=True)):
            right.text(chance + 0.02, row, f"{label} {chance:.0%}", va="center", fontsize=9)
        right.set_xlim(0, 1.6)  # room for the words beside a bar of 100 %
        right.invert_yaxis()
        right.set_axis_off()
    return figure


@style()
def show_confusion(matrix: Any, names: Sequence[str], *, alt: str = "") -> Picture:
    """A confusion matrix: rows what the images show, columns what the model said.

    The diagonal, where both agree, is left uncoloured, so that the mistakes can be seen.

    Args:
        matrix: ``(classes, classes)`` counts.
        names: of the classes.
        alt: alt text; by default the most frequent mistake.
    """
    counts = numbers([matrix])[0]
    mistakes = np.where(np.eye(len(counts), dtype=bool), 0.0, counts)
    shown, said = divmod(int(mistakes.argmax()), len(counts))
    alt = alt or (
        f"Confusion matrix of {len(names)} classes, {int(counts.trace())} of {int(counts.sum())} "
        f"right. Most frequent mistake: {names[shown]} called {names[said]}, "
        f"{int(mistakes.max())} times."
    )
    figure, axes = canvas(size=(6.4, 5.2), alt=alt)
    shades = np.ma.masked_equal(mistakes, 0)  # no colour where there is no mistake
    axes.imshow(shades, cmap="Oranges", vmin=0, vmax=1.3 * max(mistakes.max(), 1))
    for (row, column), count in np.ndenumerate(counts):
        look: dict[str, Any] = dict(weight="bold") if row == column else {}
        if count:
            axes.text(column, row, f"{count:g}", ha="center", va="center", **look)
    axes.set(xlabel="what the model says", ylabel="what the image shows")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    return figure


@style()
def show_reliability(confidences: Any, correct: Any, *, bins: int = 8, alt: str = "") -> Picture:
    """How often a model is right, by how sure it is.

    The images are sorted by confidence and cut into ``bins`` groups of one size. A bar is the
    95 % Wilson interval of the share of right answers: what the group's size can tell.

    Args:
        confidences: ``(n,)`` probability of the answer given.
        correct: ``(n,)`` whether it was right.
        bins: groups.
        alt: alt text; by default the means.
    """
    said, right = numbers([confidences, correct])
    order = np.argsort(said, kind="stable")
    groups = np.array_split(order, bins)
    n = np.array([len(g) for g in groups])
    x = np.array([said[g].mean() for g in groups])
    accuracy = np.array([right[g].mean() for g in groups])
    z = 1.96
    centre = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    alt = alt or (
        f"Share of right answers against confidence in {bins} groups of images: "
        f"on average {said.mean():.0%} sure and {right.mean():.0%} right."
    )
    figure, axes = canvas(size=(5.2, 4.2), alt=alt)
    axes.plot([0, 1], [0, 1], color="#999999", label="says what it is worth")
    bars = np.clip([accuracy - centre + half, centre + half - accuracy], 0, None)
    axes.errorbar(x, accuracy, yerr=bars, fmt="o", capsize=3, label=f"groups of {n[0]} images")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="confidence", ylabel="share right")
    axes.legend(loc="upper left")
    return figure
