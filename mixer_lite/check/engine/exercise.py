"""An exercise's check, made of a right computation, inputs to try it on, and a table of mistakes.

    def draw(t):                                # inputs of new sizes each time, and their names
        b, s, c = t.choose(3, 2, 6)
        return (t.randn(b, s, c),), dict(b=b, s=s, c=c)

    MISTAKES = (
        ("mean over channels", dict(axis=2)),                   # other arguments of the right one
        ("sum for mean", dict(then=lambda y: 2 * y)),           # something done to its result
        ("first token only", lambda x: x[:, 0]),                # another computation
    )

    @exercise("lesson1", draw, MISTAKES)
    def pool(x, *, axis=1):
        '''``pool(x (b, S, C)) -> (b, C)``.'''
        return x.mean(axis)

``words/lesson1.toml`` has a section ``[pool]`` with what is said. A mistake that has several
wordings is written ``"mistake: which"``. Two arguments that go wrong at once need no row.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mixer_lite.check.engine.limits import OutOfTime, place, time_limit, undisturbed
from mixer_lite.check.engine.reports import Finding, Report
from mixer_lite.check.engine.steps import CURE, help_level
from mixer_lite.check.engine.trial import Foreseen, Trial, Wrong, nearly_equal
from mixer_lite.check.engine.words import look_up, of

SECONDS = 20.0  # of processor time, for all rounds of one check

Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # arguments for an answer, and sizes for the words
Row = tuple[str, Any]  # a mistake, and what it does


@dataclass
class Look:
    """What a closer look at a wrong result adds: mistakes, evidence, tables to be drawn."""

    foreseen: Sequence[Foreseen] = ()
    lines: Sequence[str] = ()
    expected: Any = None
    yours: Any = None
    below: Sequence[str] = ()

    def drawn_into(self, finding: Finding) -> Finding:
        """The finding with these tables in place of its own, and the lines below its evidence."""
        lines = (*finding.evidence, *self.below)
        expected, yours = finding.expected, finding.yours
        if self.expected is not None:
            expected, yours = self.expected, self.yours
        return replace(finding, evidence=lines, expected=expected, yours=yours)


@dataclass
class Exercise:
    """One check.

    Attributes:
        name, file: of the check, and of its lesson's words.
        draw: inputs, with all sizes different.
        right: the right computation, with an argument for everything that can go wrong.
        mistakes: the table.
        judge: what to do in place of comparing results.
        equal: other inputs for an answer that stops with an error, with all sizes equal: there a
            wrong axis fits, and can be named.
        only: what an answer does that is right there.
        look: called when a result is wrong; adds evidence and further mistakes.
        squares: what to try if the answer stops with an error: see ``Trial.square``.
        given: hints given so far.
        passed: whether an answer has passed; ``None`` until the check is tried.
        last: what the last answer got wrong.
        steps: how much was shown of each mistake.
    """

    name: str
    file: str
    draw: Callable[[Trial], Inputs] | None
    right: Callable[..., Any]
    mistakes: Sequence[Row]
    judge: Callable[[Trial, Any], None] | None = None
    equal: Callable[[Trial], Inputs] | None = None
    only: str = "equal sizes only"
    look: Callable[[Trial, Any, Any, tuple[Any, ...], Tensor], Look] | None = None
    squares: Sequence[str] = ()
    given: int = 0
    passed: bool | None = None
    last: Finding | None = None
    steps: dict[str, int] = field(default_factory=dict)

    def step(self, mistake: str) -> int:
        """How much to show of a mistake now: in steps, more each time."""
        self.steps[mistake] = min(self.steps.get(mistake, 0) + 1, CURE)
        return help_level() or self.steps[mistake]

    @property
    def lesson(self) -> str:
        """Where it belongs."""
        return str(of(self.file)["title"])

    @property
    def takes(self) -> str:
        """What the learner gives it, ``"patchify(images, patch_size)"``."""
        return str(look_up(self.file, self.name, "takes"))

    @property
    def hints(self) -> Sequence[str]:
        """Stepped help, from a nudge to nearly the answer, never the answer."""
        return look_up(self.file, self.name, "hints")

    def attempt(self, t: Trial, answer: Any) -> None:
        """Pass, or end with a finding; code that stops gets a second try on square images."""
        try:
            self.run(t, answer)
            return
        except Wrong as wrong:
            found = wrong
        for square in self.squares if t.stopped else ():
            again = Trial(t.seed, self, square=square, printed=t.printed)
            try:
                self.run(again, answer)
            except Wrong as other:
                if not again.stopped and found.finding.mistake in ("raises", self.only):
                    found = Wrong(other.finding.with_line(t.line("when square", stops=t.stopped)))
                continue
            t.remarks = [*again.remarks, t.line("right for squares", stops=t.stopped)]
            t.rounds = again.rounds
            return
        raise found

    def run(self, t: Trial, answer: Any) -> None:
        """Pass, or end with a finding."""
        if self.judge is not None:
            self.judge(t, answer)
            return
        assert self.draw is not None
        for number in range(t.rounds):
            t.round = number
            args, t.sizes = self.draw(t)
            got = self._called(t, answer, args) if self.equal else t.call(answer, *args)
            with torch.no_grad():
                want = self.right(*args)
                look = Look()
                right = isinstance(got, Tensor) and nearly_equal(got, want)
                if self.look is not None and not right:
                    look = self.look(t, answer, got, args, want)
                known = itertools.chain(self.foreseen(args), look.foreseen)
                try:
                    t.same(got, want, known, *t.told(), *look.lines)
                except Wrong as wrong:
                    raise Wrong(look.drawn_into(wrong.finding)) from None

    def foreseen(self, args: Sequence[Any]) -> Iterator[Foreseen]:
        """The table's mistakes for these inputs: each alone, then every two that can meet."""
        for key, does in self.mistakes:
            yield Foreseen((key,), functools.partial(self.does, does, args))
        for (a, one), (b, two) in itertools.combinations(self.mistakes, 2):
            if isinstance(one, Mapping) and isinstance(two, Mapping) and not set(one) & set(two):
                yield Foreseen((a, b), functools.partial(self.does, {**one, **two}, args))

    def does(self, does: Any, args: Sequence[Any]) -> Any:
        """What an answer with this mistake gives for these inputs."""
        if not isinstance(does, Mapping):
            return does(*args)
        change = dict(does)
        then = change.pop("then", None)
        value = self.right(*args, **change)
        return value if then is None else then(value)

    def _called(self, t: Trial, answer: Any, args: Sequence[Any]) -> Any:
        # With all sizes different, a wrong axis does not fit, and PyTorch's message helps little.
        # With equal sizes it fits, and the numbers show the mistake.
        try:
            return t.call(answer, *args)
        except Wrong as stopped:
            if stopped.finding.mistake != "raises":
                raise
            assert self.equal is not None
            told, lines, (same, _) = t.told(), stopped.finding.evidence, self.equal(t)
            try:
                t.same(t.call(answer, *same), self.right(*same), self.foreseen(same))
            except Wrong as named:
                found = named.finding
                if found.mistake not in {key.partition(":")[0] for key, _ in self.mistakes}:
                    raise stopped from None
                lines = (*told, *lines, t.line("when equal"), *found.evidence)
                raise Wrong(replace(found, evidence=lines)) from None
            t.fail(self.only, *told, *lines)


