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

from mixer_lite.checks.counting import count_macs, count_parameters
from mixer_lite.checks.images import embedding_kernel, patch_embedding, patchify, unpatchify
from mixer_lite.checks.mixing import channel_mixing, layer_norm, sublayer, token_mixing
from mixer_lite.checks.models import convert_google, predict
from mixer_lite.checks.modules import mixer, mixer_block, mlp_block
from mixer_lite.checks.reading import (
    filter_figure,
    fold_filters,
    fold_outputs,
    order_filters,
    pair_filters,
    smoothness,
)
from mixer_lite.checks.reports import CheckFailed, Finding, Report, hint, progress
from mixer_lite.checks.training import training_step
from mixer_lite.checks.why import depth_lens, patch_evidence, reparametrise, shuffle_patches

__all__ = [
    "CheckFailed",
    "Finding",
    "Report",
    "channel_mixing",
    "convert_google",
    "count_macs",
    "count_parameters",
    "depth_lens",
    "embedding_kernel",
    "filter_figure",
    "fold_filters",
    "fold_outputs",
    "hint",
    "layer_norm",
    "mixer",
    "mixer_block",
    "mlp_block",
    "order_filters",
    "pair_filters",
    "patch_embedding",
    "patch_evidence",
    "patchify",
    "predict",
    "progress",
    "reparametrise",
    "shuffle_patches",
    "smoothness",
    "sublayer",
    "token_mixing",
    "training_step",
    "unpatchify",
]
