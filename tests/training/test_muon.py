"""The optimizer of the recipe's matrices, against PyTorch's and against singular values."""

import pytest
import torch

from mixer_lite.training.muon import Muon, flatten_spectrum


def test_muon_steps_like_pytorchs():
    # PyTorch's iterates in bfloat16, which moves single entries by a few percent.
    start = [torch.randn(12, 40) for _ in range(3)]
    ours = [torch.torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.torch.nn.Parameter(p.clone()) for p in start]
    a = Muon(ours, lr=0.1, weight_decay=0.3)
    b = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.3)
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(12, 40)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - s).norm() > 1
        assert (p - q).norm() / (q - s).norm() < 0.02


@pytest.mark.parametrize("shape", [(2, 6, 6), (3, 9, 4), (1, 4, 11)])
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_form_keeps_the_strongest_directions_alone(shape, rank):
    x = torch.randn(shape, dtype=torch.float64)
    y = flatten_spectrum(x, rank)
    small = min(shape[1:])
    for before, after in zip(x, y, strict=True):
        wanted = [(small / rank) ** 0.5] * rank + [0.0] * (small - rank)
        assert torch.linalg.svdvals(after).tolist() == pytest.approx(wanted, abs=1e-9)
        # <x, y> is largest for the strongest directions: the sum of x's largest singular values
        most = torch.linalg.svdvals(before)[:rank].sum() * (small / rank) ** 0.5
        assert torch.isclose((before * after).sum(), most)


def test_full_flattening_makes_all_directions_alike():
    s = torch.linalg.svdvals(flatten_spectrum(torch.randn(2, 30, 50)))
    assert s.min() > 0.5 and s.max() < 1.3


def test_zero_gradient_moves_nothing_but_decay():
    for rank in (None, 2):
        p = torch.torch.nn.Parameter(torch.ones(3, 3))
        p.grad = torch.zeros(3, 3)
        Muon([p], lr=0.1, weight_decay=0.5, rank=rank).step()
        assert torch.allclose(p.detach(), torch.full((3, 3), 0.95))


def test_kernels_of_a_convolution_are_matrices_with_a_row_for_each_output():
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    kernels, matrix = (
        torch.nn.Parameter(start.clone()),
        torch.nn.Parameter(start.flatten(1).clone()),
    )
    for parameter in (kernels, matrix):
        parameter.grad = gradient.reshape(parameter.shape)
        Muon([parameter], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(kernels.flatten(1), matrix) and not torch.equal(kernels, start)
