"""Running a learner's code safely, and comparing what it gives with what it should give.

A check is a function of a :class:`Trial` and the learner's object. It draws sizes and numbers
from the trial, calls the learner's code through it, and compares; whatever goes wrong on the
way, in the learner's code too, ends as one :class:`~mixer_lite.checks.reports.Finding`.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import inspect
import io
import linecache
import random
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from mixer_lite.checks.reports import EXERCISES, Exercise, Finding, Report

SECONDS = 20.0  # for all rounds of one check
PACKAGE = str(Path(__file__).resolve().parent.parent)
INSTALLED = tuple({str(Path(torch.__file__).resolve().parents[1]), str(Path(copy.__file__).parent)})


class Wrong(Exception):
    """Ends a check with a finding; never leaves the check."""

    def __init__(self, finding: Finding):
        super().__init__(finding.says)
        self.finding = finding


class OutOfTime(BaseException):
    """The time limit; not an Exception, so that a learner's ``except Exception`` lets it pass."""


@dataclass(frozen=True)
class Suspect:
    """A mistake that one can foresee, and the value that it gives in this very trial.

    Attributes:
        mistake: short stable name.
        value: what an answer with this mistake returns, or a function that computes it; one that
            raises (sizes that the mistake cannot handle) is passed over.
        says: the mistake in the learner's terms.
    """

    mistake: str
    value: Any
    says: str


