"""Filters whose order and partners are known, because they were made so."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixer_lite.check.engine.trial import Trial


def wave_numbers(t: Trial, gh: int, gw: int, count: int = 5) -> list[tuple[int, int]]:
    """Periods (down, across) of waves, slow first by every honest measure.

    Along the straight line or along the axes, in periods per patch or over the grid, by the
    differences of neighbours. No two agree along one axis, and one axis alone puts them in another
    order.
    """

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


def waves(
    t: Trial, slow_first: list[tuple[int, int]], gh: int, gw: int
) -> tuple[Tensor, list[int], list[float]]:
    """Filters that are these waves ``(n, gh, gw)`` in random order, the order, their frequencies.

    Not quite whole numbers of periods, any direction and phase, a mean, a little noise. The k-th
    slowest wave is filter ``order[k]``.
    """
    n = len(slow_first)
    y, x = torch.meshgrid(torch.arange(gh), torch.arange(gw), indexing="ij")
    at = t.random.sample(range(n), n)
    strengths = t.random.sample([0.4 * 1.6**k for k in range(n)], n)
    made, periods = torch.zeros(n, gh, gw).to(t.randn(1)), [0.0] * n
    for (down, across), place, strength in zip(slow_first, at, strengths, strict=True):
        down_, across_ = (k + t.random.uniform(-0.08, 0.08) for k in (down, across))
        turn, phase = t.random.choice((-1, 1)), t.random.uniform(0, 2 * math.pi)
        angle = 2 * math.pi * (down_ * y / gh + turn * across_ * x / gw) + phase
        mean = t.random.choice((-1, 1)) * t.random.uniform(0.05, 0.25)
        made[place] = strength * (angle.sin() + mean + 0.03 * t.randn(gh, gw))
        periods[place] = math.hypot(down_ / gh, across_ / gw)
    return made, at, periods


def opposites(t: Trial) -> Tensor:
    """Filters ``(n, gh, gw)`` of which each has one partner, in random order.

    Four are a, a', b, b': near-copies a, a' and b, b' more alike than opposites a, b and a', b'
    are opposite, and a, b' strong where a', b are weak. The others are plain opposites.
    """
    gh, gw = t.choose(2, 5, 8)
    n = 4 + 2 * t.random.randint(2, 3)
    noise = torch.cat([torch.ones(gh * gw, 1), t.randn(gh * gw, n).double()], dim=1)
    axes = torch.linalg.qr(noise).Q.T[1:]  # (n, S): orthonormal, all of mean 0
    copy, opposite, cross = 0.8, 0.7, 0.52  # cosines of (a, a'), -(a, b), -(a, b')
    first, second = [1, copy, -opposite, -cross], [copy, 1, -cross, -opposite]
    cosines = torch.tensor([first, second, first[2:] + first[:2], second[2:] + second[:2]])
    rows = [torch.linalg.cholesky(cosines.double()) @ axes[:4]]
    for one, other in axes[4:].split(2):
        rows.append(torch.stack([one, -0.95 * one + 0.31 * other]))
    filters = torch.cat(rows)  # (n, S)
    filters = filters + 0.01 * t.randn(*filters.shape) / math.sqrt(gh * gw) * 3
    strengths = [2.5, 0.4, 0.4, 2.5] + [1.0, 0.6] * (n // 2 - 2)
    strength = torch.tensor([s * t.random.uniform(0.95, 1.05) for s in strengths])
    place = t.random.sample(range(n), n)  # role r is filter place[r]
    if min(place[:4]) in (place[1], place[2]):  # a strong one of the four comes first
        place[0], place[1], place[2], place[3] = place[1], place[0], place[3], place[2]
    made = torch.empty_like(filters)
    made[place] = filters * strength[:, None].double()
    return made.to(t.randn(1)).reshape(n, gh, gw)
