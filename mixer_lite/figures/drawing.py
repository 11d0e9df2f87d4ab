"""How everything is drawn: the course's style, its pictures, and what several figures share.

This module imports matplotlib; ``mixer_lite`` imports it only when a figure is drawn.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser
from matplotlib.rcsetup import cycler
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter
from PIL import Image
from torch import Tensor

DPI = 110
SIGNED, MAGNITUDE = "RdBu_r", "viridis"  # the two colour maps; both safe for colour-blind readers
ACCENT = "#d95f02"  # marks the one thing to look at
MARK = "#00b4ff"  # the same on a photograph
INK, FAINT = "#444444", "#777777"  # of words beside maps; both dark enough to read on white

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(
        color=["#0072b2", "#d95f02", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
    ),
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "text.parse_math": False,  # class names may contain a $
}


def style() -> Any:
    """The course's matplotlib style: ``with style():`` around drawing, or ``@style()``."""
    return matplotlib.rc_context(STYLE)


def _shown(text: str) -> str:
    """Text with half characters escaped, which the name of a file can hold."""
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def _is_formula(text: str) -> bool:
    try:
        for line in text.split("\n"):  # as matplotlib reads it
            MathTextParser("agg").parse(line)
    except ValueError:
        return False
    return True


def _shown_ticks(ticks: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    return lambda values: [_shown(str(tick)) for tick in ticks(values)]  # labels may be numbers


class Picture(Figure):
    """A matplotlib figure that carries its alt text and shows itself in a notebook.

    It is not registered with pyplot, so a slider that draws hundreds of them leaks none.
    """

    alt: str = ""

    @style()
    def draw(self, renderer: Any) -> None:
        """Draw it, even if its words hold half a character or half a formula."""
        for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
            formatters: list[Any] = [axis.get_major_formatter(), axis.get_minor_formatter()]
            for formatter in formatters:
                if "format_ticks" not in vars(formatter):  # which writes ticks as they are drawn
                    formatter.format_ticks = _shown_ticks(formatter.format_ticks)
            ticks = axis.get_ticklabels(which="both")
            if isinstance(axis.get_major_formatter(), LogFormatter):  # its powers are formulas
                for label in ticks:
                    label.set_parse_math(True)
        for text in self.findobj(Text):
            text.set_text(_shown(text.get_text()))
            if text.get_parse_math() and not _is_formula(text.get_text()):
                text.set_parse_math(False)
        super().draw(renderer)

    @style()
    def encode(self) -> tuple[str, bytes]:
        """The picture's type, ``"image/png"`` or ``"image/jpeg"``, and its bytes."""
        raw, png, jpeg = io.BytesIO(), io.BytesIO(), io.BytesIO()
        self.savefig(raw, format="png", dpi=DPI)
        picture = Image.open(raw).convert("RGB")
        picture.save(jpeg, "JPEG", quality=75, optimize=True)
        if picture.getcolors(16_384):  # None when there are more, as in photographs
            # 256 of a drawing's colours stand for all of them within a few levels of 255.
            few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, 3, dither=Image.Dither.NONE)
            few.save(png, "PNG", optimize=True)
            if png.tell() < max(40_000, jpeg.tell()):
                return "image/png", png.getvalue()
        return "image/jpeg", jpeg.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        kind, data = self.encode()
        text, alt = base64.b64encode(data).decode(), _shown(self.alt)
        return {kind: text, "text/plain": f"[{alt}]"}, {kind: {"alt": alt}}

    def _ipython_display_(self) -> None:
        # Once anything has imported pyplot, IPython would add its own PNG to the bundle.
        from IPython.display import display

        bundle, metadata = self._repr_mimebundle_()
        display(bundle, raw=True, metadata=metadata)


@style()
def canvas(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (8, 3), alt: str, **kwargs: Any
) -> tuple[Picture, Any]:
    """An empty figure in the course's style.

    Args:
        rows, columns: of axes.
        size: width and height in inches; 8 inches fill a notebook's width.
        alt: what the finished picture shows, in one sentence, for those who cannot see it.
        kwargs: of matplotlib's ``Figure.subplots``, for example ``sharey=True``.

    Returns:
        The figure, and what ``Figure.subplots`` returns: one axes or an array of them.
    """
    figure = Picture(figsize=size, dpi=DPI, layout="compressed")
    FigureCanvasAgg(figure)
    figure.alt = alt
    return figure, figure.subplots(rows, columns, **kwargs)


def pixels_of(image: Image.Image | np.ndarray | Tensor) -> np.ndarray:
    """Any image for imshow: ``(h, w, 3)`` or ``(h, w)``, whole numbers 0-255 or floats 0-1.

    Raises:
        ValueError: it has another number of axes.
    """
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[2] not in (3, 4) and array.shape[0] in (1, 3):
        array = rearrange(array, "c h w -> h w c")
    if array.ndim == 3 and array.shape[2] == 1:
        array = rearrange(array, "h w 1 -> h w")
    if array.ndim not in (2, 3):
        raise ValueError(f"An image has 2 or 3 axes, this one has {array.ndim}: {array.shape}.")
    return array.clip(0, 1) if array.dtype.kind == "f" else array


def bare(axes: Axes, title: str = "") -> None:
    """Take ticks and frame away, and put a title above."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title)


def draw_image(axes: Axes, image: Any, title: str = "") -> None:
    """Draw an image without frame; see :func:`pixels_of` for what it can be."""
    pixels = pixels_of(image)
    # Grey images on their whole scale, black 0 and white 255 (or 1), not stretched to fit.
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1 if pixels.dtype.kind == "f" else 255)
    bare(axes, title)


def draw_grid(axes: Axes, shape: tuple[int, ...], patch_size: int) -> None:
    """Draw white lines between the patches of an image of ``shape`` (height and width first)."""
    height, width = shape[:2]
    edges: dict[str, Any] = dict(color="white", linewidth=0.8, alpha=0.9)
    for x in range(patch_size, width, patch_size):
        axes.axvline(x - 0.5, **edges)
    for y in range(patch_size, height, patch_size):
        axes.axhline(y - 0.5, **edges)


def draw_wide(axes: Axes, matrix: np.ndarray, **look: Any) -> Any:
    """Draw a matrix that is wider than the page; ``look`` is imshow's."""
    # A page has fewer columns than the matrix: draw means of neighbours, not samples.
    rows, columns = matrix.shape
    starts = np.arange(0, columns, -(-columns // 512))
    means = np.add.reduceat(matrix.astype(float), starts, axis=1) / np.diff([*starts, columns])
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    return axes.imshow(means, aspect="auto", interpolation="nearest", extent=extent, **look)


def montage(tiles: np.ndarray, columns: int, gap: int = 1, blank: float = np.nan) -> np.ndarray:
    """Tiles on one sheet, in reading order, with ``gap`` blank pixels below and right of each.

    ``(n, h, w, ...) -> (rows (h + gap), columns (w + gap), ...)``
    """
    n, h, w = tiles.shape[:3]
    rows = -(-n // columns)
    shape = (rows * columns, h + gap, w + gap, *tiles.shape[3:])
    sheet = np.full(shape, blank, tiles.dtype)
    sheet[:n, :h, :w] = tiles
    return rearrange(sheet, "(r c) h w ... -> (r h) (c w) ...", c=columns)


def numbers(matrices: Sequence[Any]) -> list[np.ndarray]:
    """Tensors, arrays and lists alike as float64 arrays."""
    return [
        m.detach().cpu().double().numpy() if isinstance(m, Tensor) else np.asarray(m, float)
        for m in matrices
    ]