def fail(mistake: str, says: str, *evidence: str, **tables: Any) -> NoReturn:
    """End the check with this finding."""
    raise Wrong(Finding(mistake, says, evidence, **tables))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`OutOfTime` in this thread when the time is up, repeatedly until it leaves."""
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():

        def ring(*_: Any) -> NoReturn:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.2)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return
    # Windows, and threads other than the first, have no such alarm: Python throws it for us.
    done, thread = threading.Event(), ctypes.c_ulong(threading.get_ident())
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            throw(thread, ctypes.py_object(OutOfTime))
            wait = 0.2

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        throw(thread, None)  # takes back one that is on its way


@contextlib.contextmanager
def _undisturbed(seed: int) -> Iterator[None]:
    # The learner's session is afterwards as it was: random numbers, modes, default type.
    kind, python, threads = torch.get_default_dtype(), random.getstate(), torch.get_num_threads()
    numpy = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_num_threads(1)  # for tiny products threads only stand in each other's way
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        torch.set_default_dtype(kind)
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _place(trace: TracebackType | None) -> str:
    # The last line of the learner's own code in a traceback.
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith((PACKAGE, *INSTALLED, "<frozen", "<__array_function__"))
    ]
    if not frames:
        return ""
    last = frames[-1]
    line = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"in {last.name}, line {last.lineno}: {line}" if line else f"in {last.name}"


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


def shape_text(value: Any) -> str:
    """``(2, 6, 48)``, or a name of the type for what has no shape."""
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__


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


def _table(value: Tensor) -> np.ndarray | None:
    # The last two axes of the first item, if they are worth drawing.
    flat = value.detach().double()
    while flat.ndim > 2:
        flat = flat[0]
    flat = flat[None] if flat.ndim == 1 else flat
    if flat.ndim != 2 or not 2 <= flat.numel() <= 4000:
        return None
    return flat.cpu().numpy()


def _relation(got: Tensor, want: Tensor) -> tuple[str, str] | None:
    # What any two tensors may have to do with each other, whatever the exercise.
    if nearly_equal(-got, want):
        return "sign", "Every number has the wrong sign."
    if float(got.abs().max()) == 0:
        return "all zeros", "Every number of your result is zero."
    norm = float(want.square().sum())
    factor = float((got * want).sum()) / norm if norm else 0.0
    if abs(factor) > 1e-6 and nearly_equal(got, want * factor):
        return "scale", f"Every number is {factor:.4g} times what it should be."
    if nearly_equal(got - got.mean(), want - want.mean()):
        gap = float((got - want).mean())
        return "offset", f"Every number is off by the same amount, {gap:.4g}."
    for axis in range(want.ndim):
        n = want.shape[axis]
        if not 2 <= n <= 64:
            continue
        a = got.transpose(0, axis).reshape(n, -1)  # (n, everything else)
        b = want.transpose(0, axis).reshape(n, -1)
        nearest = torch.cdist(a, b).argmin(dim=1)  # (n,)
        order = nearest.tolist()
        if sorted(order) == list(range(n)) and nearly_equal(a, b[nearest]):
            return (
                "wrong order",
                f"The numbers are right, but along axis {axis} they stand in another order: "
                f"your entry 0 is entry {order[0]} of the right result, your entry 1 is entry "
                f"{order[1]}.",
            )
    if nearly_equal(got.flatten().sort().values, want.flatten().sort().values):
        return "wrong places", "The right numbers, but in the wrong places."
    return None


@dataclass
class Trial:
    """One run of a check: its random numbers, and all dealings with the learner's object.

    Attributes:
        seed: everything random follows from it.
        rounds: how many times a check repeats itself with new sizes.
    """

    seed: int
    rounds: int = 3
    random: random.Random = field(init=False)
    generator: torch.Generator = field(init=False)
    printed: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)

    # Random inputs

    def sizes(self, count: int, low: int, high: int) -> list[int]:
        """So many different sizes from ``low`` to ``high``: no two axes can be mistaken."""
        return self.random.sample(range(low, high + 1), count)

    def randn(self, *shape: int) -> Tensor:
        """Normal random numbers in the session's default type."""
        drawn = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return drawn.to(torch.get_default_dtype())

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
        watched = [
            (name, path, value, _kept(value))
            for name, arg in [
                *((f"argument {i + 1}", arg) for i, arg in enumerate(args)),
                *kwargs.items(),
            ]
            if not any(arg is allowed for allowed in may_change)
            for path, value in _numbers_in(arg)
        ]
        try:
            with contextlib.redirect_stdout(self.printed):
                result = function(*args, **kwargs)
        except (KeyboardInterrupt, OutOfTime, Wrong):
            raise
        except BaseException as error:
            told = str(error).strip().split("\n")[0] or "(no message)"
            evidence = [f"{type(error).__name__}: {told[:300]}", _place(error.__traceback__)]
            call = _call_text(function, args, kwargs)
            fail(
                "raises",
                f"Your code stopped with an error when called as {call}.",
                *filter(None, evidence),
            )
        for name, path, value, before in watched:
            if not _unchanged(value, before):
                fail(
                    "changes its input",
                    f"Your code changes its input ({name}{path}) in place. Whoever called it still "
                    f"needs that: write `x = x + y`, which makes a new tensor, not `x += y`.",
                )
        return result

    def is_callable(self, answer: Any, form: str) -> None:
        """End the check unless the answer can be called; ``form``: how it will be, as text."""
        if answer is None or answer is Ellipsis:
            fail("nothing there", f"There is no answer yet: give the check your {form}.")
        if not callable(answer):
            fail(
                "not a function",
                f"The check needs something to call, {form}, not a {type(answer).__name__}"
                f"{_hint_called(answer)}",
            )
        module = getattr(inspect.unwrap(answer), "__module__", None) or ""
        if module.split(".")[0] == "mixer_lite":
            fail("not your own", "This is the course's own code. Write yours, and check that.")

    # Comparing

    def tensor(self, got: Any, what: str, *, whole: bool = False) -> Tensor:
        """``got`` as a tensor that can be compared, or the end of the check."""
        if got is None:
            fail(
                "returns nothing",
                f"Your code returned None where {what} should be: is there a `return`?",
            )
        if not isinstance(got, Tensor):
            fail("not a tensor", f"{_first(what)} should be a tensor, not a {type(got).__name__}.")
        if type(got) not in (Tensor, nn.Parameter):  # its own kind could answer the comparisons
            kind = type(got).__name__
            fail("wrong type", f"{_first(what)} should be an ordinary tensor, not a {kind}.")
        if got.device.type != "cpu":
            fail("wrong device", f"{_first(what)} came back on {got.device}; the input was on cpu.")
        if got.layout != torch.strided:
            fail("wrong type", f"{_first(what)} should be an ordinary tensor, not a sparse one.")
        if got.is_complex():
            fail("wrong type", f"{_first(what)} has complex numbers ({got.dtype}).")
        if whole and (got.is_floating_point() or got.dtype == torch.bool):
            fail("wrong type", f"{_first(what)} should be whole numbers, not {got.dtype}.")
        if not whole and not got.is_floating_point():
            fail(
                "wrong type",
                f"{_first(what)} should be floating-point numbers as the input, not {got.dtype}.",
            )
        return got.detach()

    def same(
        self,
        got: Any,
        want: Tensor,
        what: str,
        axes: str,
        suspects: Iterable[Suspect] = (),
        *evidence: str,
    ) -> None:
        """Compare the learner's tensor with the right one; end the check where they differ.

        Args:
            got: theirs.
            want: the right one.
            what: its name, ``"the patches"``.
            axes: the meaning of its axes, ``"(b, S, c·P·P)"``.
            suspects: foreseen mistakes; the first one whose value is ``got`` names the finding.
            evidence: further lines for it, for example the sizes of this trial.
        """
        got = self.tensor(got, what, whole=not want.is_floating_point())
        if nearly_equal(got, want):
            return
        tables = _tables(want, got)
        first = [*evidence, *_difference(want, got)]
        for suspect in suspects:
            value = _value(suspect.value)
            if isinstance(value, Tensor) and nearly_equal(got, value):
                fail(suspect.mistake, suspect.says, *first, **tables)
        if got.shape != want.shape:
            fail(
                "wrong shape",
                f"{_first(what)} should have shape {shape_text(want)}, that is {axes}, and yours "
                f"has {shape_text(got)}.{_shape_relation(got, want)}",
                *evidence,
            )
        if not bool(torch.isfinite(got).all()):
            bad = int((~torch.isfinite(got)).sum())
            fail("not finite", f"{bad} of {got.numel()} numbers are NaN or infinite.", *first)
        mistake, says = _relation(got.double(), want.double()) or (
            "wrong values",
            f"{_first(what)} has the right shape, {axes}, but other numbers.",
        )
        fail(mistake, says, *first, **tables)

    def moved(self, function: Callable[[Tensor], Any], x: Tensor, what: str) -> Tensor:
        """Which inputs move which outputs: bool ``(*outputs, *inputs)``, by nudging each input.

        Args:
            function: of one tensor, the learner's; called through the trial.
            x: where to nudge, small.
            what: the output's name.
        """
        start = self.tensor(self.call(function, x.clone()), what)
        columns = []
        for i in range(x.numel()):
            nudged = x.clone()
            nudged.view(-1)[i] += 1.0
            out = self.tensor(self.call(function, nudged), what)
            if out.shape != start.shape:
                fail("wrong shape", "The shape of your result depends on the numbers in the input.")
            columns.append((out - start).abs() > 1e-6 * float(start.abs().max().clamp_min(1.0)))
        return torch.stack(columns, dim=-1).reshape(*start.shape, *x.shape)


