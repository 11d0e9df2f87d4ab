"""Weights as data for pictures: fold units to the patch grid, order, pair and measure them.

Pure functions of tensors. Section 3.5, appendix D and Figures 5 to 7 of the paper show such
filters. How the paper ordered and paired them is described there, not published: the order and
the pairs here follow the description.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from mixer_lite.model import MixerBlock, MlpMixer, mixer_blocks


def block_at(model: MlpMixer, block: int) -> MixerBlock:
    """The model's block of this number, from 0; negative numbers count from the end.

    Raises:
        ValueError: there is no such block.
    """
    if not -model.num_blocks <= block < model.num_blocks:
        raise ValueError(f"block must be from 0 to {model.num_blocks - 1}, not {block}.")
    return mixer_blocks(model)[block]


def token_filters(model: MlpMixer, block: int, layer: Literal["fc1", "fc2"] = "fc1") -> Tensor:
    """What the hidden units of a token-mixing MLP read or write: ``(D_S, gh, gw)``.

    ``"fc1"``: row u of W1 folded to the patch grid, the weights with which unit u reads every
    patch (the paper's Figure 5). ``"fc2"``: column u of W2, what unit u adds to every patch.

    Raises:
        ValueError: there is no such block or layer.
    """
    mlp = block_at(model, block).mlp_tokens
    if layer not in ("fc1", "fc2"):
        raise ValueError(f'layer must be "fc1" or "fc2", not {layer!r}.')
    if (
        mlp.fc2 is None and layer == "fc2"
    ):  # a relative of the Mixer: see mixer_lite.weights.relatives
        raise ValueError('This model mixes tokens with one matrix a block: it has "fc1" alone.')
    gh, gw = model.grid_size
    if layer == "fc1":
        return rearrange(mlp.fc1.weight.detach(), "u (gh gw) -> u gh gw", gh=gh, gw=gw)
    return rearrange(mlp.fc2.weight.detach(), "(gh gw) u -> u gh gw", gh=gh, gw=gw)


def embedding_filters(model: MlpMixer) -> Tensor:
    """What each channel of the stem looks for in a patch: ``(C, in_channels, P, P)``.

    Row c of the patch embedding, folded to the patch (the paper's Figure 7).
    """
    p = model.patch_size
    weight = model.stem.weight.detach()
    return rearrange(weight, "c (rgb p1 p2) -> c rgb p1 p2", p1=p, p2=p)


def principal_components(filters: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """The patterns of which filters (of any shape) are mixtures, strongest first.

    Principal components of the n filters around their mean: ``(n, ...) -> (k, ...), (k,)``.

    Args:
        filters: for example :func:`embedding_filters`.
        count: components wanted; by default, and at most, ``min(n, numbers in a filter)``.

    Returns:
        Components of length 1, orthogonal, each with the sign that makes its largest weight
        positive; and the share of the filters' variance along each. Filters that are all alike
        have no variance: their shares are 0.
    """
    flat = filters.double().flatten(1)  # (n, m)
    _, strength, rows = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    rows = torch.where(largest < 0, -rows, rows)  # (min(n, m), m)
    share = strength.square() / strength.square().sum().clamp_min(1e-300)
    return rows.reshape(-1, *filters.shape[1:])[:count], share[:count]


def spectrum(filters: Tensor, pad: int = 1) -> Tensor:
    """How much of each filter's energy lies at each frequency: ``(n, gh, gw) -> same shape``.

    Squared magnitude of the two-dimensional Fourier transform, scaled so that its sum is the sum
    of the filter's squared weights. Frequency 0, the filter's mean, is at ``(gh // 2, gw // 2)``;
    one step from it is one period over the whole grid. The transform of real weights is symmetric
    about that point.

    Args:
        filters: units folded to the grid.
        pad: surround the filters with zeros to ``pad`` times their size, which samples the
            spectrum ``pad`` times as finely: ``(n, pad * gh, pad * gw)``.
    """
    size = [pad * side for side in filters.shape[1:]]
    if not len(filters):  # some releases of PyTorch refuse an empty tensor
        return filters.new_zeros(0, *size).double()
    power = torch.fft.fft2(filters.double(), s=size, norm="ortho").abs().square()
    return torch.fft.fftshift(power, dim=(1, 2))


def _frequencies(power: Tensor) -> Tensor:
    # Distance of each cell of a spectrum (n, gh, gw) from frequency 0, in periods per patch.
    fy, fx = (torch.fft.fftshift(torch.fft.fftfreq(n)).to(power) for n in power.shape[1:])
    return torch.hypot(fy[:, None], fx[None, :])  # (gh, gw)


def dominant_frequency(filters: Tensor) -> Tensor:
    """Frequency at which each filter's spectrum is highest, in periods per patch: ``(n,)``.

    0: a constant, 0.5: a sign that alternates along rows or columns, 0.71: a checkerboard. The
    direction does not matter. Read off the spectrum sampled four times as finely as the grid's
    own, because patterns need not fit a whole number of times. Where several frequencies are
    equally strong it is their mean (0.38 for a single patch on a large grid, all frequencies
    alike); a filter of zeros has 0.
    """
    power = spectrum(filters, pad=4)  # (n, 4 gh, 4 gw)
    radius = _frequencies(power)
    top = power.amax(dim=(1, 2), keepdim=True)
    highest = (power >= (1 - 1e-6) * top).double()
    frequency = (highest * radius).sum(dim=(1, 2)) / highest.sum(dim=(1, 2))
    return torch.where(top.flatten() > 0, frequency, torch.zeros_like(frequency))


def _low_first(filters: Tensor, groups: Tensor) -> Tensor:
    # Order of groups (g, k) of filters: (g,). Where dominant frequencies agree, the energy's mean
    # frequency decides, so that the smoother is first. Rounded, because last bits differ between
    # machines.
    power = spectrum(filters)
    energy = power.sum(dim=(1, 2)).clamp_min(1e-300)
    mean = (power * _frequencies(power)).sum(dim=(1, 2)) / energy
    order = torch.arange(len(groups), device=groups.device)
    for key in (mean, dominant_frequency(filters)):  # the last key counts most
        value = key[groups].mean(dim=1).mul(1e9).round()  # (g, k) -> (g,)
        order = order[value[order].argsort(stable=True)]
    return order


def order_by_frequency(filters: Tensor) -> Tensor:
    """Indices that put filters of low dominant frequency first: ``(n, gh, gw) -> (n,)``.

    Among filters of the same dominant frequency the one whose energy lies lower on average is
    first; equal filters keep their order.
    """
    each = torch.arange(filters.shape[0], device=filters.device)
    return _low_first(filters, each[:, None])


def _similarity(filters: Tensor) -> Tensor:
    # Cosine similarity of every filter with every other: (n, gh, gw) -> (n, n); zeros have 0.
    flat = rearrange(filters.double(), "n gh gw -> n (gh gw)")
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return flat @ flat.T


def pair_opposite_phases(filters: Tensor) -> Tensor:
    """Units in pairs that are closest to each other's inverse: ``(n, gh, gw) -> (n // 2, 2)``.

    The two filters whose cosine similarity is lowest make a pair, then the lowest two of the
    rest, and so on, so that every unit is used once. In a pair the smaller index is first; pairs
    stand in the order of their mean frequency, low first, as in :func:`order_by_frequency`. Of an
    odd number of units one is left over: the one that is not in the result.
    """
    n = filters.shape[0]
    i, j = torch.triu_indices(n, n, offset=1, device=filters.device)  # (n (n - 1) / 2,) each
    order = _similarity(filters)[i, j].mul(1e9).round().argsort(stable=True)
    free, found = [True] * n, []
    for a, b in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if free[a] and free[b]:
            free[a] = free[b] = False
            found.append((a, b))
    pairs = torch.tensor(found, dtype=torch.long, device=filters.device).reshape(-1, 2)
    return pairs[_low_first(filters, pairs)]


def order_by_pairs(filters: Tensor) -> list[int]:
    """All units, those of :func:`pair_opposite_phases` side by side; one left over is last."""
    pairs = pair_opposite_phases(filters).flatten().tolist()
    return [*pairs, *(set(range(len(filters))) - set(pairs))]


def match_units(model: MlpMixer, other: MlpMixer, block: int) -> tuple[Tensor, Tensor]:
    """Which unit of another model is most like each token-mixing unit of a block: one each.

    Alike are units that read and write alike: the mean over both layers of the cosines of their
    weights. The two most alike are matched, then the most alike of the rest, and so on.

    Returns:
        For each unit of ``model`` the matched unit of ``other`` and their likeness, ``(D_S,)``
        each. 1: the same weights but for their strength; nearly 0: none alike was left.

    Raises:
        ValueError: no such block, or the models differ in their patches or their units.
    """
    layers: list[Literal["fc1", "fc2"]] = ["fc1"]
    if block_at(model, block).mlp_tokens.fc2 is not None:
        layers.append("fc2")
    alike: list[Tensor] = []
    for layer in layers:
        ours, theirs = token_filters(model, block, layer), token_filters(other, block, layer)
        if ours.shape != theirs.shape:
            raise ValueError(
                f"Units are matched between models of the same patches and as many units, not "
                f"{tuple(ours.shape)} and {tuple(theirs.shape)} (units and their grid)."
            )
        both = torch.cat([ours.cpu(), theirs.cpu()])  # (2 D_S, gh, gw)
        alike.append(_similarity(both)[: len(ours), len(ours) :])  # (D_S, D_S)
    likeness = torch.stack(alike).mean(dim=0)
    n = len(likeness)
    found, taken = dict[int, int](), set[int]()
    for cell in likeness.flatten().mul(-1e9).round().argsort(stable=True).tolist():
        mine, its = divmod(cell, n)
        if mine not in found and its not in taken:
            found[mine] = its
            taken.add(its)
    index = torch.tensor([found[mine] for mine in range(n)])
    return index, likeness[torch.arange(n), index]


def smoothness(filters: Tensor) -> Tensor:
    """Neighbour autocorrelation of each filter: ``(n, gh, gw) -> (n,)``.

    Mean product of horizontally and of vertically adjacent weights, averaged, after removing
    the filter's mean, over its variance. 1: neighbours are alike; 0: a random filter's expected
    value (a little below, about -1/S, because the mean is removed); below 0: a checkerboard. A
    constant filter has nothing to correlate and scores 0.
    """
    f = filters.double()
    f = f - f.mean(dim=(1, 2), keepdim=True)
    variance = f.square().mean(dim=(1, 2))
    pairs = [f[:, a:, b:] * f[:, : f.shape[1] - a, : f.shape[2] - b] for a, b in ((1, 0), (0, 1))]
    pairs = [p for p in pairs if p.numel()]
    if not pairs:
        return torch.zeros_like(variance)
    product = torch.stack([p.mean(dim=(1, 2)) for p in pairs]).mean(dim=0)
    flat = variance <= 1e-20 * filters.double().square().mean(dim=(1, 2)).clamp_min(1e-300)
    return torch.where(flat, torch.zeros_like(product), product / variance.clamp_min(1e-300))


def variety(filters: Tensor) -> float:
    """Effective rank of a set of filters as a share of their number: ``(n, gh, gw) -> (0, 1]``.

    The exponential of the entropy of the normalised squared singular values, over n: ``1 / n``
    when all filters are copies of one pattern, 1 when they are orthogonal and equally strong.
    A square random matrix scores about 0.6. All-zero filters score 0.
    """
    power = torch.linalg.svdvals(rearrange(filters.double(), "n gh gw -> n (gh gw)")).square()
    if power.sum() == 0:
        return 0.0
    part = power / power.sum()
    return float(torch.special.entr(part).sum().exp() / filters.shape[0])


def locality(filters: Tensor) -> Tensor:
    """How closely each filter's energy (squared weights) gathers in one place: ``(n,)``.

    One minus the energy's mean squared distance from its centre, over the same for energy spread
    evenly over the grid. 1: a single patch; 0: even; below 0: gathered at opposite edges. A
    random filter scores ``2 / (S + 2)`` on average: 0.03 on 8 x 8 patches, 0.01 on 14 x 14.
    Filters of zeros, and all filters on a grid of one patch, score 0.
    """
    energy = filters.double().square()
    energy = energy / energy.sum(dim=(1, 2), keepdim=True).clamp_min(1e-300)
    spread, even = torch.zeros_like(energy[:, 0, 0]), 0.0
    for along, part in ((1, energy.sum(dim=2)), (2, energy.sum(dim=1))):  # (n, gh), (n, gw)
        n = filters.shape[along]
        place = torch.arange(n).to(part)
        centre = (part * place).sum(dim=1, keepdim=True)
        spread = spread + (part * (place - centre).square()).sum(dim=1)
        even += (n**2 - 1) / 12  # variance of 0 ... n - 1
    nothing = (energy.sum(dim=(1, 2)) == 0) | (even == 0)
    return torch.where(nothing, torch.zeros_like(spread), 1 - spread / (even or 1.0))


def closest_inverse(filters: Tensor) -> tuple[Tensor, Tensor]:
    """Which other filter is most nearly each one's inverse: ``(n, gh, gw) -> (n,), (n,)``.

    Unlike in :func:`pair_opposite_phases` several filters may have the same closest inverse.

    Returns:
        Indices of the filters whose cosine similarity with this one is lowest, and those
        similarities: -1 for the exact inverse, whatever its strength. A single filter has itself
        and 0.
    """
    if (n := len(filters)) < 2:
        return torch.zeros(n, dtype=torch.long).to(filters.device), filters.new_zeros(n).double()
    lowest = _similarity(filters).fill_diagonal_(torch.inf).min(dim=1)
    return lowest.indices, lowest.values


def pairedness(filters: Tensor) -> Tensor:
    """How nearly another unit of the set is each filter's inverse: ``(n, gh, gw) -> (n,)``.

    Minus the lowest cosine similarity with any other filter. 1: some filter is this one with its
    sign turned (strength does not count); 0: all others are at right angles or alike. A random
    matrix scores above 0, because the lowest of many is picked: on average 0.29 for 64 units on
    8 x 8 patches, 0.21 for 384 units on 14 x 14. A single unit scores 0.
    """
    return -closest_inverse(filters)[1]
