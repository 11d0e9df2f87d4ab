"""The course's figures: thin matplotlib drawings of plain data, in one style, with alt text.

Every function returns a :class:`Picture`. As the last line of a notebook cell it shows itself:
as a PNG (a JPEG where it holds photographs), with its alt text in the output's metadata, where
HTML exports find it, and as its plain-text form. Signed numbers are drawn on a diverging map
symmetric about zero, magnitudes on viridis.

A module a kind of figure; ``drawing`` holds the style. This package imports matplotlib;
``mixer_lite`` imports it only when it is used.
"""

from mixer_lite.figures.drawing import ACCENT, DPI, MAGNITUDE, MARK, SIGNED, Picture, canvas, style
from mixer_lite.figures.images import (
    patch_figure,
    show_confusion,
    show_counts,
    show_images,
    show_patches,
    show_predictions,
    show_reliability,
    show_signed,
    show_table,
)
from mixer_lite.figures.learned import (
    plot_embedding_filters,
    plot_filter_pairs,
    plot_token_filters,
    plot_unit,
)
from mixer_lite.figures.reasons import plot_depth, plot_evidence, plot_influence
from mixer_lite.figures.results import plot_curves, plot_filter_rows, plot_results

__all__ = [
    "ACCENT",
    "DPI",
    "MAGNITUDE",
    "MARK",
    "SIGNED",
    "Picture",
    "canvas",
    "patch_figure",
    "plot_curves",
    "plot_depth",
    "plot_embedding_filters",
    "plot_evidence",
    "plot_filter_pairs",
    "plot_filter_rows",
    "plot_influence",
    "plot_results",
    "plot_token_filters",
    "plot_unit",
    "show_confusion",
    "show_counts",
    "show_images",
    "show_patches",
    "show_predictions",
    "show_reliability",
    "show_signed",
    "show_table",
    "style",
]
