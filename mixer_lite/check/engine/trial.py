"""One run of a check: its random numbers, its words, and its calls of the learner's code.

Whatever goes wrong on the way, in the learner's code too, ends as one
:class:`~mixer_lite.check.engine.reports.Finding`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from mixer_lite.check.engine import compare
from mixer_lite.check.engine.compare import shape_text
from mixer_lite.check.engine.limits import OutOfTime, place
from mixer_lite.check.engine.reports import Finding
from mixer_lite.check.engine.words import first, look_up, of

if TYPE_CHECKING:
    from mixer_lite.check.engine.exercise import Exercise


class Wrong(Exception):
    """Ends a check with a finding; never leaves the check."""

    def __init__(self, finding: Finding):
        super().__init__(finding.says)
        self.finding = finding


@dataclass(frozen=True)
class Foreseen:
    """A mistake that one can foresee, and the value that it gives in this trial.

    Attributes:
        keys: of its words, ``"mistake"`` or ``"mistake: which"``; two for two mistakes at once.
        value: what an answer with this mistake returns, or a function that computes it; one that
            raises (sizes that the mistake cannot handle) is passed over.
        fill: for the words.
    """

    keys: tuple[str, ...]
    value: Any
    fill: dict[str, Any] = field(default_factory=dict)

    def computed(self) -> Any:
        """The value."""
        if not callable(self.value):
            return self.value
        try:
            return self.value()
        except Exception:
            return None


def nearly_equal(got: Tensor, want: Tensor) -> bool:
    """Equal to rounding, in the coarser of the two precisions and on the scale of ``want``."""
    if got.shape != want.shape:
        return False
    coarse = torch.float32 in (got.dtype, want.dtype) or torch.get_default_dtype() != torch.float64
    got, want = got.detach().double(), want.detach().double()
    scale = float(want.abs().max()) if want.numel() else 0.0
    if not np.isfinite(scale):  # a foreseen mistake that ends in NaN
        return False
    return torch.allclose(got, want, rtol=0, atol=(2e-5 if coarse else 1e-9) * (scale or 1.0))


@dataclass
class Trial:
    """One run of a check.

    Attributes:
        seed: everything random follows from it.
        exercise: whose words are said.
        rounds: how many times a check repeats itself with new sizes.
        round: the present one.
        sizes: of the present round, to be filled into words.
        remarks: what to say of an answer that passes.
        square: ``""``, or ``"pair"`` where height and width are drawn alike, or ``"side"`` where
            one number is given for both.
        like: sizes that came with a finished module.
        stopped: the error that ended the learner's code, if one did.
        so_far: what is known when the time runs out.
    """

    seed: int
    exercise: Exercise | None = None
    rounds: int = 3
    round: int = 0
    sizes: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    square: str = ""
    like: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    so_far: Finding | None = None
    random: random.Random = field(init=False)
    generator: torch.Generator = field(init=False)
    printed: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)

    # Random inputs

    def choose(self, count: int, low: int, high: int) -> list[int]:
        """So many different sizes from ``low`` to ``high``: no two axes can be mistaken."""
        return self.random.sample(range(low, high + 1), count)

    def sides(self, gh: int, gw: int) -> tuple[int, int]:
        """Two sides of a grid: equal for squares; and no check sees wide or tall ones alone."""
        if self.square:
            return gh, gh
        wide, tall = self.round == 1, self.round == 2
        return (
            (max(gh, gw), min(gh, gw)) if tall else (min(gh, gw), max(gh, gw)) if wide else (gh, gw)
        )

    def randn(self, *shape: int) -> Tensor:
        """Normal random numbers in the session's default type."""
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(torch.get_default_dtype())

    # Words

    def text(self, kind: str, key: str = "", /, **fill: Any) -> str:
        """Words of this check, filled in with the round's sizes and ``fill``; ``""`` for none."""
        file, name = (self.exercise.file, self.exercise.name) if self.exercise else ("common", "")
        return str(look_up(file, name, kind, key) or "").format_map(self.sizes | fill)

    def line(self, key: str, /, **fill: Any) -> str:
        """A line of evidence."""
        return self.text("lines", key, **fill)

    def told(self) -> list[str]:
        """The sizes of this round, where the check has words for them."""
        return [line for line in [self.text("sizes")] if line]

    def finding(self, keys: Sequence[str], /, *lines: str, **fill: Any) -> Finding:
        """What to say of a mistake, or of two at once; ``expected`` and ``yours`` are drawn."""
        tables = {name: fill.pop(name, None) for name in ("expected", "yours")}
        says = self.text("mistakes", keys[0], **fill)
        for other in keys[1:]:
            also = self.text("mistakes", other, **fill)
            says += self.text("besides", name=other.partition(":")[0], says=also)
        mistake, symptom = keys[0].partition(":")[0], ""
        if mistake not in of("common")["mistakes"] and mistake not in of("common")["at_once"]:
            symptom = self.line("symptom")
        rows, columns = self._axes() if tables["yours"] is not None else ("", "")
        shown = (tuple(filter(None, lines)), tables["expected"], tables["yours"], (rows, columns))
        return Finding(mistake, says, *shown, symptom)

    def _axes(self) -> tuple[str, str]:
        # What the rows and columns of a drawn result are, from words such as "(b, S, C)".
        found = look_up(self.exercise.file, self.exercise.name, "axes") if self.exercise else ""
        names = found.strip("()").split(", ") if isinstance(found, str) else []
        return (names[-2], names[-1]) if len(names) > 1 and "{" not in found else ("", "")

    def fail(self, key: str, /, *lines: str, **fill: Any) -> NoReturn:
        """End the check with this mistake."""
        raise Wrong(self.finding((key,), *lines, **fill))

    # The learner's code

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        may_change: Sequence[Any] = (),
        **kwargs: Any,
    ) -> Any:
        """Call the learner's code; an exception in it, or a changed input, ends the check.

        Args:
            function: theirs.
            args, kwargs: of the call.
            may_change: those of the arguments that it is meant to change.
        """
        named = [*((f"argument {i + 1}", arg) for i, arg in enumerate(args)), *kwargs.items()]
        watched = [
            (name + path, value, _kept(value))
            for name, arg in named
            if not any(arg is allowed for allowed in may_change)
            for path, value in _numbers_in(arg)
        ]
        try:
            with contextlib.redirect_stdout(self.printed):
                result = function(*args, **kwargs)
        except (KeyboardInterrupt, OutOfTime, Wrong):
            raise
        except BaseException as error:
            told = _last_words(error)
            self.stopped = f"{type(error).__name__}: {told}"
            evidence = [self.stopped, place(error.__traceback__)]
            self.fail("raises", *evidence, call=_call_text(function, args, kwargs))
        for name, value, before in watched:
            if not _unchanged(value, before):
                self.fail("changes its input", name=name)
        return result

    def is_callable(self, answer: Any) -> None:
        """End the check unless the answer can be called."""
        form = self.text("takes")
        if answer is None or answer is Ellipsis:
            self.fail("nothing there", form=form)
        if not callable(answer):
            key = "not a function"
            if isinstance(answer, (Tensor, np.ndarray)):
                key += ": its result"
            self.fail(key, form=form, kind=type(answer).__name__)
        module = getattr(inspect.unwrap(answer), "__module__", None) or ""
        if module.split(".")[0] == "mixer_lite":
            self.fail("not your own")

    # Comparing

    def tensor(self, got: Any, part: str = "", *, whole: bool = False) -> Tensor:
        """``got`` as a tensor that can be compared, or the end of the check.

        Args:
            got: theirs.
            part: which of several results it is, for the words ``what`` and ``axes``.
            whole: whether whole numbers are due.
        """
        what = self.text("what", part)
        known: dict[str, Any] = dict(what=what, What=first(what), kind=type(got).__name__)
        if got is None:
            self.fail("returns nothing", **known)
        if not isinstance(got, Tensor):
            self.fail("not a tensor", **known)
        if type(got) not in (Tensor, nn.Parameter):  # a subclass could fake the comparisons
            self.fail("wrong type: own kind", **known)
        known |= dict(dtype=got.dtype, device=got.device)
        if got.device.type != "cpu":
            self.fail("wrong device", **known)
        if got.layout != torch.strided:
            self.fail("wrong type: sparse", **known)
        if got.is_complex():
            self.fail("wrong type: complex", **known)
        if whole and (got.is_floating_point() or got.dtype == torch.bool):
            self.fail("wrong type: not whole", **known)
        if not whole and not got.is_floating_point():
            self.fail("wrong type: not floating", **known)
        return got.detach()

    def same(
        self,
        got: Any,
        want: Tensor,
        foreseen: Iterable[Foreseen] = (),
        *lines: str,
        part: str = "",
    ) -> None:
        """Compare the learner's tensor with the right one; end the check where they differ.

        Args:
            got: theirs.
            want: the right one.
            foreseen: mistakes; the first one whose value is ``got`` names the finding.
            lines: evidence, for example the sizes of this trial.
            part: which of several results it is, for the words ``what`` and ``axes``.
        """
        got = self.tensor(got, part, whole=not want.is_floating_point())
        if nearly_equal(got, want):
            return
        first_lines = [*lines, *self._difference(want, got)]
        expected, yours = compare.table(want), compare.table(got)
        drawn = {} if expected is None or yours is None else dict(expected=expected, yours=yours)
        for mistake in foreseen:
            value = mistake.computed()
            if isinstance(value, Tensor) and nearly_equal(got, value):
                raise Wrong(self.finding(mistake.keys, *first_lines, **mistake.fill, **drawn))
        what = self.text("what", part)
        known = dict(what=what, What=first(what), axes=self.text("axes", part))
        if got.shape != want.shape:
            why = self.line(compare.shapes_differ_by(got, want))
            shapes = dict(want=shape_text(want), got=shape_text(got), why=why)
            self.fail("wrong shape", *lines, **shapes, **known)
        if not bool(torch.isfinite(got).all()):
            bad = int((~torch.isfinite(got)).sum())
            self.fail("not finite", *first_lines, bad=bad, of=got.numel())
        key, fill = compare.relation(got.double(), want.double(), nearly_equal)
        self.fail(key, *first_lines, **drawn, **fill, **known)

    def _difference(self, want: Tensor, got: Tensor) -> list[str]:
        if got.shape != want.shape:
            return [self.line("shapes", want=shape_text(want), got=shape_text(got))]
        found = compare.first_difference(want, got)
        return [
            self.line(key, **(found or {})) for key in ("first difference", "how many") if found
        ]

    def moved(self, function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        """Which inputs move which outputs: bool ``(*outputs, *inputs)``, by nudging each input.

        Args:
            function: of one tensor, the learner's; called through the trial.
            x: where to nudge, small.
        """
        start = self.tensor(self.call(function, x.clone()))
        columns = []
        for i in range(x.numel()):
            nudged = x.clone()
            nudged.view(-1)[i] += 1.0
            out = self.tensor(self.call(function, nudged))
            if out.shape != start.shape:
                self.fail("wrong shape: it depends")
            columns.append((out - start).abs() > 1e-6 * float(start.abs().max().clamp_min(1.0)))
        return torch.stack(columns, dim=-1).reshape(*start.shape, *x.shape)


def _last_words(error: BaseException) -> str:
    # The first line of an error's message; all lines of einops, whose useful ones come last.
    told = [line.strip() for line in str(error).strip().split("\n") if line.strip()]
    if type(error).__name__ == "EinopsError":
        return " ".join(told)[:600]
    return told[0][:300] if told else "(no message)"


def _numbers_in(value: Any) -> Iterator[tuple[str, Any]]:
    # Every tensor and array in an argument, with where it is; modules by their parameters.
    if isinstance(value, (Tensor, np.ndarray)):
        yield "", value
    elif isinstance(value, nn.Module):
        for name, number in value.state_dict(keep_vars=True).items():
            yield f": {name}", number
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from ((f"[{key!r}]{path}", found) for path, found in _numbers_in(item))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from ((f"[{i}]{path}", found) for path, found in _numbers_in(item))


def _kept(value: Tensor | np.ndarray) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value.copy()


def _unchanged(now: Any, before: Any) -> bool:
    if isinstance(now, Tensor):
        return now.shape == before.shape and bool(torch.equal(now.detach(), before))
    return np.array_equal(now, before)


def _call_text(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    name = getattr(function, "__name__", None) or f"your {type(function).__name__}"
    shown = [_argument(arg) for arg in args] + [f"{k}={_argument(v)}" for k, v in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _argument(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"<{'×'.join(map(str, value.shape)) or 'scalar'}>"
    if isinstance(value, (int, float, str, tuple)):
        return repr(value)
    return f"<{getattr(value, '__name__', None) or type(value).__name__}>"
