"""Answers of learners, right and wrong, for every check: the zoo that the checks are proved on.

A module ``tests/check/answers_*.py`` registers answers::

    @right("patchify")
    def with_loops(images, patch_size): ...

    @wrong("patchify", "column-major tokens", "columns of the grid")
    def runs_down(images, patch_size): ...

The second argument of ``wrong`` is the diagnosis that must be made, the others are words that the
learner must read in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    check: str
    answer: Any
    name: str
    mistake: str | None = None  # None: a right answer
    words: tuple[str, ...] = ()


ANSWERS: list[Answer] = []


def right(check: str) -> Callable[[Any], Any]:
    """Register a right answer: a function or class, as a learner might write it."""

    def add(answer: Any) -> Any:
        ANSWERS.append(Answer(check, answer, answer.__name__))
        return answer

    return add


def wrong(check: str, mistake: str, *words: str) -> Callable[[Any], Any]:
    """Register a wrong answer with the diagnosis and words that its report must have."""

    def add(answer: Any) -> Any:
        ANSWERS.append(Answer(check, answer, answer.__name__, mistake, words))
        return answer

    return add