def _first(what: str) -> str:
    return what[:1].upper() + what[1:]


def _value(value: Any) -> Any:
    if not callable(value):
        return value
    try:
        return value()
    except Exception:
        return None


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


def _hint_called(answer: Any) -> str:
    if isinstance(answer, (Tensor, np.ndarray)):
        return ": give the function itself, without calling it."
    return "."


def _tables(want: Tensor, got: Tensor) -> dict[str, Any]:
    expected, yours = _table(want), _table(got)
    if expected is None or yours is None:
        return {}
    return dict(expected=expected, yours=yours)


def _difference(want: Tensor, got: Tensor) -> list[str]:
    # The first place where the two differ, and how many there are.
    if got.shape != want.shape:
        return [f"shape: expected {shape_text(want)}, yours {shape_text(got)}"]
    a, b = want.double(), got.double()
    scale = float(a.abs().max()) if a.numel() else 1.0
    off = ~((a - b).abs() <= 2e-5 * (scale or 1.0))  # NaN counts as a difference
    if not bool(off.any()):
        return []
    index = tuple(off.nonzero()[0].tolist())
    return [
        f"first difference at {list(index)}: expected {float(a[index]):.5g}, yours "
        f"{float(b[index]):.5g}",
        f"{int(off.sum())} of {off.numel()} numbers differ",
    ]


def _shape_relation(got: Tensor, want: Tensor) -> str:
    if sorted(got.shape) == sorted(want.shape):
        return " The axes are in another order."
    if got.numel() == want.numel():
        return " The number of values is right, but they are arranged in other axes."
    if got.squeeze().shape == want.squeeze().shape:
        return " There is an axis of length 1 too many or too few."
    return ""


def exercise(
    *, lesson: str, takes: str, hints: Sequence[str]
) -> Callable[[Callable[[Trial, Any], None]], Callable[..., Report]]:
    """Make a check of a function ``run(trial, answer)`` that ends with :func:`fail` or returns.

    Args:
        lesson: where it belongs, for :func:`~mixer_lite.checks.reports.progress`.
        takes: what the learner gives it, ``"patchify(images, patch_size)"``.
        hints: stepped help, from a nudge to nearly the answer, never the answer.
    """

    def made(run: Callable[[Trial, Any], None]) -> Callable[..., Report]:
        name = run.__name__
        EXERCISES[name] = Exercise(name, lesson, takes, tuple(hints))

        @functools.wraps(run)
        def check(
            answer: Any = None, *, seed: int | None = None, seconds: float = SECONDS
        ) -> Report:
            if seed is None:
                seed = random.SystemRandom().randrange(1_000_000)
            trial = Trial(int(seed))
            finding = None
            try:
                with _undisturbed(trial.seed), time_limit(seconds):
                    trial.is_callable(answer, takes)
                    run(trial, answer)
            except Wrong as wrong:
                finding = wrong.finding
            except OutOfTime as late:
                finding = Finding(
                    "does not end",
                    f"Your code was still running after {seconds:g} seconds: is there a loop that "
                    f"never ends?",
                    tuple(filter(None, [_place(late.__traceback__)])),
                )
            except (
                Exception
            ) as error:  # what no check foresaw, in objects that lie about themselves
                finding = Finding(
                    "not understood",
                    f"The check could not make sense of your answer ({takes}).",
                    (f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}",),
                )
            EXERCISES[name].passed = finding is None
            return Report(name, finding, trial.seed, trial.rounds, trial.printed.getvalue())

        # What a learner sees with `?`: one argument of theirs, and the seed.
        check.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("answer", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY, default=None),
                inspect.Parameter("seconds", inspect.Parameter.KEYWORD_ONLY, default=SECONDS),
            ],
            return_annotation=Report,
        )
        return check

    return made