EXERCISES: dict[str, Exercise] = {}


def exercise(
    file: str,
    draw: Callable[[Trial], Inputs] | None,
    mistakes: Sequence[Row],
    *,
    modules: bool = False,
    **more: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Report]]:
    """Make a check of the right computation below it.

    Args:
        file: of the words, ``"lesson1"``.
        draw: inputs of new sizes.
        mistakes: the table.
        modules: whether answers are classes of modules, or finished modules with ``like`` sizes.
        more: ``judge``, ``equal``, ``only``, ``look``, ``squares`` of :class:`Exercise`.
    """

    def made(right: Callable[..., Any]) -> Callable[..., Report]:
        one = Exercise(right.__name__, file, draw, right, mistakes, **more)
        EXERCISES[one.name] = one

        def check(
            answer: Any = None, *, seed: int | None = None, seconds: float = SECONDS
        ) -> Report:
            return _report(one, answer, seed, seconds, {})

        def check_module(
            answer: Any = None,
            *,
            like: Mapping[str, Any] | None = None,
            seed: int | None = None,
            seconds: float = SECONDS,
        ) -> Report:
            return _report(one, answer, seed, seconds, dict(like or {}))

        check = check_module if modules else check
        check.__name__, check.__qualname__ = one.name, one.name
        check.__doc__, check.__module__ = right.__doc__, right.__module__
        return check

    return made


def _report(
    one: Exercise, answer: Any, seed: int | None, seconds: float, like: dict[str, Any]
) -> Report:
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    t, finding = Trial(int(seed), one, like=like), None
    try:
        with undisturbed(t.seed), time_limit(seconds):
            t.is_callable(answer)
            one.attempt(t, answer)
    except Wrong as wrong:
        finding = wrong.finding
    except OutOfTime as late:
        ends = t.finding(("does not end",), place(late.__traceback__), seconds=seconds)
        finding = t.so_far or ends
    except Exception as error:  # an error that no check foresaw, in objects with faulty methods
        told = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        finding = t.finding(("not understood",), told, takes=one.takes)
    one.passed, one.last = bool(one.passed) or finding is None, finding
    remarks = () if finding else tuple(dict.fromkeys(t.remarks))
    step = functools.partial(one.step, finding.mistake if finding else "")
    return Report(one.name, finding, t.seed, t.rounds, t.printed.getvalue(), remarks, step)
