"""Checks of lesson 5: what token mixing learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mixer_lite.check.engine.compare import shape_text
from mixer_lite.check.engine.exercise import EXERCISES, Inputs, exercise
from mixer_lite.check.engine.figure import FIGURE, judge_figure
from mixer_lite.check.engine.planted import wave_numbers, waves
from mixer_lite.check.engine.trial import Trial, Wrong

# Folding


def _draw_weight(matrix: str, t: Trial) -> Inputs:
    gh, gw = t.choose(2, 2, 5)
    # In the first round D_S = S, as in the course's small models: there a mistaken axis goes
    # unnoticed, so that it can be named. In the others no two sizes are alike.
    others = [n for n in range(3, 12) if n not in (gh, gw, gh * gw)]
    d = t.random.choice(others) if t.round else gh * gw
    w = t.randn(d, gh * gw) if matrix == "W1" else t.randn(gh * gw, d)
    return (w, (gh, gw)), dict(matrix=matrix, shape=tuple(w.shape), d=d, gh=gh, gw=gw)


def _each(f: Callable[..., Tensor], maps: Tensor) -> Tensor:
    return f(maps, dim=(1, 2), keepdim=True)


def _min_max(m: Tensor) -> Tensor:
    return (m - _each(torch.amin, m)) / (_each(torch.amax, m) - _each(torch.amin, m))


BOTH_FOLDS = (
    ("column-major folding", dict(tokens="gw gh")),
    ("maps transposed", dict(then=lambda m: m.transpose(1, 2))),
    ("sides exchanged", dict(then=lambda m: m.reshape(len(m), m.shape[2], m.shape[1]))),
    ("not folded", lambda w, grid: w),
    ("not folded: rows", dict(then=lambda m: m.flatten(1))),
    ("units last", dict(then=lambda m: m.permute(1, 2, 0))),
    ("upside down", dict(then=lambda m: m.flip(1))),
    ("mirrored", dict(then=lambda m: m.flip(2))),
    ("one unit only", dict(then=lambda m: m[0])),
    ("signs lost", dict(then=torch.abs)),
    ("mean taken away", dict(then=lambda m: m - _each(torch.mean, m))),
    ("rescaled", dict(then=lambda m: m / _each(torch.amax, m.abs()))),
    ("rescaled", dict(then=lambda m: m / _each(torch.norm, m))),
    ("rescaled", dict(then=_min_max)),
)

FOLD_FILTERS = (
    (
        "folds the hidden axis",
        lambda w, grid: rearrange(w, "(gh gw) s -> s gh gw", gh=grid[0], gw=grid[1]),
    ),
    ("reshape for rearrange", lambda w, grid: w.reshape(*grid, len(w))),
    *BOTH_FOLDS,
)

FOLD_OUTPUTS = (
    ("missing transpose", lambda w, grid: w.reshape(w.shape[1], *grid)),
    (
        "missing transpose: rows",
        lambda w, grid: rearrange(w, "s (gh gw) -> s gh gw", gh=grid[0], gw=grid[1]),
    ),
    *BOTH_FOLDS,
)


@exercise("lesson5", partial(_draw_weight, "W1"), FOLD_FILTERS)
def fold_filters(weight: Tensor, grid: tuple[int, int], *, tokens: str = "gh gw") -> Tensor:
    """``fold_filters(weight (D_S, S), grid (gh, gw)) -> (D_S, gh, gw)``.

    The rows of the first token-mixing matrix W1, each laid out on the grid of patches.
    """
    return rearrange(weight, f"u ({tokens}) -> u gh gw", gh=grid[0], gw=grid[1])


@exercise("lesson5", partial(_draw_weight, "W2"), FOLD_OUTPUTS)
def fold_outputs(weight: Tensor, grid: tuple[int, int], *, tokens: str = "gh gw") -> Tensor:
    """``fold_outputs(weight (S, D_S), grid (gh, gw)) -> (D_S, gh, gw)``.

    The columns of the second token-mixing matrix W2, each laid out on the grid of patches.
    """
    return rearrange(weight, f"({tokens}) u -> u gh gw", gh=grid[0], gw=grid[1])


# Lists of units


def whole_numbers(t: Trial, got: Any) -> Tensor:
    """Indices: lists and arrays of whole numbers serve as well as tensors."""
    if isinstance(got, (list, tuple, np.ndarray)):
        try:
            got = torch.as_tensor(np.asarray(got))
        except (TypeError, ValueError, RuntimeError):
            pass  # reported below
    return t.tensor(got, whole=True)


def each_once(t: Trial, got: Tensor, n: int) -> None:
    """End the check unless each of n units is there once."""
    numbers = got.flatten().tolist()
    outside = [k for k in numbers if not 0 <= k < n]
    if outside:
        t.fail("no such unit", unit=outside[0], last=n - 1)
    twice = [k for k in range(n) if numbers.count(k) > 1]
    missing = [k for k in range(n) if k not in numbers]
    if not twice and not missing:
        return
    what = t.text("what")
    fill: dict[str, Any] = dict(What=what[:1].upper() + what[1:], twice=[*twice, 0][0])
    key = "units missing" if not twice else "units repeated" + ": none missing" * (not missing)
    line = t.line("yours", yours=got.tolist())
    t.fail(key, line, missing=[*missing, 0][0], **fill)


def beside(maps: Sequence[Tensor]) -> np.ndarray:
    """Maps side by side, each on its own scale, a white column between."""
    gap = torch.zeros(maps[0].shape[0], 1, dtype=torch.float64)
    shown = [m.double() / m.abs().max().clamp_min(1e-300) for m in maps]
    return torch.cat([part for m in shown for part in (gap, m)][1:], dim=1).numpy()


# Ordering


def _power(filters: Tensor) -> Tensor:
    return torch.fft.fft2(filters.double()).abs().square()  # (n, gh, gw)


def _peaks(spectrum: Tensor, y0: float = 0, x0: float = 0) -> Tensor:
    # How far each spectrum's highest point is from (y0, x0), in rows and columns.
    gw = spectrum.shape[2]
    at = spectrum.flatten(1).argmax(1)
    return torch.hypot((at // gw).double() - y0, (at % gw).double() - x0)


def _along(filters: Tensor, axis: int) -> Tensor:
    # The number of periods along one axis alone.
    gw = filters.shape[2]
    at = _power(filters - _each(torch.mean, filters)).flatten(1).argmax(1)
    k = at // gw if axis == 0 else at % gw
    return torch.minimum(k, filters.shape[axis + 1] - k)


def _by(measure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda filters: measure(filters).argsort(stable=True)


def _middle(filters: Tensor) -> tuple[int, int]:
    return filters.shape[1] // 2, filters.shape[2] // 2


ORDERS = (
    ("high first", dict(then=lambda order: order.flip(0))),
    ("ranks for order", dict(then=lambda order: order.argsort())),
    ("not sorted", lambda f: torch.arange(len(f))),
    ("by strength", _by(lambda f: f.flatten(1).norm(dim=1))),
    ("by strength", _by(lambda f: -f.flatten(1).norm(dim=1))),
    ("by one axis only: down", _by(partial(_along, axis=0))),
    ("by one axis only: across", _by(partial(_along, axis=1))),
    ("by mean", _by(lambda f: f.mean((1, 2)))),
    ("by mean", _by(lambda f: -f.mean((1, 2)))),
    ("by mean", _by(lambda f: f.mean((1, 2)).abs())),
    ("negative frequencies", _by(lambda f: _peaks(_power(f)))),
    ("spectrum not shifted", _by(lambda f: _peaks(_power(f), *_middle(f)))),
    (
        "distance from the corner",
        _by(lambda f: _peaks(torch.fft.fftshift(_power(f), dim=(1, 2)))),
    ),
)


# These may look like another mistake, such as "high first", and are named where they do not.
SPECTRAL = ("negative frequencies", "spectrum not shifted", "distance from the corner")


def _draw_waves(t: Trial) -> tuple[Tensor, list[int], list[float]]:
    # Waves of known frequency in a random order, where no mistake is right or, but for SPECTRAL,
    # like another.
    gh, gw = t.choose(2, 10, 14)
    slow_first = wave_numbers(t, gh, gw)
    while True:
        made, at, periods = waves(t, slow_first, gh, gw)
        names: dict[tuple[int, ...], str] = {}
        for key, does in ORDERS:
            name, order = key.partition(":")[0], EXERCISES["order_filters"].does(does, (made,))
            if names.setdefault(tuple(order.tolist()), name) != name and name not in SPECTRAL:
                break
        else:
            if tuple(at) not in names:
                return made, at, periods


def _judge_order(t: Trial, answer: Any) -> None:
    t.rounds = 2  # five waves have 120 orders
    for _ in range(t.rounds):
        filters, want, periods = _draw_waves(t)
        n = len(filters)
        t.sizes = dict(n=n, gh=filters.shape[1], last=filters.shape[1] - 1)
        got = t.call(answer, filters)
        if isinstance(got, Tensor) and got.shape == filters.shape:
            t.fail("filters, not indices")
        if isinstance(got, Tensor) and got.is_floating_point() and got.shape == (n,):
            line = t.line("yours", yours=[round(v, 3) for v in got.tolist()])
            t.fail("values, not indices", line)
        got = whole_numbers(t, got)
        if got.shape != (n,):
            t.fail("wrong shape", got=shape_text(got))
        each_once(t, got, n)
        order = got.tolist()
        if order == want:
            continue
        shown: dict[str, Any] = dict(
            expected=beside([filters[k] for k in want]),
            yours=beside([filters[k] for k in order]),
        )
        found, due = ([round(periods[k], 2) for k in some] for some in (order, want))
        lines = [t.line("order", yours=order, found=found), t.line("expected", want=want, due=due)]
        for mistake in EXERCISES["order_filters"].foreseen((filters,)):
            if mistake.computed().tolist() == order:
                raise Wrong(t.finding(mistake.keys, *lines, **shown))
        k = next(k for k in range(n - 1) if periods[order[k]] > periods[order[k + 1]])
        t.fail("not by frequency", *lines, k=order[k], next=order[k + 1], **shown)


@exercise("lesson5", None, ORDERS, judge=_judge_order)
def order_filters(filters: Tensor) -> Tensor:
    """``order_filters(filters (n, gh, gw)) -> (n,)``: indices, low frequency first.

    The filters are waves of well separated frequencies, in all directions, phases and strengths,
    with small means and a little noise.
    """
    _, gh, gw = filters.shape
    down, across = _along(filters, 0) / gh, _along(filters, 1) / gw
    return torch.hypot(down, across).argsort()


# Measuring


def _draw_filters(t: Trial) -> Inputs:
    n, gh, gw = t.choose(3, 3, 8)
    rough = t.randn(n, gh + 1, gw + 1)
    strength = t.randn(n, 1, 1).abs() + 0.5
    x = strength * (rough[:, 1:, 1:] + rough[:, :-1, 1:] + rough[:, 1:, :-1] + t.randn(n, 1, 1))
    sizes = dict(shape=tuple(x.shape), n=n, gh=gh, gw=gw, s=gh * gw, less=gh * gw - 1)
    return (x,), sizes


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(1, 2))


def _sum(maps: Tensor) -> Tensor:
    return maps.sum(dim=(1, 2))


def _square(f: Tensor) -> Tensor:
    return _mean(f.square())


def _variance(f: Tensor) -> Tensor:
    return _square(f - _each(torch.mean, f))


def _as_it_is(f: Tensor) -> Tensor:
    return f


def _neighbours(f: Tensor) -> tuple[Tensor, Tensor]:
    return f[:, 1:] * f[:, :-1], f[:, :, 1:] * f[:, :, :-1]


def _differences(f: Tensor) -> tuple[Tensor, Tensor]:
    return (f[:, 1:] - f[:, :-1]).abs(), (f[:, :, 1:] - f[:, :, :-1]).abs()


def _pooled(down: Tensor, across: Tensor) -> Tensor:
    return (_sum(down) + _sum(across)) / (down[0].numel() + across[0].numel())


def _less_differences(f: Tensor) -> Tensor:
    down, across = ((part.square()).mean((1, 2)) for part in (f.diff(dim=1), f.diff(dim=2)))
    return 1 - (down + across) / 2 / f.var((1, 2), correction=0)


def _correlation(f: Tensor) -> Tensor:
    # Each of two neighbouring parts of a filter with its own mean and deviation.
    found = []
    for a, b in ((f[:, 1:], f[:, :-1]), (f[:, :, 1:], f[:, :, :-1])):
        a, b = (part.flatten(1) - part.flatten(1).mean(1, keepdim=True) for part in (a, b))
        found.append((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))
    return (found[0] + found[1]) / 2


SMOOTHNESS = (
    ("mean not removed", dict(centre=_as_it_is)),
    ("mean not removed", dict(centre=_as_it_is, over=_variance)),
    ("one mean for all", dict(centre=lambda x: x - x.mean())),
    ("one mean for all", dict(centre=lambda x: x - x.mean(), over=_variance)),
    ("horizontal neighbours only", dict(mix=lambda down, across: _mean(across))),
    ("vertical neighbours only", dict(mix=lambda down, across: _mean(down))),
    ("wraps around", dict(products=lambda f: (f * f.roll(1, 1), f * f.roll(1, 2)))),
    ("not divided by the variance", dict(over=lambda f: 1.0)),
    ("not divided by the variance", dict(centre=_as_it_is, over=lambda f: 1.0)),
    ("divided by the standard deviation", dict(over=lambda f: _square(f).sqrt())),
    ("sample variance", dict(over=lambda f: f.flatten(1).var(dim=1))),
    ("two directions summed", dict(then=lambda s: 2 * s)),
    ("all pairs in one mean", dict(mix=_pooled)),
    (
        "sums, not means",
        dict(mix=lambda d, a: (_sum(d) + _sum(a)) / 2, over=lambda f: _sum(f.square())),
    ),
    ("diagonal neighbours", dict(products=lambda f: (f[:, 1:, 1:] * f[:, :-1, :-1],) * 2)),
    ("differences, not products", dict(products=_differences, over=lambda f: 1.0)),
    ("differences, not products", dict(products=_differences, over=lambda f: _square(f).sqrt())),
    ("one minus the differences", _less_differences),
    ("correlation of neighbours", _correlation),
    ("one number for all", dict(then=torch.mean)),
    ("one number for all", dict(then=lambda s: s.mean()[None])),
)


@exercise("lesson5", _draw_filters, SMOOTHNESS)
def smoothness(
    filters: Tensor,
    *,
    centre: Callable[[Tensor], Tensor] = lambda x: x - _each(torch.mean, x),
    products: Callable[[Tensor], tuple[Tensor, Tensor]] = _neighbours,
    mix: Callable[[Tensor, Tensor], Tensor] = lambda d, a: (_mean(d) + _mean(a)) / 2,
    over: Callable[[Tensor], Tensor] = _square,
) -> Tensor:
    """``smoothness(filters (n, gh, gw)) -> (n,)``: the autocorrelation of neighbours.

    After removing the filter's mean: the mean product of vertical neighbours and the mean product
    of horizontal neighbours, averaged, over the filter's variance.
    """
    f = centre(filters)
    return mix(*products(f)) / over(f)


# Drawing


@exercise("lesson5", None, FIGURE, judge=judge_figure, squares=("pair",))
def filter_figure(filters: Tensor) -> Any:
    """``draw(filters (n, gh, gw)) -> a matplotlib Figure``: every unit as a map, in order.

    All maps on one scale that is symmetric about zero, in a diverging map of colours, cells square
    and sharp, row 0 on top, and a few words. Each map may have axes of its own, or all lie in one
    large image.
    """
    from mixer_lite.figures import plot_token_filters

    return plot_token_filters(filters, title="units")
