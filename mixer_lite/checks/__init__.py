"""Checks of the course's exercises: they say pass, or name the mistake and show it.

    from mixer_lite import check

    check.patchify(my_patchify)     # right, or what is wrong and how it shows
    check.hint("patchify")          # the next of a few steps of help
    check.progress()                # what has passed so far

Every check draws new sizes and numbers each time (S and C always differ), leaves its inputs to
nobody, ends after ``seconds``, and raises nothing, whatever the answer does: it returns a
:class:`Report`, which is true when the answer passed. ``.require()`` raises
:class:`CheckFailed` where a test wants that.
"""

from __future__ import annotations

from mixer_lite.checks.images import patchify
from mixer_lite.checks.reading import (
    filter_figure,
    fold_filters,
    fold_outputs,
    order_filters,
    pair_filters,
    smoothness,
)
from mixer_lite.checks.reports import CheckFailed, Finding, Report, hint, progress
from mixer_lite.checks.why import depth_lens, patch_evidence, reparametrise, shuffle_patches

__all__ = [
    "CheckFailed",
    "Finding",
    "Report",
    "depth_lens",
    "filter_figure",
    "fold_filters",
    "fold_outputs",
    "hint",
    "order_filters",
    "pair_filters",
    "patch_evidence",
    "patchify",
    "progress",
    "reparametrise",
    "shuffle_patches",
    "smoothness",
]
