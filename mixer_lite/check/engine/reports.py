"""What a check says: a finding in the learner's terms, for notebooks and terminals."""

from __future__ import annotations

import base64
import functools
import html
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixer_lite.check.engine.steps import CURE, NAME, SYMPTOM

# Blue and orange differ to every kind of colour vision; the marks say the same without colour.
PASSED, FAILED = ("✓", "#0072b2"), ("✗", "#d55e00")


class CheckFailed(AssertionError):
    """An answer did not pass; the message is the whole report in words."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]  # IPython shows this in place of a traceback through the checks


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with an answer.

    Attributes:
        mistake: its short name, stable, as tests and tables use it: ``"column-major tokens"``.
        says: what is wrong in the learner's terms, in one or two sentences.
        evidence: lines that prove it: shapes, the first differing index, a traceback's last line.
        expected, yours: tables ``(rows, columns)`` to be drawn side by side, or neither.
        axes: what their rows and columns are.
        symptom: what may be said before the mistake is named; ``""`` where nothing is given away.
    """

    mistake: str
    says: str
    evidence: tuple[str, ...] = ()
    expected: np.ndarray | None = None
    yours: np.ndarray | None = None
    axes: tuple[str, str] = ("", "")
    symptom: str = ""

    def with_line(self, line: str) -> Finding:
        """The same with this line first in its evidence."""
        return replace(self, evidence=(line, *self.evidence))


@dataclass(frozen=True)
class Report:
    """The result of a check; true when the answer passed.

    Attributes:
        name: of the check.
        finding: what is wrong; ``None`` when the answer passed.
        seed: repeats this trial: ``check.NAME(answer, seed=seed)``.
        tries: rounds of random sizes and numbers that the answer went through.
        printed: what the learner's code printed.
        remarks: what is worth knowing of an answer that passed.
        step: called once, when the report is first shown: how much of it, as ``help_level``.
    """

    name: str
    finding: Finding | None
    seed: int
    tries: int = 0
    printed: str = ""
    remarks: tuple[str, ...] = ()
    step: Callable[[], int] = field(default=lambda: CURE, repr=False, compare=False)

    @functools.cached_property
    def level(self) -> int:
        """How much is shown: see :func:`mixer_lite.check.help_level`."""
        found = self.finding
        if found is None or not found.symptom or not (found.evidence or found.yours is not None):
            return CURE  # nothing to keep back, or nothing else to show
        return self.step()

    @property
    def passed(self) -> bool:
        """Whether the answer passed."""
        return self.finding is None

    def __bool__(self) -> bool:
        return self.passed

    def require(self) -> Report:
        """The report itself if the answer passed.

        Raises:
            CheckFailed: it did not; the message is the whole report, nothing kept back.
        """
        if self.finding is not None:
            raise CheckFailed(self.text(CURE))
        return self

    def _headline(self, level: int) -> str:
        if self.finding is None:
            times = "once" if self.tries == 1 else f"{self.tries} times, each with new sizes"
            return f"{self.name}: right. Tried {times}."
        return f"{self.name}: {self.finding.mistake if level >= NAME else 'not right yet'}"

    def _says(self, level: int) -> str:
        assert self.finding is not None
        return self.finding.says if level >= CURE else self.finding.symptom

    def _again(self, level: int) -> str:
        more = {SYMPTOM: "What it is called", NAME: "What it means"}.get(level, "A hint")
        return (
            f"The same trial again: check.{self.name}(..., seed={self.seed}). "
            f'{more}: check.hint("{self.name}").'
        )

    def text(self, level: int) -> str:
        """The report in words, with so much of it as this ``help_level`` shows."""
        if self.finding is None:
            return "\n".join([f"{PASSED[0]} {self._headline(level)}", *self.remarks])
        lines = [f"{FAILED[0]} {self._headline(level)}", self._says(level)]
        lines += [f"  {line}" for line in self.finding.evidence]
        for title, table in (("expected", self.finding.expected), ("yours", self.finding.yours)):
            # A large table in digits says less than its first differing number, given above.
            if table is not None and table.size <= 60:
                lines += [f"  {title}:", *_numbers(table)]
        if self.printed:
            lines += ["Your code printed:", *(f"  {line}" for line in _last(self.printed))]
        return "\n".join([*lines, self._again(level)])

    def __str__(self) -> str:
        return self.text(self.level)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        mark, colour = PASSED if self.finding is None else FAILED
        parts = [f"<b>{mark} {html.escape(self._headline(self.level))}</b>"]
        parts += [f"<div>{html.escape(remark)}</div>" for remark in self.remarks]
        if self.finding is not None:
            parts.append(f"<div>{html.escape(self._says(self.level))}</div>")
            if self.finding.evidence:
                lines = html.escape("\n".join(self.finding.evidence))
                parts.append(f'<pre style="margin:0.4em 0;white-space:pre-wrap">{lines}</pre>')
            if self.finding.expected is not None and self.finding.yours is not None:
                parts.append(_picture(self.finding))
            if self.printed:
                lines = html.escape("\n".join(_last(self.printed)))
                parts.append(f"<details><summary>Your code printed</summary><pre>{lines}</pre>")
                parts.append("</details>")
            parts.append(f'<div style="opacity:0.75">{html.escape(self._again(self.level))}</div>')
        body = "\n".join(parts)
        return f'<div style="border-left:4px solid {colour};padding:0.3em 0.8em">{body}</div>'


def _last(text: str, lines: int = 10) -> list[str]:
    kept = text.rstrip().split("\n")
    return kept if len(kept) <= lines else [f"... {len(kept) - lines} lines", *kept[-lines:]]


def _numbers(table: np.ndarray, columns: int = 10) -> list[str]:
    more = " ..." if table.shape[1] > columns else ""
    return ["    " + " ".join(f"{v:7.2f}" for v in row[:columns]) + more for row in table]


def _picture(finding: Finding) -> str:
    from mixer_lite.figures import show_signed, show_table

    finite = [np.nan_to_num(np.asarray(t, float)) for t in (finding.expected, finding.yours)]
    small = all(table.size <= 60 for table in finite)
    signed = min(float(table.min()) for table in finite) < 0
    alt = "Two tables of numbers, what was expected and what your answer gave."
    rows, columns = finding.axes if finite[0].shape == finite[1].shape else ("", "")
    look: dict[str, Any] = dict(values=small, height=2.4, ylabel=rows, xlabel=columns, alt=alt)
    figure = (show_signed if signed else show_table)(finite, ["expected", "yours"], **look)
    kind, data = figure.encode()
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{alt}" style="max-height:15em" src="{source}">'
