"""What a check says: a finding in the learner's terms, shown well in a notebook and in a terminal.

Also the learner's progress through the checks, and the stepped hints.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

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
    """

    mistake: str
    says: str
    evidence: tuple[str, ...] = ()
    expected: np.ndarray | None = None
    yours: np.ndarray | None = None


@dataclass(frozen=True)
class Report:
    """The result of a check; true when the answer passed.

    Attributes:
        name: of the check.
        finding: what is wrong; ``None`` when the answer passed.
        seed: repeats this very trial: ``check.NAME(answer, seed=seed)``.
        tries: rounds of random sizes and numbers that the answer went through.
        printed: what the learner's code printed meanwhile.
    """

    name: str
    finding: Finding | None
    seed: int
    tries: int = 0
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether the answer passed."""
        return self.finding is None

    def __bool__(self) -> bool:
        return self.passed

    def require(self) -> Report:
        """The report itself if the answer passed.

        Raises:
            CheckFailed: it did not; the message is the report.
        """
        if self.finding is not None:
            raise CheckFailed(str(self))
        return self

    def _headline(self) -> str:
        if self.finding is None:
            times = "once" if self.tries == 1 else f"{self.tries} times, each with new sizes"
            return f"{self.name}: right. Tried {times}."
        return f"{self.name}: {self.finding.mistake}"

    def _again(self) -> str:
        return (
            f"The same trial again: check.{self.name}(..., seed={self.seed}). "
            f'A hint: check.hint("{self.name}").'
        )

    def __str__(self) -> str:
        if self.finding is None:
            return f"{PASSED[0]} {self._headline()}"
        lines = [f"{FAILED[0]} {self._headline()}", self.finding.says]
        lines += [f"  {line}" for line in self.finding.evidence]
        for title, table in (("expected", self.finding.expected), ("yours", self.finding.yours)):
            # In digits a large table says less than its first differing number, told above.
            if table is not None and table.size <= 60:
                lines += [f"  {title}:", *_numbers(table)]
        if self.printed:
            lines += ["Your code printed:", *(f"  {line}" for line in _last(self.printed))]
        return "\n".join([*lines, self._again()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        mark, colour = PASSED if self.finding is None else FAILED
        parts = [f"<b>{mark} {html.escape(self._headline())}</b>"]
        if self.finding is not None:
            parts.append(f"<div>{html.escape(self.finding.says)}</div>")
            if self.finding.evidence:
                lines = html.escape("\n".join(self.finding.evidence))
                parts.append(f'<pre style="margin:0.4em 0;white-space:pre-wrap">{lines}</pre>')
            if self.finding.expected is not None and self.finding.yours is not None:
                parts.append(_picture(self.finding.expected, self.finding.yours))
            if self.printed:
                lines = html.escape("\n".join(_last(self.printed)))
                parts.append(f"<details><summary>Your code printed</summary><pre>{lines}</pre>")
                parts.append("</details>")
            parts.append(f'<div style="opacity:0.75">{html.escape(self._again())}</div>')
        body = "\n".join(parts)
        return f'<div style="border-left:4px solid {colour};padding:0.3em 0.8em">{body}</div>'


def _last(text: str, lines: int = 10) -> list[str]:
    kept = text.rstrip().split("\n")
    return kept if len(kept) <= lines else [f"... {len(kept) - lines} lines", *kept[-lines:]]


def _numbers(table: np.ndarray, columns: int = 10) -> list[str]:
    more = " ..." if table.shape[1] > columns else ""
    return ["    " + " ".join(f"{v:7.2f}" for v in row[:columns]) + more for row in table]


def _picture(expected: np.ndarray, yours: np.ndarray) -> str:
    from mixer_lite.figures import show_signed

    small = expected.size <= 60 and yours.size <= 60
    alt = "Two tables of signed numbers, what was expected and what your answer gave."
    finite = [np.nan_to_num(np.asarray(t, float)) for t in (expected, yours)]
    figure = show_signed(finite, ["expected", "yours"], values=small, height=2.4, alt=alt)
    kind, data = figure.encode()
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{alt}" style="max-height:15em" src="{source}">'


@dataclass
class Exercise:
    """What is known about one check: where it belongs, its hints, how far the learner is."""

    name: str
    lesson: str
    takes: str
    hints: Sequence[str]
    given: int = 0
    passed: bool | None = None  # None: not tried yet


EXERCISES: dict[str, Exercise] = {}


@dataclass(frozen=True)
class Progress:
    """Which checks have passed in this session, by lesson."""

    rows: tuple[tuple[str, str, bool | None], ...]

    def __str__(self) -> str:
        marks = {None: "·", True: PASSED[0], False: FAILED[0]}
        lines, last = [], ""
        for lesson, name, passed in self.rows:
            if lesson != last:
                lines.append(lesson)
                last = lesson
            lines.append(f"  {marks[passed]} {name}")
        done = sum(passed is True for *_, passed in self.rows)
        return "\n".join([*lines, f"{done} of {len(self.rows)} passed since the kernel started."])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lessons: dict[str, list[str]] = {}
        for lesson, name, passed in self.rows:
            mark, colour = {None: ("·", "inherit"), True: PASSED, False: FAILED}[passed]
            shown = f'<span style="color:{colour};white-space:nowrap"><b>{mark}</b> {name}</span>'
            lessons.setdefault(lesson, []).append(shown)
        rows = "".join(
            f'<tr><td style="text-align:left">{html.escape(lesson)}</td>'
            f'<td style="text-align:left">{" &nbsp; ".join(names)}</td></tr>'
            for lesson, names in lessons.items()
        )
        done = sum(passed is True for *_, passed in self.rows)
        last = f"{done} of {len(self.rows)} passed since the kernel started."
        return f"<table>{rows}</table><div>{last}</div>"


def progress() -> Progress:
    """Which checks have passed since the kernel started, which failed, which are to come."""
    known = sorted(EXERCISES.values(), key=lambda e: e.lesson)  # a lesson's name begins with 1 to 8
    return Progress(tuple((e.lesson, e.name, e.passed) for e in known))


@dataclass(frozen=True)
class Hint:
    """One step of help."""

    text: str
    number: int = field(default=1)
    of: int = field(default=1)

    def __str__(self) -> str:
        return f"Hint {self.number} of {self.of}: {self.text}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        words = html.escape(self.text)
        code = "".join(
            f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(words.split("`"))
        )
        return f"<div><b>Hint {self.number} of {self.of}</b> {code}</div>"


def hint(name: str) -> Hint:
    """The next hint for a check; after the last one, the last one again.

    Raises:
        ValueError: there is no such check.
    """
    from mixer_lite.specs import did_you_mean

    if name not in EXERCISES:
        otherwise = f"Choose from {', '.join(EXERCISES)}."
        raise ValueError(f"There is no check {name!r}. {did_you_mean(name, EXERCISES, otherwise)}")
    exercise = EXERCISES[name]
    exercise.given = min(exercise.given + 1, len(exercise.hints))
    return Hint(exercise.hints[exercise.given - 1], exercise.given, len(exercise.hints))
