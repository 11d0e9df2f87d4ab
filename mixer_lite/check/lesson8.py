"""The check of the bug hunt: is this what is wrong with a mystery, and where?"""

from __future__ import annotations

from mixer_lite import mysteries
from mixer_lite._support.words import did_you_mean
from mixer_lite.check.engine.reports import Finding, Report
from mixer_lite.check.engine.words import look_up


class Verdict(Report):
    """A report on one mystery, which has no trial to be repeated."""

    def _again(self, level: int) -> str:
        return str(look_up("lesson8", "culprit", "lines", "again")).format(seed=self.seed)


def culprit(seed: int, kind: str, block: int) -> Report:
    """Whether this is what is wrong with ``bugs.mystery(seed)``.

    Of a wrong answer the report says which half of it is right, and no more.

    Args:
        seed: of the mystery.
        kind: a name in ``mysteries.KINDS``.
        block: from 0.

    Raises:
        ValueError: the seed is no whole number, or there is no such kind.
    """
    right = mysteries.answer(seed)
    if kind not in mysteries.KINDS:
        choices = f"Choose from {', '.join(mysteries.KINDS)}."
        hint = did_you_mean(kind, mysteries.KINDS, choices)
        raise ValueError(f"There is no kind of mistake {kind!r}. {hint}")
    wrong = {
        (True, True): "",
        (True, False): "another block",
        (False, True): "another mistake",
        (False, False): "neither",
    }[kind == right.kind, block == right.block]
    finding = None
    if wrong:
        says = str(look_up("lesson8", "culprit", "mistakes", wrong))
        told = mysteries.KINDS[kind]
        finding = Finding(wrong, says.format(kind=kind, told=told, block=block))
    return Verdict("culprit", finding, seed, 1)
