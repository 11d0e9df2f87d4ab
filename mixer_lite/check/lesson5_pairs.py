"""The check of lesson 5 that pairs filters of opposite phase."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixer_lite.check.engine.compare import shape_text
from mixer_lite.check.engine.exercise import EXERCISES, exercise
from mixer_lite.check.engine.planted import opposites
from mixer_lite.check.engine.trial import Trial, Wrong
from mixer_lite.check.lesson5 import beside, each_once, whole_numbers


def _cosines(filters: Tensor) -> Tensor:
    flat = filters.double().flatten(1)
    return flat @ flat.T / (flat.norm(dim=1)[:, None] * flat.norm(dim=1))  # (n, n)


def _dots(filters: Tensor) -> Tensor:
    flat = filters.double().flatten(1)
    return flat @ flat.T


def _squares(filters: Tensor) -> Tensor:
    square = filters.double().flatten(1).square().sum(1)
    return square[:, None] + square


def _lengths(filters: Tensor) -> Tensor:
    return filters.double().flatten(1).norm(dim=1)


def _closest(filters: Tensor, lowest: bool = True) -> Tensor:
    cosine = _cosines(filters).fill_diagonal_(2.0 if lowest else -2.0)
    return cosine.argmin(1) if lowest else cosine.argmax(1)


def _chosen_by_each(filters: Tensor) -> Tensor:
    units, partner = torch.arange(len(filters)), _closest(filters)
    return torch.stack([units, partner], 1)[units < partner]


def _mutual(filters: Tensor) -> Tensor:
    # Those that choose each other; what is left is paired by number.
    chosen = _closest(filters).tolist()
    pairs = [[i, j] for i, j in enumerate(chosen) if i < j and chosen[j] == i]
    left = [i for i in range(len(chosen)) if chosen[chosen[i]] != i]
    return torch.tensor([*pairs, *zip(left[::2], left[1::2], strict=True)])


def _least_sum(filters: Tensor) -> Tensor:
    # The pairs whose cosines together are lowest.
    cosine = _cosines(filters).tolist()

    def pairings(left: list[int]) -> list[list[tuple[int, int]]]:
        if not left:
            return [[]]
        i, *others = left
        return [[(i, j), *rest] for j in others for rest in pairings([k for k in others if k != j])]

    every = pairings(list(range(len(cosine)))) if len(cosine) <= 10 else []
    return torch.tensor(min(every, key=lambda pairs: sum(cosine[i][j] for i, j in pairs)))


def _strong_first(filters: Tensor) -> Tensor:
    # The strongest takes its closest inverse, then the strongest of the rest.
    cosine, pairs = _cosines(filters), []
    left = _lengths(filters).argsort(descending=True).tolist()
    while left:
        i = left.pop(0)
        j = min(left, key=lambda k: float(cosine[i, k]))
        left.remove(j)
        pairs.append([i, j])
    return torch.tensor(pairs)


RIVALS = (
    ("least sum", _least_sum),
    ("mutual choices first", _mutual),
    ("strongest first", _strong_first),
)


def _ends(n: int) -> Tensor:
    return torch.stack([torch.arange(n // 2), torch.arange(n - 1, n // 2 - 1, -1)], 1)


PAIRS = (
    ("in turn", dict(in_turn=True)),
    ("closest of each", _chosen_by_each),
    *RIVALS,
    ("by number", lambda f: torch.arange(len(f)).reshape(-1, 2)),
    ("by number", lambda f: torch.arange(len(f)).reshape(2, -1).T),
    ("by number", lambda f: _ends(len(f))),
    ("by strength", lambda f: _lengths(f).argsort().reshape(-1, 2)),
    ("by strength", dict(cost=lambda f: (_lengths(f)[:, None] - _lengths(f)).abs())),
    ("by strength", dict(cost=lambda f: (_lengths(f)[:, None] - _lengths(f)).abs(), in_turn=True)),
    ("sign ignored", dict(cost=lambda f: -_cosines(f).abs())),
    ("sign ignored", dict(cost=lambda f: -_cosines(f).abs(), in_turn=True)),
    ("most similar", dict(cost=lambda f: -_cosines(f))),
    ("most similar", dict(cost=lambda f: -_cosines(f), in_turn=True)),
    ("strength counted", dict(cost=_dots)),
    ("strength counted", dict(cost=_dots, in_turn=True)),
    ("strength counted", dict(cost=lambda f: 2 * _dots(f) - _squares(f))),
    ("strength counted", dict(cost=lambda f: 2 * _dots(f) - _squares(f), in_turn=True)),
    ("strength counted", dict(cost=lambda f: 2 * _dots(f) + _squares(f))),
    ("strength counted", dict(cost=lambda f: 2 * _dots(f) + _squares(f), in_turn=True)),
    ("each unit's inverse", _closest),
    ("axes swapped", dict(then=lambda pairs: pairs.T)),
    ("every pair twice", lambda f: torch.stack([torch.arange(len(f)), _closest(f)], 1)),
    ("paired with itself", lambda f: torch.arange(len(f) // 2)[:, None].expand(-1, 2)),
)


def _rivals(t: Trial) -> Tensor:
    # Random filters in which units want the same partner, so that every way to choose gives other
    # pairs.
    one = EXERCISES["pair_filters"]
    while True:
        filters = t.randn(8, 3, 5)
        filters = filters - filters.mean((1, 2), keepdim=True)  # a correlation is a cosine
        near = _cosines(filters)[*torch.triu_indices(8, 8, 1)].sort().values.diff().min()
        if float(near) < 1e-4 or len(_chosen_by_each(filters)) != 4:
            continue
        others = [*(rival(filters) for _, rival in RIVALS), one.right(filters, in_turn=True)]
        ways = [
            _as_sets(pairs) for pairs in (one.right(filters), _chosen_by_each(filters), *others)
        ]
        if all(a != b for a, b in itertools.combinations(ways, 2)):
            return filters


def _as_sets(pairs: Tensor) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in pairs.tolist()}


def _judge_pairs(t: Trial, answer: Any) -> None:
    for number in range(t.rounds):
        t.round = number
        filters = _rivals(t) if t.round == t.rounds - 1 else opposites(t)
        n = len(filters)
        t.sizes = dict(n=n, half=n // 2, form=f"(n // 2, 2), here ({n // 2}, 2)")
        got = whole_numbers(t, t.call(answer, filters))
        chosen = _chosen_by_each(filters)
        if got.shape == chosen.shape and _as_sets(got) == _as_sets(chosen):
            if _as_sets(got) != _as_sets(EXERCISES["pair_filters"].right(filters)):
                t.fail("closest of each", t.line("yours", yours=got.tolist()))
        shapes = {
            (n,): "each unit's inverse",
            (2, n // 2): "axes swapped",
            (n, 2): "every pair twice",
        }
        if got.shape != (n // 2, 2):
            t.fail(shapes.get(tuple(got.shape), "wrong shape"), got=shape_text(got))
        selves = [i for i, j in got.tolist() if i == j]
        if selves:
            t.fail("paired with itself", unit=selves[0])
        each_once(t, got, n)
        _name_pairing(t, filters, _as_sets(got))


def _name_pairing(t: Trial, filters: Tensor, theirs: set[frozenset[int]]) -> None:
    one = EXERCISES["pair_filters"]
    right = _as_sets(one.right(filters))
    if theirs == right:
        return
    cosine = _cosines(filters)
    i = min(k for pair in theirs - right for k in pair)
    (j,) = next(pair for pair in theirs if i in pair) - {i}
    (partner,) = next(pair for pair in right if i in pair) - {i}
    lines = (
        t.line("your pair", i=i, j=j, cosine=float(cosine[i, j])),
        t.line("right pair", i=i, partner=partner, due=float(cosine[i, partner])),
    )
    shown: dict[str, Any] = dict(
        i=i,
        j=j,
        partner=partner,
        expected=beside([filters[i], filters[partner]]),
        yours=beside([filters[i], filters[j]]),
    )
    for mistake in one.foreseen((filters,)):
        value = mistake.computed()
        fits = isinstance(value, Tensor) and value.shape == (len(filters) // 2, 2)
        if fits and _as_sets(value) == theirs:
            raise Wrong(t.finding(mistake.keys, *lines, **shown))
    t.fail("not opposite", *lines, **shown)


@exercise("lesson5", None, PAIRS, judge=_judge_pairs)
def pair_filters(
    filters: Tensor, *, cost: Callable[[Tensor], Tensor] = _cosines, in_turn: bool = False
) -> Tensor:
    """``pair_filters(filters (n, gh, gw)) -> (n // 2, 2)``: indices of filters of opposite phase.

    The two whose cosine is lowest are a pair, then the two lowest of the rest, until every filter
    has one partner; n is even. The order of the pairs, and in a pair, is free.
    """
    costs = cost(filters)
    n, free, found = len(costs), set(range(len(costs))), []
    cells = [(float(costs[i, j]), i, j) for i in range(n) for j in range(n) if i != j]
    for _, i, j in sorted(cells, key=lambda c: (c[1], c[0]) if in_turn else (c[0], c[1])):
        if i in free and j in free:
            free -= {i, j}
            found.append([i, j])
    return torch.tensor(found)
