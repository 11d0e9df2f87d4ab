"""Lesson 5: folding, ordering, pairing, measuring."""

from itertools import pairwise

import numpy as np
import torch
from einops import rearrange

from tests.check.zoo import right, wrong

# fold_filters


@right("fold_filters")
def fold_with_loops(weight, grid):
    gh, gw = grid
    maps = torch.zeros(len(weight), gh, gw).to(weight)
    for u in range(weight.shape[0]):
        for s in range(weight.shape[1]):
            maps[u, s // gw, s % gw] = weight[u, s]
    return maps


@right("fold_filters")
def fold_with_einops(weight, grid):
    return rearrange(weight, "u (gh gw) -> u gh gw", gh=grid[0], gw=grid[1])


@right("fold_filters")
def fold_by_view(weight, grid):
    return weight.detach().view(-1, *grid)


@right("fold_filters")
def fold_in_float64(weight, grid):
    return torch.stack([row.double().unflatten(0, grid) for row in weight])


@wrong("fold_filters", "column-major folding", "(gh gw)", "reads a page")
def fold_down_the_columns(weight, grid):
    return rearrange(weight, "u (x y) -> u y x", y=grid[0])


@wrong("fold_filters", "rescaled")
def fold_min_max(weight, grid):
    out = []
    for row in weight:
        out.append(((row - row.min()) / (row.max() - row.min())).reshape(grid))
    return torch.stack(out)


@wrong("fold_filters", "wrong shape", "(D_S, gh, gw)")
def fold_with_a_channel(weight, grid):
    return weight.reshape(-1, 1, *grid)


@wrong("fold_filters", "not a tensor", "ndarray")
def fold_in_numpy(weight, grid):
    return weight.detach().numpy().reshape(-1, *grid)


# fold_outputs


@right("fold_outputs")
def outputs_with_loops(weight, grid):
    maps = []
    for u in range(weight.shape[1]):
        rows = [[weight[y * grid[1] + x, u] for x in range(grid[1])] for y in range(grid[0])]
        maps.append(torch.stack([torch.stack(row) for row in rows]))
    return torch.stack(maps)


@right("fold_outputs")
def outputs_with_einops(weight, grid):
    return rearrange(weight, "(gh gw) u -> u gh gw", gh=grid[0])


@right("fold_outputs")
def outputs_transposed(weight, grid):
    return weight.T.reshape(-1, *grid)


@right("fold_outputs")
def outputs_in_float64(weight, grid):
    return weight.double().unflatten(0, grid).movedim(-1, 0).contiguous()


@wrong("fold_outputs", "missing transpose", "a row is a patch")
def outputs_like_w1(weight, grid):
    return rearrange(weight, "u (gh gw) -> u gh gw", gh=grid[0])


@wrong("fold_outputs", "returns nothing", "return")
def outputs_without_return(weight, grid):
    maps = weight.T.reshape(-1, *grid)
    maps.shape  # noqa: B018


# order_filters


def power_of(filters):
    return torch.fft.fft2(filters).abs() ** 2


def radius_of(filters):
    gh, gw = filters.shape[1:]
    return (torch.fft.fftfreq(gh)[:, None] ** 2 + torch.fft.fftfreq(gw)[None] ** 2).sqrt()


@right("order_filters")
def order_by_peak(filters):
    peak = power_of(filters).flatten(1).argmax(dim=1)
    return radius_of(filters).flatten()[peak].argsort()


@right("order_filters")
def order_by_mean_frequency(filters):
    power = power_of(filters - filters.mean(dim=(1, 2), keepdim=True))
    mean = (power * radius_of(filters)).sum(dim=(1, 2)) / power.sum(dim=(1, 2))
    return torch.sort(mean).indices


@right("order_filters")
def order_by_sign_changes(filters):
    changes = []
    for f in filters - filters.mean(dim=(1, 2), keepdim=True):
        s = f.sign()
        changes.append(int((s[1:] != s[:-1]).sum() + (s[:, 1:] != s[:, :-1]).sum()))
    return sorted(range(len(filters)), key=lambda k: changes[k])


@right("order_filters")
def order_by_smoothness(filters):
    f = filters.double()
    f = f - f.mean(dim=(1, 2), keepdim=True)
    down, across = f[:, 1:] * f[:, :-1], f[:, :, 1:] * f[:, :, :-1]
    alike = (down.mean(dim=(1, 2)) + across.mean(dim=(1, 2))) / f.var(dim=(1, 2))
    return alike.argsort(descending=True)


@right("order_filters")
def order_in_numpy(filters):
    values = []
    for f in filters.numpy():
        spectrum = np.abs(np.fft.rfft2(f - f.mean()))
        y, x = np.unravel_index(spectrum.argmax(), spectrum.shape)
        values.append(abs(np.fft.fftfreq(f.shape[0])[y]) + np.fft.rfftfreq(f.shape[1])[x])
    return np.argsort(values)


@wrong("order_filters", "by strength", "how strong")
def order_by_norm(filters):
    return filters.flatten(1).norm(dim=1).argsort()


@wrong("order_filters", "values, not indices", "argsort, not sort")
def order_as_values(filters):
    power = power_of(filters)
    return ((power * radius_of(filters)).sum((1, 2)) / power.sum((1, 2))).sort().values


@wrong("order_filters", "filters, not indices", "numbers in order")
def order_the_filters(filters):
    return filters[order_by_peak(filters)]


@wrong("order_filters", "negative frequencies", "fftfreq")
def order_by_raw_index(filters):
    peak = power_of(filters).flatten(1).argmax(dim=1)
    y, x = peak // filters.shape[2], peak % filters.shape[2]
    return (y**2 + x**2).argsort()


@wrong("order_filters", "units repeated", "leaves out unit")
def order_of_the_strongest_again_and_again(filters):
    return filters.flatten(1).abs().max(dim=1).values.argmax().repeat(len(filters))


@wrong("order_filters", "wrong shape", "(n,)")
def order_every_pixel(filters):
    return power_of(filters).flatten(1).argsort(dim=1)


# pair_filters


def cosines(filters):
    flat = torch.nn.functional.normalize(filters.flatten(1), dim=1)
    return flat @ flat.T


def pair_lowest(cost):
    cost = cost.clone().fill_diagonal_(float("inf"))
    pairs = []
    for _ in range(len(cost) // 2):
        i, j = divmod(int(cost.argmin()), len(cost))
        pairs.append((i, j))
        cost[[i, j]] = float("inf")
        cost[:, [i, j]] = float("inf")
    return torch.tensor(pairs)


@right("pair_filters")
def pair_greedily(filters):
    return pair_lowest(cosines(filters))


@right("pair_filters")
def pair_with_one_sorted_list(filters):
    near = cosines(filters.double()).numpy()
    free, pairs = set(range(len(near))), []
    for i, j in sorted(np.ndindex(near.shape), key=lambda ij: near[ij]):
        if i < j and {i, j} <= free:
            free -= {i, j}
            pairs.append((i, j))
    return pairs


@right("pair_filters")
def pair_by_distance_from_the_negative(filters):
    flat = filters.flatten(1) / filters.flatten(1).norm(dim=1, keepdim=True)
    gap, pairs = torch.cdist(flat, -flat), []
    gap.fill_diagonal_(torch.inf)
    while len(pairs) < len(filters) // 2:
        i, j = np.unravel_index(int(gap.argmin()), gap.shape)
        pairs.append([int(i), int(j)])
        for k in (i, j):
            gap[k] = gap[:, k] = torch.inf
    return np.array(pairs)


@wrong("pair_filters", "in turn", "lowest of all")
def pair_in_turn(filters):
    similarity, free, pairs = cosines(filters.double()), list(range(len(filters))), []
    while free:
        i = free.pop(0)
        j = min(free, key=lambda k: similarity[i, k].item())
        free.remove(j)
        pairs.append([j, i])
    return pairs


@wrong("pair_filters", "closest of each", "set them aside")
def pair_by_correlation(filters):
    r = np.corrcoef(filters.flatten(1).numpy())
    partner = r.argmin(axis=1)
    return np.array([(i, j) for i, j in enumerate(partner) if i < j])


@wrong("pair_filters", "closest of each", "want the same one")
def pair_by_distance_of_directions(filters):
    flat = filters.flatten(1) / filters.flatten(1).norm(dim=1, keepdim=True)
    partner = torch.cdist(flat, -flat).argmin(dim=1)
    units = torch.arange(len(filters))
    first = units < partner
    return torch.stack([units[first], partner[first]], dim=1)


@wrong("pair_filters", "units repeated", "repeats unit", "leaves out")
def pair_first_half_only(filters):
    partner = cosines(filters).argmin(dim=1)
    pairs = sorted((i, int(j)) for i, j in enumerate(partner))
    return [*pairs[: len(filters) // 2 - 1], pairs[0]]


@wrong("pair_filters", "not opposite", "closest inverse")
def pair_highest_with_lowest_mean(filters):
    order = filters[:, 0, 0].argsort()
    return torch.stack([order[: len(order) // 2], order[len(order) // 2 :].flip(0)], dim=1)


# smoothness


@right("smoothness")
def smoothness_with_loops(filters):
    scores = []
    for f in filters:
        f = f - f.mean()
        gh, gw = f.shape
        down = [f[y, x] * f[y + 1, x] for y in range(gh - 1) for x in range(gw)]
        across = [f[y, x] * f[y, x + 1] for y in range(gh) for x in range(gw - 1)]
        both = (sum(down) / len(down) + sum(across) / len(across)) / 2
        scores.append(both / (f * f).mean())
    return torch.stack(scores)


@right("smoothness")
def smoothness_with_slices(filters):
    f = filters - filters.mean(dim=(1, 2), keepdim=True)
    down = (f[:, :-1, :] * f[:, 1:, :]).mean(dim=(1, 2))
    across = (f[:, :, :-1] * f[:, :, 1:]).mean(dim=(1, 2))
    return 0.5 * (down + across) / f.var(dim=(1, 2), correction=0)


@right("smoothness")
def smoothness_in_float64(filters):
    f = filters.double()
    f = (f - f.mean((1, 2), keepdim=True)) / f.std((1, 2), correction=0, keepdim=True)
    vertical = torch.einsum("nyx,nyx->n", f[:, 1:], f[:, :-1]) / f[0, 1:].numel()
    horizontal = torch.einsum("nyx,nyx->n", f[..., 1:], f[..., :-1]) / f[0, :, 1:].numel()
    return (vertical + horizontal) / 2


@wrong("smoothness", "mean not removed", "subtract each filter's mean")
def smoothness_with_mean(filters):
    down = (filters[:, 1:] * filters[:, :-1]).mean(dim=(1, 2))
    across = (filters[:, :, 1:] * filters[:, :, :-1]).mean(dim=(1, 2))
    return (down + across) / 2 / (filters**2).mean(dim=(1, 2))


def smooth_parts(f):
    down = (f[:, 1:] * f[:, :-1]).mean(dim=(1, 2))
    across = (f[:, :, 1:] * f[:, :, :-1]).mean(dim=(1, 2))
    return (down + across) / 2 / f.square().mean(dim=(1, 2))


def centred(filters):
    return filters - filters.mean(dim=(1, 2), keepdim=True)


@wrong("smoothness", "vertical neighbours only", "to its right")
def smoothness_of_columns(filters):
    scores = []
    for f in centred(filters):
        scores.append(torch.stack([(a * b).mean() for a, b in pairwise(f)]).mean() / (f * f).mean())
    return torch.stack(scores)


@wrong("smoothness", "wraps around", "roll")
def smoothness_with_roll(filters):
    f = centred(filters)
    total = sum((f * torch.roll(f, 1, dims=d)).mean(dim=(1, 2)) for d in (1, 2))
    return total / 2 / f.square().mean(dim=(1, 2))


@wrong("smoothness", "changes its input", "in place")
def smoothness_in_place(filters):
    filters -= filters.mean(dim=(1, 2), keepdim=True)
    return smooth_parts(filters)
