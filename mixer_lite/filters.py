"""Weights as pictures' data: folding token-mixing units to the patch grid, and measuring them.

Pure functions of tensors. Sections 3.5 and Figure 5 of the paper show such filters.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from mixer_lite.model import MlpMixer, mixer_blocks


def token_filters(model: MlpMixer, block: int, layer: Literal["fc1", "fc2"] = "fc1") -> Tensor:
    """What the hidden units of a token-mixing MLP read or write: ``(D_S, gh, gw)``.

    ``"fc1"``: row u of W1 folded to the patch grid, the weights with which unit u reads every
    patch (the paper's Figure 5). ``"fc2"``: column u of W2, what unit u adds to every patch.

    Raises:
        ValueError: there is no such block or layer.
    """
    if not -model.num_blocks <= block < model.num_blocks:
        raise ValueError(f"block must be from 0 to {model.num_blocks - 1}, not {block}.")
    if layer not in ("fc1", "fc2"):
        raise ValueError(f'layer must be "fc1" or "fc2", not {layer!r}.')
    gh, gw = model.grid_size
    mlp = mixer_blocks(model)[block].mlp_tokens
    if layer == "fc1":
        return rearrange(mlp.fc1.weight.detach(), "u (gh gw) -> u gh gw", gh=gh, gw=gw)
    return rearrange(mlp.fc2.weight.detach(), "(gh gw) u -> u gh gw", gh=gh, gw=gw)


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
    share = power / power.sum()
    return float(torch.special.entr(share).sum().exp() / filters.shape[0])
