"""Checks of the course's exercises: they say pass, or name the mistake and show it.

    from mixer_lite import check

    check.patchify(my_patchify)     # right, or what is wrong and how it shows
    check.hint("patchify")          # the next of a few steps of help
    check.progress()                # what has passed so far

A failed check says first how the mistake shows, the next time (or with ``check.hint``) its name,
and then what to do; ``check.help_level`` sets how much at once.

Every check draws new sizes and numbers each time (S and C always differ), protects its inputs from
changes, ends after ``seconds`` of processor time, and raises nothing, whatever the answer does: it
returns a :class:`Report`, which is true when the answer passed. ``.require()`` raises
:class:`CheckFailed` where a test wants that.

A lesson's checks are in its file, what they say in ``words/``, what runs them in ``engine/``.
"""

from __future__ import annotations

from mixer_lite.check.engine.progress import hint, progress
from mixer_lite.check.engine.reports import CheckFailed, Finding, Report
from mixer_lite.check.engine.steps import help_level
from mixer_lite.check.lesson1 import embedding_kernel, patch_embedding, patchify, unpatchify
from mixer_lite.check.lesson2 import channel_mixing, layer_norm, sublayer, token_mixing
from mixer_lite.check.lesson2_modules import mixer_block, mlp_block
from mixer_lite.check.lesson3 import count_macs, count_parameters, mixer
from mixer_lite.check.lesson4 import convert_google, predict
from mixer_lite.check.lesson5 import (
    filter_figure,
    fold_filters,
    fold_outputs,
    order_filters,
    smoothness,
)
from mixer_lite.check.lesson5_pairs import pair_filters
from mixer_lite.check.lesson6 import depth_lens, patch_evidence, reparametrise, shuffle_patches
from mixer_lite.check.lesson7 import training_step
from mixer_lite.check.lesson7_loss import cross_entropy
from mixer_lite.check.lesson8 import culprit

__all__ = [
    "CheckFailed",
    "Finding",
    "Report",
    "channel_mixing",
    "convert_google",
    "count_macs",
    "count_parameters",
    "cross_entropy",
    "culprit",
    "depth_lens",
    "embedding_kernel",
    "filter_figure",
    "fold_filters",
    "fold_outputs",
    "help_level",
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
