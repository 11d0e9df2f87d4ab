"""Filters folded, ordered, paired and measured, on patterns whose answer is known."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch

import mixer_lite as ml
from mixer_lite import filters as f

SMALL = dict(num_classes=5, hidden_dim=7, tokens_mlp_dim=9, channels_mlp_dim=11)


def wave(frequency, angle, phase, grid=(14, 14)):
    """A sinusoid of so many periods per patch, travelling in this direction."""
    y, x = torch.meshgrid(*(torch.arange(n).double() for n in grid), indexing="ij")
    along = y * math.sin(angle) + x * math.cos(angle)
    return torch.sin(2 * math.pi * frequency * along + phase)


def gabor(frequency, angle, phase, centre, width, grid=(14, 14)):
    y, x = torch.meshgrid(*(torch.arange(n).double() for n in grid), indexing="ij")
    far = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return wave(frequency, angle, phase, grid) * torch.exp(-far / (2 * width**2))


def uniform(count, low, high):
    return (low + (high - low) * torch.rand(count)).tolist()


# --- folding ---------------------------------------------------------------------------------


def test_token_filters_fold_rows_of_fc1_and_columns_of_fc2():
    model = ml.MlpMixer(image_size=(8, 12), patch_size=4, num_blocks=2, **SMALL)
    for block, number in ((0, 0), (1, 1), (-1, 1)):
        mlp = model.blocks[number].mlp_tokens
        reads, writes = (f.token_filters(model, block, layer) for layer in ("fc1", "fc2"))
        assert reads.shape == writes.shape == (9, 2, 3)
        for u, y, x in product(range(9), range(2), range(3)):
            assert reads[u, y, x] == mlp.fc1.weight[u, 3 * y + x]
            assert writes[u, y, x] == mlp.fc2.weight[3 * y + x, u]
    assert not reads.requires_grad


@pytest.mark.parametrize("block", [2, -3])
def test_no_such_block(block):
    model = ml.MlpMixer(image_size=8, patch_size=4, num_blocks=2, **SMALL)
    with pytest.raises(ValueError, match=f"block must be from 0 to 1, not {block}"):
        f.token_filters(model, block)
    with pytest.raises(ValueError, match='layer must be "fc1" or "fc2", not \'fc3\''):
        f.token_filters(model, 0, "fc3")


def test_embedding_filters_are_the_stem_applied_to_a_patch():
    model = ml.MlpMixer(image_size=(8, 12), patch_size=4, num_blocks=1, **SMALL)
    image = torch.randn(1, 3, 8, 12)
    filters = f.embedding_filters(model)
    assert filters.shape == (7, 3, 4, 4)
    # A strided convolution with these filters is the patch embedding (section 2).
    conv = torch.nn.functional.conv2d(image, filters, model.stem.bias, stride=4)
    tokens = model.stem(model.patchify(image))
    assert torch.allclose(conv.flatten(2).mT, tokens, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 3, 4, 4), (60, 3, 4, 4), (9, 2, 3)])
def test_principal_components_are_eigenvectors_of_the_covariance(shape):
    filters = torch.randn(shape) * torch.linspace(1, 3, shape[-1]) + 5
    components, share = f.principal_components(filters)
    values, vectors = np.linalg.eigh(np.cov(filters.flatten(1).double().numpy().T))
    n = min(shape[0] - 1, values.size)  # n filters around their mean span n - 1 dimensions
    assert np.allclose(share[:n], values[::-1][:n] / values.sum(), atol=1e-12)
    assert share.sum().item() == pytest.approx(1)
    for k in range(3):
        cosine = components[k].flatten().numpy() @ vectors[:, -1 - k]
        assert abs(cosine) == pytest.approx(1, abs=1e-9)
        assert components[k].flatten()[components[k].abs().argmax()] > 0
    assert f.principal_components(filters, 2)[0].shape == (2, *shape[1:])


def test_principal_components_of_filters_that_are_all_alike():
    components, share = f.principal_components(torch.ones(4, 2, 3))
    assert share.tolist() == [0, 0, 0, 0]
    assert components.isfinite().all()


# --- frequency -------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 6)])
def test_spectrum_against_the_sum_that_defines_it(grid):
    filters = torch.randn(2, *grid)
    power = f.spectrum(filters)
    gh, gw = grid
    for n, v, u in product(range(2), range(gh), range(gw)):
        wanted = 0j
        for y, x in product(range(gh), range(gw)):
            turn = (v - gh // 2) * y / gh + (u - gw // 2) * x / gw
            wanted += filters[n, y, x].item() * np.exp(-2j * np.pi * turn)
        assert power[n, v, u].item() == pytest.approx(abs(wanted) ** 2 / (gh * gw), abs=1e-9)
    for pad in (1, 3):  # Parseval
        energy = f.spectrum(filters, pad).sum(dim=(1, 2))
        assert torch.allclose(energy, filters.double().square().sum(dim=(1, 2)))


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (9, 15)])
@pytest.mark.parametrize("noise", [0, 0.3])
def test_dominant_frequency_of_waves(grid, noise):
    true = torch.tensor(uniform(60, 0.12, 0.45))
    turn = zip(true.tolist(), uniform(60, 0, math.pi), uniform(60, 0, 6.28), strict=True)
    waves = torch.stack([wave(*t, grid) for t in turn])
    found = f.dominant_frequency(waves + noise * torch.randn_like(waves))
    # Half a period over the whole grid is what can be told apart at most.
    assert (found - true).abs().max() < (0.2 if noise == 0 else 0.3) / min(grid)


def test_dominant_frequency_where_it_is_exact():
    checkers = torch.tensor([[(-1.0) ** (y + x) for x in range(8)] for y in range(8)])
    filters = torch.stack([torch.ones(8, 8), wave(0.25, 0, 0.7, (8, 8)), checkers])
    filters = torch.cat([filters, -3 * filters, torch.zeros(1, 8, 8)])
    wanted = [0, 0.25, 0.5**0.5] * 2 + [0]
    assert f.dominant_frequency(filters).tolist() == pytest.approx(wanted)
    fy = fx = np.fft.fftfreq(32)
    everywhere = np.hypot(fy[:, None], fx).mean()
    for y, x in ((0, 0), (3, 6)):
        single = torch.zeros(1, 8, 8)
        single[0, y, x] = -2
        assert f.dominant_frequency(single).item() == pytest.approx(everywhere)


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (9, 15)])
@pytest.mark.parametrize("noise", [0, 0.1, 0.3])
def test_order_of_waves_is_the_order_of_their_frequencies(grid, noise):
    for _ in range(20):
        turn = zip(
            [0, 0.12, 0.2, 0.28, 0.36, 0.44],
            uniform(6, 0, math.pi),
            [math.pi / 2, *uniform(5, 0, 6.28)],  # the first is a constant
            strict=True,
        )
        waves = torch.stack([wave(*t, grid) for t in turn])
        waves = waves + noise * torch.randn_like(waves)
        where = torch.randperm(6)
        assert where[f.order_by_frequency(waves[where])].tolist() == list(range(6))


@pytest.mark.parametrize("noise", [0, 0.1, 0.2])
def test_order_of_gabors_is_the_order_of_their_frequencies(noise):
    for _ in range(20):
        turn = zip(
            [0.1, 0.18, 0.26, 0.34, 0.42],
            uniform(5, 0, math.pi),
            uniform(5, 0, 6.28),
            zip(uniform(5, 4.5, 8.5), uniform(5, 4.5, 8.5), strict=True),
            uniform(5, 2.5, 3),
            strict=True,
        )
        gabors = torch.stack([gabor(*t) for t in turn])
        gabors = gabors + noise * torch.randn_like(gabors)
        where = torch.randperm(5)
        assert where[f.order_by_frequency(gabors[where])].tolist() == list(range(5))


def test_order_among_filters_of_one_dominant_frequency():
    broad, narrow = (gabor(0, 0, math.pi / 2, (6, 6), width) for width in (3, 1))
    both = torch.stack([narrow, broad, narrow, broad])
    assert f.dominant_frequency(both).tolist() == [0, 0, 0, 0]
    assert f.order_by_frequency(both).tolist() == [1, 3, 0, 2]  # equal ones keep their order


# --- pairs -----------------------------------------------------------------------------------


def known_pairs(count, grid, noise, extra=0):
    """Shuffled waves and Gabors, half of them inverses of the others, and who belongs to whom."""
    middle = [(n - 1) / 2 for n in grid]
    one = []
    for k in range(count):
        shape = (0.08 + 0.36 * k / count, k * 2.4, 1.3 * k)
        one.append(wave(*shape, grid) if k % 2 else gabor(*shape, middle, min(grid) / 4, grid))
    one = torch.stack(one)
    other = -torch.rand(count, 1, 1).add(0.5) * one  # the inverse, stronger or weaker
    both = torch.cat([one, other, torch.randn(extra, *grid)])
    both = both / both.square().mean(dim=(1, 2), keepdim=True).sqrt()
    where = torch.randperm(len(both))
    both = (both + noise * torch.randn_like(both))[where]
    at = where.argsort()
    return both, {tuple(sorted((at[k].item(), at[k + count].item()))) for k in range(count)}, at


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (7, 10)])
@pytest.mark.parametrize("noise", [0, 0.1, 0.4])
def test_pairs_are_the_known_ones_in_the_known_order(grid, noise):
    filters, wanted, at = known_pairs(12, grid, noise)
    pairs = f.pair_opposite_phases(filters)
    assert pairs.shape == (12, 2)
    assert {tuple(p) for p in pairs.tolist()} == wanted
    if noise == 0:  # waves 1, 3, 5 ... stand in the order of their frequency
        back = at.argsort()[pairs[:, 0]] % 12
        waves = [k for k in back.tolist() if k % 2]
        assert waves == sorted(waves)


def test_every_unit_is_used_once_and_an_odd_one_is_left_over():
    filters, wanted, _ = known_pairs(6, (8, 8), 0, extra=1)
    pairs = f.pair_opposite_phases(filters)
    assert pairs.shape == (6, 2)
    assert {tuple(p) for p in pairs.tolist()} == wanted
    assert len(set(pairs.flatten().tolist())) == 12


def test_first_pair_is_the_most_opposite_of_all():
    filters = torch.randn(10, 3, 5)
    cosine = {}
    for a, b in combinations(range(10), 2):
        x, y = filters[a].flatten().numpy(), filters[b].flatten().numpy()
        cosine[a, b] = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    left, wanted = dict(cosine), set()
    while left:  # the rule of the docstring, by search
        best = min(left, key=left.get)
        wanted.add(best)
        left = {k: v for k, v in left.items() if not set(k) & set(best)}
    assert {tuple(p) for p in f.pair_opposite_phases(filters).tolist()} == wanted
    lowest = [min(v for k, v in cosine.items() if n in k) for n in range(10)]
    assert f.pairedness(filters).tolist() == pytest.approx([-v for v in lowest], abs=1e-6)


# --- measures --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 6), (6, 1)])
def test_smoothness_by_loops(grid):
    filters = torch.randn(4, *grid) + 3
    gh, gw = grid
    for one, score in zip(filters.double().numpy(), f.smoothness(filters), strict=True):
        one = one - one.mean()
        down = [one[y, x] * one[y + 1, x] for y in range(gh - 1) for x in range(gw)]
        right = [one[y, x] * one[y, x + 1] for y in range(gh) for x in range(gw - 1)]
        means = [np.mean(p) for p in (down, right) if p]
        assert score.item() == pytest.approx(np.mean(means) / one.var())


def test_smoothness_of_known_patterns():
    checkers = torch.tensor([[(-1.0) ** (y + x) for x in range(6)] for y in range(6)])
    slow = wave(1 / 40, 0.5, 0, (20, 20))
    scores = f.smoothness(torch.stack([checkers, -5 * checkers]))
    assert scores.tolist() == pytest.approx([-1, -1])
    assert 0.9 < f.smoothness(slow[None]).item() < 1.05
    assert f.smoothness(torch.randn(2000, 8, 8)).mean().item() == pytest.approx(-1 / 64, abs=0.01)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_variety_is_the_exponential_of_an_entropy(count):
    filters = torch.randn(count, 3, 5)
    flat = filters.flatten(1).double().numpy()
    power = np.clip(np.linalg.eigvalsh(flat @ flat.T), 1e-300, None)  # squared singular values
    share = power / power.sum()
    wanted = np.exp(-(share * np.log(share)).sum()) / count
    assert f.variety(filters) == pytest.approx(wanted)


def test_variety_of_known_sets():
    assert f.variety(torch.eye(12).reshape(12, 3, 4)) == pytest.approx(1)
    assert f.variety(torch.randn(3, 4).expand(10, 3, 4)) == pytest.approx(0.1)
    assert f.variety(torch.zeros(5, 3, 4)) == 0
    assert f.variety(torch.randn(64, 8, 8)) == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 6), (6, 1)])
def test_locality_by_loops(grid):
    filters = torch.randn(4, *grid)
    spots = list(product(range(grid[0]), range(grid[1])))

    def spread(weights):
        total = sum(weights)
        cy = sum(w * y for w, (y, _) in zip(weights, spots, strict=True)) / total
        cx = sum(w * x for w, (_, x) in zip(weights, spots, strict=True)) / total
        far = [(y - cy) ** 2 + (x - cx) ** 2 for y, x in spots]
        return sum(w * d for w, d in zip(weights, far, strict=True)) / total

    for one, score in zip(filters.double(), f.locality(filters).tolist(), strict=True):
        energy = [one[spot].item() ** 2 for spot in spots]
        assert score == pytest.approx(1 - spread(energy) / spread([1.0] * len(spots)))


def test_locality_of_known_patterns():
    single, edges = torch.zeros(6, 9), torch.zeros(6, 9)
    single[2, 7] = -4
    edges[:, 0], edges[:, 8] = 1, -1
    narrow, broad = (gabor(0.1, 1, 1, (6, 7), width) for width in (1, 3))
    assert f.locality(torch.stack([single, torch.ones(6, 9)])).tolist() == pytest.approx([1, 0])
    assert f.locality(edges[None]).item() < -0.5
    near, far = f.locality(torch.stack([narrow, broad])).tolist()
    assert 0.9 < near < 1
    assert 0.5 < far < 0.8


def test_pairedness_of_known_sets():
    half = torch.randn(10, 5, 7)
    assert f.pairedness(torch.cat([half, -2 * half])).tolist() == pytest.approx([1] * 20)
    assert f.pairedness(torch.eye(12).reshape(12, 3, 4)).tolist() == pytest.approx([0] * 12)
    assert f.pairedness(torch.randn(3, 4).expand(5, 3, 4)).tolist() == pytest.approx([-1] * 5)


@pytest.mark.parametrize(
    ("units", "side", "local", "paired"), [(64, 8, 0.03, 0.29), (384, 14, 0.01, 0.21)]
)
def test_what_random_weights_score(units, side, local, paired):
    many = [torch.randn(units, side, side) for _ in range(3000 // units)]
    assert f.locality(torch.cat(many)).mean().item() == pytest.approx(local, abs=0.01)
    mean = np.mean([f.pairedness(one).mean().item() for one in many])
    assert mean == pytest.approx(paired, abs=0.015)


# --- degenerate input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filters",
    [
        torch.zeros(3, 4, 6),
        torch.full((3, 4, 6), 1e-8),
        torch.full((2, 5, 5), -7.0),
        torch.eye(24)[:5].reshape(5, 4, 6),
        torch.randn(1, 4, 6),
        torch.randn(3, 1, 1),
        torch.randn(3, 1, 7),
        torch.randn(0, 4, 6),
        torch.randn(4, 3, 3).half(),
    ],
    ids=["zeros", "tiny", "constant", "single patches", "one unit", "one patch", "row", "none",
         "half"],
)  # fmt: skip
def test_degenerate_filters_give_finite_answers(filters):
    n = len(filters)
    for measure in (f.smoothness, f.locality, f.pairedness, f.dominant_frequency):
        scores = measure(filters)
        assert scores.shape == (n,)
        assert scores.isfinite().all()
    assert sorted(f.order_by_frequency(filters).tolist()) == list(range(n))
    pairs = f.pair_opposite_phases(filters)
    assert pairs.shape == (n // 2, 2)
    assert len(set(pairs.flatten().tolist())) == n - n % 2
    if n and filters.std() == 0:
        assert f.order_by_frequency(filters).tolist() == list(range(n))


def test_closest_inverse_by_brute_force():
    filters = torch.randn(7, 3, 4)
    filters[5] = -3 * filters[2]
    index, similarity = f.closest_inverse(filters)
    for i in range(7):
        cosines = {
            j: torch.nn.functional.cosine_similarity(
                filters[i].flatten(), filters[j].flatten(), dim=0
            ).item()
            for j in range(7)
            if j != i
        }
        assert index[i].item() == min(cosines, key=cosines.get)
        assert similarity[i].item() == pytest.approx(min(cosines.values()), abs=1e-6)
    assert (index[2].item(), index[5].item()) == (5, 2)
    alone, zero = f.closest_inverse(filters[:1])
    assert (alone.tolist(), zero.tolist()) == ([0], [0.0])


def test_units_are_matched_with_their_own_after_a_shuffle():
    torch.manual_seed(3)
    model = ml.MlpMixer(image_size=(8, 12), patch_size=4, num_blocks=2, **SMALL)
    other = ml.MlpMixer(image_size=(8, 12), patch_size=4, num_blocks=2, **SMALL)
    other.load_state_dict(model.state_dict())
    order = torch.randperm(9)
    mine, its = model.blocks[1].mlp_tokens, other.blocks[1].mlp_tokens
    with torch.no_grad():
        its.fc1.weight.copy_(mine.fc1.weight[order] * 3)  # strength does not count
        its.fc2.weight.copy_(mine.fc2.weight[:, order])
    index, likeness = f.match_units(model, other, 1)
    assert (order[index] == torch.arange(9)).all()
    assert (likeness - 1).abs().max() < 1e-6
    # Of unrelated units each is used once, the most alike first, by brute force.
    fresh = ml.MlpMixer(image_size=(8, 12), patch_size=4, num_blocks=2, **SMALL)
    index, likeness = f.match_units(model, fresh, 0)

    def alike(a, b):
        total = 0.0
        for layer in ("fc1", "fc2"):
            x, y = (f.token_filters(m, 0, layer)[u].flatten() for m, u in ((model, a), (fresh, b)))
            total += float(x @ y / (x.norm() * y.norm())) / 2
        return total

    left, right = set(range(9)), set(range(9))
    while left:
        a, b = max(product(left, right), key=lambda pair: alike(*pair))
        assert index[a] == b and likeness[a].item() == pytest.approx(alike(a, b), abs=1e-6)
        left.remove(a)
        right.remove(b)
    wider = ml.MlpMixer(image_size=8, patch_size=4, num_blocks=2, **SMALL)
    with pytest.raises(ValueError, match=r"not \(9, 2, 3\) and \(9, 2, 2\)"):
        f.match_units(model, wider, 0)
