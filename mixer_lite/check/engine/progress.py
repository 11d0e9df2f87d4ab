"""The learner's progress through the checks, and the stepped hints."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from mixer_lite._support.words import did_you_mean
from mixer_lite.check.engine.exercise import EXERCISES
from mixer_lite.check.engine.reports import FAILED, PASSED
from mixer_lite.check.engine.steps import CURE, NAME, SYMPTOM, help_level

LATELY = " (another answer failed since)"


@dataclass(frozen=True)
class Progress:
    """Which checks have passed in this session, by lesson."""

    rows: tuple[tuple[str, str, bool | None, bool], ...]  # ..., passed, the last try failed

    def __str__(self) -> str:
        marks = {None: "·", True: PASSED[0], False: FAILED[0]}
        lines, last = [], ""
        for lesson, name, passed, failed in self.rows:
            if lesson != last:
                lines.append(lesson)
                last = lesson
            lines.append(f"  {marks[passed]} {name}{LATELY if passed and failed else ''}")
        done = sum(passed is True for *_, passed, _ in self.rows)
        return "\n".join([*lines, f"{done} of {len(self.rows)} passed since the kernel started."])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        lessons: dict[str, list[str]] = {}
        for lesson, check, passed, failed in self.rows:
            name = check + LATELY if passed and failed else check
            mark, colour = {None: ("·", "inherit"), True: PASSED, False: FAILED}[passed]
            shown = f'<span style="color:{colour};white-space:nowrap"><b>{mark}</b> {name}</span>'
            lessons.setdefault(lesson, []).append(shown)
        rows = "".join(
            f'<tr><td style="text-align:left">{html.escape(lesson)}</td>'
            f'<td style="text-align:left">{" &nbsp; ".join(names)}</td></tr>'
            for lesson, names in lessons.items()
        )
        done = sum(passed is True for *_, passed, _ in self.rows)
        last = f"{done} of {len(self.rows)} passed since the kernel started."
        return f"<table>{rows}</table><div>{last}</div>"


def progress() -> Progress:
    """Which checks have passed since the kernel started, which failed, which are to come.

    A check that has passed stays so, whatever is tried afterwards.
    """
    known = sorted(EXERCISES.values(), key=lambda e: e.lesson)  # a lesson's name begins with 1 to 8
    return Progress(tuple((e.lesson, e.name, e.passed, e.last is not None) for e in known))


@dataclass(frozen=True)
class Hint:
    """One step of help: of the check's own, or about the last answer (number 0)."""

    text: str
    number: int = field(default=1)
    of: int = field(default=1)

    @property
    def title(self) -> str:
        """``"Hint 1 of 3"``."""
        return f"Hint {self.number} of {self.of}" if self.number else "Your last answer"

    def __str__(self) -> str:
        return f"{self.title}: {self.text}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        words = html.escape(self.text)
        code = "".join(
            f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(words.split("`"))
        )
        return f"<div><b>{self.title}</b> {code}</div>"


def hint(name: str) -> Hint:
    """The next hint for a check; after the last one, the last one again.

    Where an answer failed and its mistake is not yet told, the hint is the mistake's name, and the
    next one what it is and what to do.

    Raises:
        ValueError: there is no such check.
    """
    if name not in EXERCISES:
        otherwise = f"Choose from {', '.join(EXERCISES)}."
        raise ValueError(f"There is no check {name!r}. {did_you_mean(name, EXERCISES, otherwise)}")
    exercise = EXERCISES[name]
    wrong = exercise.last
    if wrong and wrong.symptom and not help_level() and exercise.steps.get(wrong.mistake, 0) < CURE:
        if exercise.steps.get(wrong.mistake, 0) < SYMPTOM:  # the report was not shown yet
            exercise.step(wrong.mistake)
        named = exercise.step(wrong.mistake) == NAME
        return Hint(f"{wrong.mistake}." if named else wrong.says, 0)
    exercise.given = min(exercise.given + 1, len(exercise.hints))
    return Hint(exercise.hints[exercise.given - 1], exercise.given, len(exercise.hints))
