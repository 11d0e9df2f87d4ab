"""Foreseen mistakes as data: what a wrong answer does otherwise than the right one.

A right computation is written once, with an argument for everything that one can do wrong; a
mistake is then a name, a sentence and the arguments that it changes. Two mistakes at once need
no table of their own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mixer_lite.checks.trial import Suspect, Trial, Wrong, fail


@dataclass(frozen=True)
class Deviation:
    """One mistake.

    Attributes:
        mistake: its short stable name.
        change: the arguments of the computation that it changes.
        says: the mistake in the learner's terms.
    """

    mistake: str
    change: Mapping[str, Any]
    says: str


def suspects(compute: Callable[..., Any], table: Sequence[Deviation]) -> list[Suspect]:
    """The table's mistakes for this computation: each alone, then every two that can meet."""
    alone = [Suspect(d.mistake, functools.partial(compute, **d.change), d.says) for d in table]
    return alone + [
        Suspect(
            a.mistake,
            functools.partial(compute, **a.change, **b.change),
            f"{a.says} Besides ({b.mistake}): {b.says}",
        )
        for a, b in itertools.combinations(table, 2)
        if not set(a.change) & set(b.change)
    ]


def call_or_name(
    t: Trial,
    answer: Any,
    args: Sequence[Any],
    equal: Sequence[Any],
    compute: Callable[..., Tensor],
    table: Sequence[Deviation],
    *evidence: str,
) -> Any:
    """Call the answer; where it stops with an error, find the reason with inputs of equal sizes.

    With all sizes different, what is laid along the wrong axis does not fit, and PyTorch says so
    in words that help little. With equal sizes it does fit, and the numbers tell which mistake
    it is.

    Args:
        t: the trial.
        answer: the learner's.
        args: for it, all sizes different.
        equal: the same with all sizes equal.
        compute: the right computation, with an argument for everything that can go wrong.
        table: its mistakes.
        evidence: further lines for the finding.
    """
    try:
        return t.call(answer, *args)
    except Wrong as stopped:
        if stopped.finding.mistake != "raises":
            raise
        known = suspects(functools.partial(compute, *equal), table)
        try:
            t.same(t.call(answer, *equal), compute(*equal), "your result", "(...)", known)
        except Wrong as named:
            found = named.finding
            if found.mistake not in {d.mistake for d in table}:
                raise stopped from None
            lines = (*evidence, *stopped.finding.evidence)
            note = "the reason shows when all sizes are equal, where it does run:"
            tables = dict(expected=found.expected, yours=found.yours)
            fail(found.mistake, found.says, *lines, note, *found.evidence, **tables)
        fail(
            "equal sizes only",
            "Your code is right where all sizes are equal, and stops where they differ: is one "
            "axis in another's place, or turned where nothing has to be turned?",
            *evidence,
            *stopped.finding.evidence,
        )
