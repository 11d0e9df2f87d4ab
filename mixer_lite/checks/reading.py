"""Checks of lesson 5: what token mixing learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mixer_lite import filters as measures
from mixer_lite.checks.panels import (
    Drawing,
    Panel,
    diverges,
    drawings,
    figures_closed,
    in_reading_order,
    overlapping,
    panels,
    words,
)
from mixer_lite.checks.trial import Suspect, Trial, exercise, fail, shape_text

LESSON = "5 What token mixing learned"


# Folding


def _fold(
    t: Trial,
    answer: Any,
    name: str,
    pattern: str,
    mistakes: Callable[[Tensor, int, int, int], list[Suspect]],
) -> None:
    for number in range(t.rounds):
        gh, gw = t.sizes(2, 2, 5)
        # In the first round D_S = S, as in the course's small models: there a mistaken axis goes
        # unnoticed, so that it can be named. In the others no two sizes are alike.
        others = [n for n in range(3, 12) if n not in (gh, gw, gh * gw)]
        d = t.random.choice(others) if number else gh * gw
        w = t.randn(d, gh * gw) if name == "W1" else t.randn(gh * gw, d)
        want = rearrange(w, pattern, gh=gh)  # (D_S, gh, gw)
        low, high = (f(want, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
        rescaled = [
            want / want.abs().amax(dim=(1, 2), keepdim=True),
            want / want.norm(dim=(1, 2), keepdim=True),
            (want - low) / (high - low),
        ]
        t.same(
            t.call(answer, w, (gh, gw)),
            want,
            "the filters",
            "(D_S, gh, gw)",
            [
                *mistakes(w, d, gh, gw),
                Suspect(
                    "column-major folding",
                    rearrange(w, pattern.replace("gh gw)", "gw gh)"), gh=gh),
                    "You fold down the columns of the grid, (gw gh); tokens are numbered along "
                    "its rows, as one reads a page: (gh gw).",
                ),
                Suspect(
                    "maps transposed",
                    want.transpose(1, 2),
                    "Each map is folded well, but transposed: its rows are the grid's columns.",
                ),
                Suspect(
                    "sides exchanged",
                    want.reshape(d, gw, gh),
                    f"You fold to {gw} rows of {gh}; grid is (gh, gw), so {gh} rows of {gw}.",
                ),
                Suspect(
                    "not folded",
                    w,
                    "This is the matrix as it was, a unit's weights in single file. Fold each "
                    "unit's S weights to gh rows of gw.",
                ),
                Suspect(
                    "not folded",
                    want.flatten(1),
                    "Each row is a unit now, but its weights still stand in single file. Fold "
                    "them to gh rows of gw.",
                ),
                Suspect(
                    "units last",
                    rearrange(want, "u gh gw -> gh gw u"),
                    "The maps are right, but the units are the last axis: put them first.",
                ),
                Suspect(
                    "upside down",
                    want.flip(1),
                    "Your maps stand on their heads: row 0 of the grid is the top of the image.",
                ),
                Suspect("mirrored", want.flip(2), "Your maps are mirrored: column 0 is left."),
                Suspect("one unit only", want[0], f"This is unit 0 alone; fold all {d} units."),
                Suspect(
                    "signs lost",
                    want.abs(),
                    "You took absolute values: one no longer sees what a unit adds and what it "
                    "subtracts. Keep the signs.",
                ),
                Suspect(
                    "mean taken away",
                    want - want.mean(dim=(1, 2), keepdim=True),
                    "You subtracted each unit's mean: fold the weights as they are.",
                ),
                *(
                    Suspect(
                        "rescaled",
                        value,
                        "You brought each unit to a scale of its own. Fold the weights as they "
                        "are: how strong a unit is, is part of what was learned.",
                    )
                    for value in rescaled
                ),
            ],
            f"{name} {shape_text(w)}: {d} units, and a grid of {gh} rows and {gw} columns",
        )


@exercise(
    lesson=LESSON,
    takes="fold_filters(weight, grid)",
    hints=(
        "A unit of the hidden layer is one row of W1: a weight for each of the S patches. Which "
        "of the matrix's two axes has to be split, and which stays whole?",
        "Split the axis of patches as lesson 1 numbered them: along the rows of the grid, as one "
        "reads a page. Which letter counts fastest?",
        "In einops the unit's letter stands alone on the left, and a bracket of `gh` and `gw` "
        "beside it, the slower one first. Tell einops one of the two sizes.",
    ),
)
def fold_filters(t: Trial, answer: Any) -> None:
    """``fold_filters(weight (D_S, S), grid (gh, gw)) -> (D_S, gh, gw)``.

    The rows of the first token-mixing matrix W1, each laid out on the grid of patches.
    """

    def mistakes(w: Tensor, d: int, gh: int, gw: int) -> list[Suspect]:
        return [
            Suspect(
                "folds the hidden axis",
                lambda: rearrange(w, "(gh gw) s -> s gh gw", gh=gh),
                "You fold the wrong axis. W1 is (D_S, S): a row is a unit and its S entries are "
                "the patches. You laid a column, one weight of each unit, on the grid.",
            ),
            Suspect(
                "reshape for rearrange",
                w.T.reshape(d, gh, gw),
                "You transposed W1 and cut the list of its numbers anew, so that each map holds "
                "pieces of several units. The rows of W1 are the units already.",
            ),
            *(
                Suspect(
                    "reshape for rearrange",
                    value,
                    "You cut the list of numbers into gh × gw × D_S without moving any, so that "
                    "each map holds pieces of several units. Units come first.",
                )
                for value in (w.reshape(gh, gw, d), w.reshape(gh, gw, d).permute(2, 0, 1))
            ),
        ]

    _fold(t, answer, "W1", "u (gh gw) -> u gh gw", mistakes)


@exercise(
    lesson=LESSON,
    takes="fold_outputs(weight, grid)",
    hints=(
        "The second matrix turns D_S answers into S numbers: its shape is (S, D_S). What a unit "
        "writes to every patch is then a row or a column?",
        "A column: so the axis of patches is the first one. It is split, and the axis of units "
        "has to come to the front.",
        "In einops: a bracket of `gh` and `gw` stands first on the left, the unit's letter "
        "first on the right. A reshape alone cannot do it, for numbers must move.",
    ),
)
def fold_outputs(t: Trial, answer: Any) -> None:
    """``fold_outputs(weight (S, D_S), grid (gh, gw)) -> (D_S, gh, gw)``.

    The columns of the second token-mixing matrix W2, each laid out on the grid of patches.
    """

    def mistakes(w: Tensor, d: int, gh: int, gw: int) -> list[Suspect]:
        return [
            Suspect(
                "missing transpose",
                w.reshape(d, gh, gw),
                "You cut W2 along its rows, as if it were W1. W2 is (S, D_S): a row is a patch, "
                "and what a unit writes is a column. Move the units' axis to the front first.",
            ),
            Suspect(
                "missing transpose",
                lambda: rearrange(w, "s (gh gw) -> s gh gw", gh=gh),
                "You laid the rows of W2 on the grid. W2 is (S, D_S): a row is a patch with one "
                "weight of each unit; what a unit writes is a column.",
            ),
        ]

    _fold(t, answer, "W2", "(gh gw) u -> u gh gw", mistakes)


# Ordering


def _waves(t: Trial, gh: int, gw: int, count: int = 5) -> list[tuple[int, int]]:
    # Periods (down, across) of waves, slow first by every honest measure: along the straight
    # line or along the axes, in periods per patch or over the grid, by the differences of
    # neighbours. No two agree along one axis, and one axis alone puts them in another order.
    def frequency(wave: tuple[int, int]) -> tuple[float, ...]:
        fy, fx = wave[0] / gh, wave[1] / gw
        rough = 2 - math.cos(2 * math.pi * fy) - math.cos(2 * math.pi * fx)
        return math.hypot(*wave), math.hypot(fy, fx), sum(wave), fy + fx, rough

    every = [(y, x) for y in range((gh + 1) // 2) for x in range((gw + 1) // 2) if y or x]
    known = {wave: frequency(wave) for wave in every}

    def follows(wave: tuple[int, int], chain: list[tuple[int, int]]) -> bool:
        return all(wave[0] != y and wave[1] != x for y, x in chain) and all(
            b >= 1.25 * a
            for last in chain[-1:]
            for a, b in zip(known[last], known[wave], strict=True)
        )

    def grow(chain: list[tuple[int, int]]) -> list[tuple[int, int]]:
        if len(chain) == count:
            alone = [[wave[axis] for wave in chain] for axis in (0, 1)]
            return [] if any(line == sorted(line) for line in alone) else chain
        t.random.shuffle(every)
        for wave in [w for w in every if follows(w, chain)]:
            if found := grow([*chain, wave]):
                return found
        return []

    return grow([])


SPECTRAL = ("negative frequencies", "spectrum not shifted", "distance from the corner")


def _sinusoids(t: Trial) -> tuple[Tensor, list[int], list[float], list[Suspect]]:
    # Waves of known frequency in a random order, with the orders that mistakes give.
    gh, gw = t.sizes(2, 10, 14)
    slow_first = _waves(t, gh, gw)
    n = len(slow_first)
    y, x = torch.meshgrid(torch.arange(gh), torch.arange(gw), indexing="ij")
    while True:
        at = t.random.sample(range(n), n)  # the k-th slowest wave is filter at[k]
        strengths = t.random.sample([0.4 * 1.6**k for k in range(n)], n)
        made, periods = torch.zeros(n, gh, gw).to(t.randn(1)), [0.0] * n
        for (down, across), place, strength in zip(slow_first, at, strengths, strict=True):
            # Not quite whole numbers of periods, any direction and phase, a mean, a little noise.
            down_, across_ = (k + t.random.uniform(-0.08, 0.08) for k in (down, across))
            turn, phase = t.random.choice((-1, 1)), t.random.uniform(0, 2 * math.pi)
            angle = 2 * math.pi * (down_ * y / gh + turn * across_ * x / gw) + phase
            mean = t.random.choice((-1, 1)) * t.random.uniform(0.05, 0.25)
            made[place] = strength * (angle.sin() + mean + 0.03 * t.randn(gh, gw))
            periods[place] = math.hypot(down_ / gh, across_ / gw)
        suspects = _other_orders(made, at, slow_first)
        names: dict[tuple[int, ...], str] = {}
        for suspect in suspects:
            names.setdefault(tuple(suspect.value), suspect.mistake)
        plain = [s for s in suspects if s.mistake not in SPECTRAL]
        if tuple(at) not in names and all(names[tuple(s.value)] == s.mistake for s in plain):
            return made, at, periods, suspects  # no mistake is right, or looks like another


def _other_orders(
    filters: Tensor, order: list[int], slow_first: list[tuple[int, int]]
) -> list[Suspect]:
    n, gh, gw = filters.shape
    power = torch.fft.fft2(filters.double()).abs().square()  # (n, gh, gw)

    def sort(values: Sequence[float]) -> list[int]:
        return sorted(range(n), key=lambda k: values[k])

    def peaks(spectrum: Tensor, y0: float = 0, x0: float = 0) -> list[float]:
        return [
            math.hypot(int(k) // gw - y0, int(k) % gw - x0) for k in spectrum.flatten(1).argmax(1)
        ]

    alone = [sort([slow_first[order.index(k)][axis] for k in range(n)]) for axis in (0, 1)]
    strength, mean = sort(filters.norm(dim=(1, 2)).tolist()), filters.mean(dim=(1, 2))
    shifted = torch.fft.fftshift(power, dim=(1, 2))
    return [
        Suspect(
            "high first",
            order[::-1],
            "Your order is the right one backwards: high frequencies first. Did you sort "
            "downwards? Or take the middle of fft2 for frequency 0? It is in the corner, until "
            "fftshift.",
        ),
        Suspect(
            "ranks for order",
            sort(order),
            "You give the place of each filter; wanted is the filter at each place, so that "
            "filters[order] is sorted: argsort once, not twice.",
        ),
        Suspect(
            "not sorted",
            list(range(n)),
            "Your order is 0, 1, 2, ...: nothing was sorted. Or all filters had the same value, as "
            "when each spectrum has its peak at frequency 0, the mean (absolute values do that).",
        ),
        *(
            Suspect(
                "by strength",
                value,
                "You sorted by how strong the filters are (norm, variance, largest weight). Weak "
                "or strong says nothing of slow or fast: look at where the spectrum is high, not "
                "at how high it is.",
            )
            for value in (strength, strength[::-1])
        ),
        *(
            Suspect(
                "by one axis only",
                value,
                f"You sorted by the frequency {along} alone. A filter can vary in both "
                f"directions: the distance from frequency 0 counts both.",
            )
            for value, along in zip(alone, ("down the grid", "across the grid"), strict=True)
        ),
        *(
            Suspect(
                "by mean",
                sort(values),
                "You sorted by the filters' means, which is how much of frequency 0 is in them, "
                "not which frequency is strong.",
            )
            for values in (mean.tolist(), (-mean).tolist(), mean.abs().tolist())
        ),
        Suspect(
            "negative frequencies",
            sort(peaks(power)),
            "You took the index in the FFT for the frequency. Its upper half holds the negative "
            f"frequencies: of {gh} rows the last is -1 period, not {gh - 1}. fftfreq knows.",
        ),
        Suspect(
            "spectrum not shifted",
            sort(peaks(power, gh // 2, gw // 2)),
            "You measure distances from the middle, but frequency 0 of fft2 is in the corner: "
            "fftshift moves it to the middle.",
        ),
        Suspect(
            "distance from the corner",
            sort(peaks(shifted)),
            "After fftshift frequency 0 is in the middle, and you measure from the corner.",
        ),
    ]


def _whole_numbers(t: Trial, got: Any, what: str) -> Tensor:
    # Indices: lists and arrays of whole numbers serve as well as tensors.
    if isinstance(got, (list, tuple, np.ndarray)):
        try:
            got = torch.as_tensor(np.asarray(got))
        except (TypeError, ValueError, RuntimeError):
            pass  # what it is, is said below
    return t.tensor(got, what, whole=True)


def _each_once(got: Tensor, n: int, what: str) -> None:
    numbers = got.flatten().tolist()
    outside = [k for k in numbers if not 0 <= k < n]
    if outside:
        fail("no such unit", f"There is no unit {outside[0]}: they are 0 to {n - 1}.")
    twice = [k for k in range(n) if numbers.count(k) > 1]
    missing = [k for k in range(n) if k not in numbers]
    if twice or missing:
        fail(
            "units repeated" if twice else "units missing",
            f"{what} should hold each unit once; yours "
            + " and ".join(
                [f"repeats unit {twice[0]}"] * bool(twice)
                + [f"leaves out unit {missing[0]}"] * bool(missing)
            )
            + ".",
            f"yours: {got.tolist()}",
        )


def _beside(maps: Sequence[Tensor]) -> np.ndarray:
    # Maps side by side, each on its own scale, a white column between.
    gap = torch.zeros(maps[0].shape[0], 1, dtype=torch.float64)
    shown = [m.double() / m.abs().max().clamp_min(1e-300) for m in maps]
    return torch.cat([part for m in shown for part in (gap, m)][1:], dim=1).numpy()


@exercise(
    lesson=LESSON,
    takes="order_filters(filters)",
    hints=(
        "A slow wave changes little from one patch to the next, a fast one much. What number "
        "says so, whatever the filter's strength, direction and mean?",
        "One way: the squared magnitude of `torch.fft.fft2` says how much of each frequency is in "
        "a filter. Where is its highest point, and how far is that from frequency 0?",
        "`torch.fft.fftfreq(gh)` and `fftfreq(gw)` are the frequencies of its rows and columns; "
        "both count. One number for each filter, and `argsort` makes the order of them.",
    ),
)
def order_filters(t: Trial, answer: Any) -> None:
    """``order_filters(filters (n, gh, gw)) -> (n,)``: indices, low frequency first.

    The filters are waves of well separated frequencies, in all directions, phases and strengths,
    with small means and a little noise.
    """
    t.rounds = 2  # five waves have 120 orders
    for _ in range(t.rounds):
        filters, want, periods, suspects = _sinusoids(t)
        n = len(filters)
        got = t.call(answer, filters)
        if isinstance(got, Tensor) and got.shape == filters.shape:
            fail(
                "filters, not indices",
                "You return the filters themselves; return their numbers in order, (n,), so that "
                "filters[order] is sorted.",
            )
        if isinstance(got, Tensor) and got.is_floating_point() and got.shape == (n,):
            fail(
                "values, not indices",
                "You return a number of each filter; return the filters' indices in the order of "
                "these numbers: argsort, not sort.",
                f"yours: {[round(v, 3) for v in got.tolist()]}",
            )
        got = _whole_numbers(t, got, "the order")
        if got.shape != (n,):
            fail("wrong shape", f"The order should be (n,), here ({n},), not {shape_text(got)}.")
        _each_once(got, n, "The order")
        order = got.tolist()
        if order == want:
            continue
        shown: dict[str, Any] = dict(
            expected=_beside([filters[k] for k in want]),
            yours=_beside([filters[k] for k in order]),
        )
        evidence = (
            f"yours {order}, with frequencies {[round(periods[k], 2) for k in order]}",
            f"expected {want}, with frequencies {[round(periods[k], 2) for k in want]} "
            f"(periods per patch)",
        )
        for suspect in suspects:
            if order == suspect.value:
                fail(suspect.mistake, suspect.says, *evidence, **shown)
        k = next(k for k in range(n - 1) if periods[order[k]] > periods[order[k + 1]])
        fail(
            "not by frequency",
            f"Filter {order[k]} stands before filter {order[k + 1]}, and is the faster wave.",
            *evidence,
            **shown,
        )


# Pairing


def _opposites(t: Trial) -> tuple[Tensor, list[int], list[tuple[int, int]]]:
    # Filters and their partners: (n, gh, gw), names by role, true pairs. Roles 0 to 3 are
    # a, a', b, b': near-copies a, a' and b, b' more alike than opposites a, b and a', b' are
    # opposite, and a, b' strong where a', b are weak. The others are plain opposites.
    gh, gw = t.sizes(2, 5, 8)
    n = 4 + 2 * t.random.randint(2, 3)
    dice = torch.cat([torch.ones(gh * gw, 1), t.randn(gh * gw, n).double()], dim=1)
    axes = torch.linalg.qr(dice).Q.T[1:]  # (n, S): orthonormal, all of mean 0
    copy, opposite, cross = 0.8, 0.7, 0.52  # cosines of (a, a'), -(a, b), -(a, b')
    cosines = torch.tensor(
        [
            [1, copy, -opposite, -cross],
            [copy, 1, -cross, -opposite],
            [-opposite, -cross, 1, copy],
            [-cross, -opposite, copy, 1],
        ],
        dtype=torch.float64,
    )
    rows = [torch.linalg.cholesky(cosines) @ axes[:4]]
    for first, second in axes[4:].split(2):
        rows.append(torch.stack([first, -0.95 * first + 0.31 * second]))
    filters = torch.cat(rows)  # (n, S)
    filters = filters + 0.01 * t.randn(*filters.shape) / math.sqrt(gh * gw) * 3
    strengths = [2.5, 0.4, 0.4, 2.5] + [1.0, 0.6] * (n // 2 - 2)
    strength = torch.tensor([s * t.random.uniform(0.95, 1.05) for s in strengths])
    place = t.random.sample(range(n), n)  # role r is filter place[r]
    if min(place[:4]) in (place[1], place[2]):  # a strong one of the four comes first
        place[0], place[1], place[2], place[3] = place[1], place[0], place[3], place[2]
    made = torch.empty_like(filters)
    made[place] = filters * strength[:, None].double()
    roles = [(0, 2), (1, 3), *((r, r + 1) for r in range(4, n, 2))]
    pairs = [(place[r], place[s]) for r, s in roles]
    return made.to(t.randn(1)).reshape(n, gh, gw), place, pairs


def _pair_up(cost: Tensor, in_turn: bool) -> set[frozenset[int]]:
    # Pairs of lowest cost, the lowest of all first or each unit in its turn.
    n = len(cost)
    free, found = set(range(n)), set()
    lines = range(n) if in_turn else [None]
    cells = [
        (i, j)
        for line in lines
        for _, i, j in sorted(
            (float(cost[i, j]), i, j)
            for i in (range(n) if line is None else [line])
            for j in range(n)
            if i != j
        )
    ]
    for i, j in cells:
        if i in free and j in free:
            free -= {i, j}
            found.add(frozenset((i, j)))
    return found


@exercise(
    lesson=LESSON,
    takes="pair_filters(filters)",
    hints=(
        "Opposite phase: the same pattern with its sign turned. Which number says how opposite "
        "two filters are, whatever their strengths?",
        "The cosine: the sum of products over both lengths. -1 for exact inverses. All of them at "
        "once are one matrix product of the flattened, normalised filters.",
        "Take the two whose cosine is lowest, set them aside, take the lowest of the rest, until "
        "none is left. A filter must not meet itself, and none may be used twice.",
    ),
)
def pair_filters(t: Trial, answer: Any) -> None:
    """``pair_filters(filters (n, gh, gw)) -> (n // 2, 2)``: indices of filters of opposite phase.

    n is even and every filter has one partner. The order of the pairs, and in a pair, is free.
    """
    for _ in range(t.rounds):
        filters, place, pairs = _opposites(t)
        n = len(filters)
        got = _whole_numbers(t, t.call(answer, filters), "the pairs")
        form = f"(n // 2, 2), here ({n // 2}, 2)"
        if got.shape == (n,):
            fail(
                "each unit's inverse",
                f"You give the closest inverse of each unit, ({n},). Make pairs of them, {form}, "
                f"each unit in one pair.",
            )
        if got.shape == (2, n // 2):
            fail("axes swapped", f"The pairs stand in columns; a row should be a pair: {form}.")
        if got.shape == (n, 2):
            fail(
                "every pair twice",
                f"You give {n} pairs for {n} units, so that units are used more than once. Each "
                f"unit belongs to one pair: {form}.",
            )
        if got.shape != (n // 2, 2):
            fail("wrong shape", f"The pairs should be {form}, not {shape_text(got)}.")
        selves = [i for i, j in got.tolist() if i == j]
        if selves:
            fail(
                "paired with itself",
                f"Your pair {[selves[0]] * 2} is one unit twice. A unit is its own copy, the very "
                f"contrary of an inverse: leave the diagonal out.",
            )
        _each_once(got, n, "The pairs")
        right, theirs = ({frozenset(p) for p in ps} for ps in (pairs, got.tolist()))
        if theirs != right:
            _name_pairing(filters, place, right, theirs)


def _name_pairing(
    filters: Tensor,
    place: list[int],
    right: set[frozenset[int]],
    theirs: set[frozenset[int]],
) -> None:
    n = len(filters)
    flat = filters.double().flatten(1)  # (n, S)
    length = flat.norm(dim=1)
    cosine = flat @ flat.T / (length[:, None] * length)  # (n, n)
    i = min(k for pair in theirs - right for k in pair)
    (j,) = next(pair for pair in theirs if i in pair) - {i}
    (partner,) = next(pair for pair in right if i in pair) - {i}
    evidence = (
        f"your pair ({i}, {j}): cosine {cosine[i, j]:.2f}",
        f"unit {i} and unit {partner}: cosine {cosine[i, partner]:.2f}",
    )
    shown: dict[str, Any] = dict(
        expected=_beside([filters[i], filters[partner]]),
        yours=_beside([filters[i], filters[j]]),
    )

    def is_(*costs: Tensor) -> bool:
        return any(theirs == _pair_up(cost, in_turn) for cost in costs for in_turn in (False, True))

    def couples(*roles: tuple[int, int]) -> set[frozenset[int]]:
        return {frozenset((place[r], place[s])) for r, s in roles}

    a, a2, b, b2 = range(4)
    plain = {pair for pair in right if not pair & set(place[:4])}
    halves = {frozenset((k, k + n // 2)) for k in range(n // 2)}
    ends = {frozenset((k, n - 1 - k)) for k in range(n // 2)}
    if theirs in ({frozenset((k, k + 1)) for k in range(0, n, 2)}, halves, ends):
        fail("by number", "Your pairs follow the units' numbers, not what they hold.", *evidence)
    sorted_ = length.argsort().tolist()
    if theirs == {frozenset(sorted_[k : k + 2]) for k in range(0, n, 2)} or is_(
        (length[:, None] - length).abs()
    ):
        fail(
            "by strength",
            "You pair units of like strength. What counts is the pattern: compare the filters "
            "weight by weight.",
            *evidence,
            **shown,
        )
    if couples((a, a2), (b, b2)) <= theirs:
        if plain <= theirs:
            fail(
                "sign ignored",
                f"Units {i} and {j} are near-copies, and you took them for opposites: it is the "
                f"lowest cosine that counts, not the largest magnitude (or square) of it.",
                *evidence,
                **shown,
            )
        fail(
            "most similar",
            f"Units {i} and {j} look alike: you pair the most similar filters. Opposite phase is "
            f"the lowest cosine, not the highest.",
            *evidence,
            **shown,
        )
    squares = length.square()[:, None] + length.square()
    dot = flat @ flat.T
    if (
        is_(dot, -(squares - 2 * dot), squares + 2 * dot)
        or plain | couples((a, b2), (a2, b)) == theirs
    ):
        fail(
            "strength counted",
            "Strong filters look more opposite than weak ones to your measure. Divide each filter "
            "by its length first: the cosine, not the plain sum of products or a distance.",
            *evidence,
            **shown,
        )
    fail(
        "not opposite",
        f"Units {i} and {j} are not each other's closest inverse; unit {i}'s is {partner}.",
        *evidence,
        **shown,
    )


# Measuring


@exercise(
    lesson=LESSON,
    takes="smoothness(filters)",
    hints=(
        "Are neighbours alike? Multiply each weight with the one below it, and average over all "
        "such pairs; the same with the one to its right. What must be taken away first?",
        "First subtract each filter's own mean. Slices give all neighbours at once: all rows but "
        "the first, times all rows but the last.",
        "Average the two directions' averages, and divide by the mean of the squares (after the "
        "mean is removed), so that strength does not count.",
    ),
)
def smoothness(t: Trial, answer: Any) -> None:
    """``smoothness(filters (n, gh, gw)) -> (n,)``: the autocorrelation of neighbours.

    After removing the filter's mean: the mean product of vertical neighbours and the mean product
    of horizontal neighbours, averaged, over the filter's variance.
    """
    for _ in range(t.rounds):
        n, gh, gw = t.sizes(3, 3, 8)
        rough = t.randn(n, gh + 1, gw + 1)
        strength = t.randn(n, 1, 1).abs() + 0.5
        x = strength * (rough[:, 1:, 1:] + rough[:, :-1, 1:] + rough[:, 1:, :-1] + t.randn(n, 1, 1))
        t.same(
            t.call(answer, x),
            measures.smoothness(x),
            "the smoothness",
            "(n,), one number for each filter",
            _other_smoothness(x.double()),
            f"filters {shape_text(x)}: {n} filters on a grid of {gh} rows and {gw} columns",
        )


def _other_smoothness(x: Tensor) -> list[Suspect]:
    n, gh, gw = x.shape
    f = x - x.mean(dim=(1, 2), keepdim=True)

    def mean(v: Tensor) -> Tensor:
        return v.mean(dim=(1, 2))

    def products(f: Tensor) -> tuple[Tensor, Tensor]:
        return f[:, 1:] * f[:, :-1], f[:, :, 1:] * f[:, :, :-1]

    down, across = products(f)
    variance = mean(f.square())
    both = (mean(down) + mean(across)) / 2
    right = both / variance
    raw = sum(mean(p) for p in products(x)) / 2
    whole = x - x.mean()
    shared = sum(mean(p) for p in products(whole)) / 2
    turned = mean(f * f.roll(1, 1)) / 2 + mean(f * f.roll(1, 2)) / 2
    pooled = (down.sum(dim=(1, 2)) + across.sum(dim=(1, 2))) / (down[0].numel() + across[0].numel())
    diagonal = mean(f[:, 1:, 1:] * f[:, :-1, :-1])
    steps = [mean(p.abs()) for p in (f[:, 1:] - f[:, :-1], f[:, :, 1:] - f[:, :, :-1])]
    rows = [
        (
            "mean not removed",
            (raw / mean(x.square()), raw / variance),
            "You did not subtract each filter's mean before multiplying: a filter that is positive "
            "everywhere then looks smooth, whatever its pattern.",
        ),
        (
            "one mean for all",
            (shared / mean(whole.square()), shared / variance),
            "You subtracted the mean of all filters together; each filter has a mean of its own: "
            "mean over the last two axes, keepdim=True.",
        ),
        (
            "horizontal neighbours only",
            (mean(across) / variance,),
            "You compare each weight with the one to its right only. The one below counts as much.",
        ),
        (
            "vertical neighbours only",
            (mean(down) / variance,),
            "You compare each weight with the one below only. The one to its right counts as much.",
        ),
        (
            "wraps around",
            (turned / variance,),
            "You take the last column for a neighbour of the first, and the last row for one of "
            "the first: `roll` wraps around, the image does not. Slice in its place.",
        ),
        (
            "not divided by the variance",
            (both, raw),
            "You did not divide by the filter's variance, so that strong filters look smoother.",
        ),
        (
            "divided by the standard deviation",
            (both / variance.sqrt(),),
            "You divide by the standard deviation; products of two weights call for its square, "
            "the variance.",
        ),
        (
            "sample variance",
            (both / f.flatten(1).var(dim=1),),
            f"You divide by the sample variance, which divides by S - 1; the products are means "
            f"over all pairs, so divide by S: var(correction=0). Yours is {gh * gw - 1} / "
            f"{gh * gw} of it.",
        ),
        (
            "two directions summed",
            (2 * right,),
            "You add the two directions' averages; take their mean, so that 1 means all alike.",
        ),
        (
            "all pairs in one mean",
            (pooled / variance,),
            "You average over all pairs at once. On a grid that is not square one direction has "
            "more pairs: average each direction, then take the mean of the two.",
        ),
        (
            "sums, not means",
            ((down.sum(dim=(1, 2)) + across.sum(dim=(1, 2))) / 2 / f.square().sum(dim=(1, 2)),),
            "You divide the sum of products by the sum of squares. There are fewer pairs than "
            "weights: take means of both.",
        ),
        (
            "diagonal neighbours",
            (diagonal / variance,),
            "You compare each weight with the one below and to its right, in one step. Neighbours "
            "are those that share an edge.",
        ),
        (
            "differences, not products",
            ((steps[0] + steps[1]) / 2, (steps[0] + steps[1]) / 2 / variance.sqrt()),
            "You measure how much neighbours differ: that is small for smooth filters. Smoothness "
            "is the mean product of neighbours, and large for them.",
        ),
        (
            "one number for all",
            (right.mean(), right.mean()[None]),
            f"You averaged over the filters too: give {n} numbers, one for each.",
        ),
    ]
    return [Suspect(name, value, says) for name, values, says in rows for value in values]


# Drawing


@exercise(
    lesson=LESSON,
    takes="draw(filters)",
    hints=(
        "One small map for each unit, in rows, in the order given: "
        "`figure, axes = plt.subplots(rows, columns)`, and `imshow` of one unit in each.",
        "Weights have signs. Choose a map of colours with two ends and a pale middle, and see "
        "to it that the middle stands for zero: which `vmin` and `vmax` do that?",
        "The same limits for all maps, from minus the largest magnitude of all units to plus "
        "that, or strengths cannot be compared.",
        "A title or labels say what one sees. End with `return figure`.",
    ),
)
def filter_figure(t: Trial, answer: Any) -> None:
    """``draw(filters (n, gh, gw)) -> a matplotlib Figure``: every unit as a map, in order.

    All maps on one scale that is symmetric about zero, in a diverging map of colours, cells square
    and sharp, row 0 on top, and a few words. Each map may have axes of its own, or all lie in one
    large image.
    """
    t.rounds = 2
    for _ in range(t.rounds):
        gh, gw = t.random.choice([(3, 4), (4, 3), (3, 5), (5, 3), (4, 5), (5, 4)])
        n = t.random.choice([n for n in range(5, 9) if n not in (gh, gw) and n % gh])
        strength = torch.tensor([t.random.uniform(0.5, 2) for _ in range(n)]).to(t.randn(1))
        filters = (t.randn(n, gh, gw) + 0.3) * strength[:, None, None]
        filters[:, 0, 0], filters[:, -1, -1] = -0.7 * strength, 1.1 * strength  # both signs
        with figures_closed() as opened:
            figure, blame = _figure_in(t.call(answer, filters), opened())
            _judge_figure(figure, filters.double().numpy())
        if blame:
            fail(*blame)


def _figure_in(got: Any, opened: list[Any]) -> tuple[Any, tuple[str, str] | None]:
    # The figure to look at, and what is to be said if it turns out to be right.
    from matplotlib.figure import FigureBase

    right = "The picture itself is right, but"
    if isinstance(got, FigureBase):
        return got.figure, None
    if got is None:
        says = "your function returns None: end it with `return figure`"
        if not opened:
            fail("returns nothing", f"{_first(says)}, the matplotlib figure.")
        return opened[-1], ("returns nothing", f"{right} {says} (plt.gcf() is the current one).")
    several = isinstance(got, (list, tuple, np.ndarray))
    for part in np.ravel(np.asarray(got, dtype=object)) if several else [got]:
        figure = getattr(part, "figure", None)
        if isinstance(figure, FigureBase):
            kind = type(got).__name__
            says = f"{right} your function returns {kind}: return the figure alone."
            return figure.figure, ("not a figure", says)
    fail("not a figure", f"draw should return a matplotlib Figure, not a {type(got).__name__}.")


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _judge_figure(figure: Any, filters: np.ndarray) -> None:
    n, gh, gw = filters.shape
    seen = drawings(figure)
    if not seen:
        fail(
            "nothing drawn",
            "There are no maps in your figure: draw each unit with imshow (or pcolormesh).",
            f"axes in the figure: {len(figure.axes)}",
        )
    if any(d.values is None for d in seen):
        fail(
            "colours, not numbers",
            "You give matplotlib ready-made colours, so that no one can read the weights off. Give "
            "imshow the weights themselves, with cmap, vmin and vmax.",
        )
    each = [panels(d, filters) for d in seen]
    found = in_reading_order([p for ps in each for p in ps])
    units = [p.unit for p in found]
    shapes = ", ".join(sorted({str(d.values.shape) for d in seen if d.values is not None}))
    evidence = [f"{n} units of {gh} × {gw}; arrays in the figure: {len(seen)}, of shape {shapes}"]
    missing = [u for u in range(n) if u not in units]
    if missing:
        _name_missing(seen, [d for d, ps in zip(seen, each, strict=True) if not ps], filters)
        fail(
            "units missing",
            f"{len(missing)} of {n} units are not in your figure; the first is unit {missing[0]}.",
            *evidence,
        )
    if overlapping(found):
        fail(
            "on top of each other",
            "Several units lie in the same place, and only the last one is seen: give each its own "
            "axes (plt.subplots), or a place of its own in one large array.",
            *evidence,
        )
    twice = [u for u in range(n) if units.count(u) > 1]
    if twice:
        fail("units repeated", f"Unit {twice[0]} is there more than once.", *evidence)
    hidden = sum(d.hidden for d in seen)
    if hidden:
        fail(
            "cut off",
            f"{hidden} cells lie outside their axes and are not seen: look at xlim and ylim.",
            *evidence,
        )
    _judge_look(found, filters, evidence)
    _judge_colours(found, filters)
    if not words(figure):
        fail(
            "no words",
            "Nothing in the figure says what it shows: give it a title, or each unit a label.",
        )


def _name_missing(seen: list[Drawing], unknown: list[Drawing], filters: np.ndarray) -> None:
    flat = filters.reshape(len(filters), -1)  # (n, S)
    shape = f"{filters.shape[1]} × {filters.shape[2]}"
    for drawing in unknown:
        values = drawing.values
        if any(_alike(values, m) for m in (flat, flat.T, abs(flat), abs(flat).T)):
            fail(
                "raw matrix",
                f"You drew the whole matrix {flat.shape}, a unit a line: patches that lie one "
                f"above the other in the image stand far apart. Draw each unit as its own map of "
                f"{shape}.",
            )
        if any(_alike(values, line) for row in flat for line in (row[None], row[:, None])):
            fail(
                "not folded",
                f"Each unit is drawn as a line of {flat.shape[1]} cells: draw it as a map of "
                f"{shape}.",
            )
        if any(_alike(values, m.mean(axis=0)) for m in (filters, abs(filters))):
            fail("mean of all units", "You drew the mean of all units: draw each one.")
        for power in (np.square(filters), np.sign(filters)):
            if any(_alike(values, m) for m in power):
                fail(
                    "not the weights",
                    "You drew squares or signs in place of the weights: draw them as they are.",
                )
        if _alike(values, flat @ flat.T) or _alike(values, np.corrcoef(flat)):
            fail("likeness of units", "You drew how alike the units are: draw the units.")
    if unknown:
        values = unknown[0].values
        kind = "" if values is None else f" (an array of shape {values.shape})"
        fail(
            "not the weights",
            f"There is something in your figure{kind} in which no unit can be found again: draw "
            f"the weights as they are, each unit as a map of {shape}.",
        )


def _alike(values: np.ndarray | None, other: np.ndarray) -> bool:
    # Equal up to a factor and a shift.
    if values is None or values.shape != other.shape or not np.isfinite(values).all():
        return False
    a, b = values - values.mean(), other - other.mean()
    return abs((a * b).sum()) > (1 - 1e-5) * np.linalg.norm(a) * np.linalg.norm(b) > 0


LOOKS = {
    "upside down": "The maps stand on their heads: row 0 of the grid is the top of the image, but "
    "origin='lower', pcolormesh and such put it at the bottom (ax.invert_yaxis() turns it).",
    "mirrored": "The maps are mirrored: column 0 of the grid is on the left.",
    "transposed": "The maps are transposed: their rows run where columns should.",
    "cut anew": "The maps have rows and columns exchanged, and were cut anew by reshape: each unit "
    "is gh rows of gw already.",
}


def _judge_look(found: list[Panel], filters: np.ndarray, evidence: list[str]) -> None:
    n = len(filters)
    for panel in found:
        if panel.turn:
            says = LOOKS.get(panel.turn, f"The maps are {panel.turn}.")
            fail(panel.turn, says, *evidence)
        if not panel.signs:
            fail(
                "signs lost",
                "You drew absolute values: what a unit adds and what it subtracts look the same.",
            )
    for panel in found:
        if panel.drawing.smooth:
            fail(
                "smoothed",
                "You let neighbouring cells flow into one another, which shows patterns that are "
                "not in the weights: interpolation='nearest' shows each patch as one cell.",
            )
        wide, high = panel.drawing.cell
        if not 0.75 < wide / high < 1.33:
            fail(
                "stretched",
                "The cells are not square, so that the maps have another shape than the image: "
                "aspect='equal' (imshow's default) keeps them square.",
                f"a cell is {wide:.0f} × {high:.0f} pixels",
            )
    units = [p.unit for p in found]
    if units == list(range(n)):
        return
    down = [p.unit for p in sorted(found, key=lambda p: (round(p.box[0]), -p.box[1]))]
    line = f"in reading order: {units}"
    if down == list(range(n)):
        fail(
            "down the columns",
            "Your units run down the columns of the sheet; they should run along its rows, as one "
            "reads a page: axes.flat does.",
            line,
        )
    if units == list(range(n))[::-1]:
        fail("backwards", "The last unit comes first: keep the order given.", line)
    fail("wrong order", "The units stand in another order than given.", line)


def _judge_colours(found: list[Panel], filters: np.ndarray) -> None:
    top = float(abs(filters).max())
    weights = np.linspace(-top, top, 41)
    curves = np.stack([p.colour(weights) for p in found])  # (n, 41), 0 to 1 on the map
    zero = curves[:, 20]
    ends = np.array(
        [p.colour(np.array([f(filters[p.unit]) for f in (np.min, np.max)])) for p in found]
    )
    evidence = (
        "zero is drawn at "
        + ", ".join(f"{z:.2f}" for z in zero)
        + " of the map (0.5 is its middle), unit by unit",
    )
    if all(p.factor < 0 for p in found):
        fail("sign turned", "You drew the weights with the opposite sign.")
    if np.abs(ends - [0, 1]).max() < 0.01:
        fail(
            "min-max scaling",
            "Each map stretches from its own smallest to its own largest weight: the same colour "
            "means something else in every map, and the middle is not zero. Give all of them "
            "vmin=-limit, vmax=limit.",
            *evidence,
        )
    if not np.isfinite(curves).all():
        fail(
            "weights without colour",
            "Some weights have no colour on your scale (a logarithm knows no negative numbers).",
        )
    if np.ptp(curves, axis=0).max() > 0.01:
        if np.abs(zero - 0.5).max() < 0.01:
            fail(
                "each on its own scale",
                "Zero is in the middle, but each map has a scale of its own, so that a weak unit "
                "looks as strong as a strong one. Use one limit for all.",
                "full colour is reached at "
                + ", ".join(f"{_full(p):.2f}" for p in found)
                + ", unit by unit",
            )
        fail(
            "scales differ",
            "The same weight has different colours in different maps: give all maps the weights "
            "as they are, and the same vmin and vmax.",
            *evidence,
        )
    if np.abs(zero - 0.5).max() > 0.01 or np.abs(curves + curves[:, ::-1] - 1).max() > 0.02:
        fail(
            "limits not symmetric",
            "The limits are not symmetric about zero, so that one sign looks stronger than the "
            "other, or zero is not in the middle of the map: vmin=-limit, vmax=limit.",
            *evidence[: int(np.abs(zero - 0.5).max() > 0.01)],
        )
    if curves[0, -1] < 0.6:
        fail(
            "washed out",
            "The limits are so wide that all weights are nearly white.",
            f"the largest weight is drawn at {curves[0, -1]:.2f} of the map, its end is 1",
        )
    if curves[0, 22] > 0.99:
        fail("saturated", "The limits are so narrow that nearly all weights have full colour.")
    maps = {p.drawing.artist.get_cmap().name: p.drawing.artist.get_cmap() for p in found}
    poor = [name for name, colours in maps.items() if not diverges(colours)]
    if poor:
        fail(
            "map not diverging",
            f"The map {poor[0]!r} has no pale middle between two colours, so that one cannot see "
            f"where zero is. Signed weights need a diverging one: RdBu_r, coolwarm, PuOr.",
        )
    if len(maps) > 1:
        fail("maps differ", f"One map of colours for all units, not {', '.join(maps)}.")


def _full(panel: Panel) -> float:
    return float((panel.drawing.artist.norm.vmax - panel.shift) / panel.factor)
