"""Muon (Jordan et al. 2024), the optimizer of the recipe's matrices, and its low-rank form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def flatten_spectrum(matrices: Tensor, rank: int | None = None, steps: int = 5) -> Tensor:
    """Make the directions of each matrix equally long: ``U S V^T -> U V^T``, ``(n, rows, cols)``.

    With ``rank=None`` all of them, approximately: five steps of the quintic Newton-Schulz
    iteration of Muon (Jordan et al. 2024), in float32 because many CPUs are a hundred times
    slower in bfloat16. With a rank the strongest so many alone, by singular value
    decomposition, scaled to the Frobenius norm that all of them would have.
    """
    if rank is not None:
        u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
        rank = min(rank, s.shape[1])
        scale = (s.shape[1] / rank) ** 0.5
        keep = (s[:, :rank] > 0).to(s.dtype) * scale  # a gradient of zero gives no update
        return (u[:, :, :rank] * keep[:, None]) @ vt[:, :rank]
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        a = x @ x.mT  # (n, rows, rows)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update has equally long directions (Jordan et al. 2024).

    ``rank=None`` is Muon (the tests compare it with ``torch.optim.Muon``): every direction of a
    matrix learns at one rate, noise included. With a rank only the strongest directions of the
    moment learn: those that many steps agree on, yet several of them, and not the first alone.

    All parameters of a group must be of one shape; they are updated as one stack. A convolution's
    kernels ``(out, in, h, w)`` count as a matrix with a row for each output.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        rank: int | None = None,
    ):
        defaults = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, rank=rank)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = []
            for p in params:
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(buffer, group["momentum"]))
            stack = torch.stack(updates).flatten(2)  # (n, rows, ...) -> (n, rows, cols)
            update = flatten_spectrum(stack, group["rank"])
            rows, cols = stack.shape[1:]
            length = group["lr"] * max(1.0, rows / cols) ** 0.5
            for p, u in zip(params, update, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u.view_as(p), alpha=length)
