"""Comparing two tensors: are they equal, and what have they to do with each other?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def shape_text(value: Any) -> str:
    """``(2, 6, 48)``, or a name of the type for what has no shape."""
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__


def table(value: Tensor) -> np.ndarray | None:
    """The last two axes of the first item, if they are worth drawing."""
    flat = value.detach().double()
    while flat.ndim > 2:
        flat = flat[0]
    flat = flat[None] if flat.ndim == 1 else flat
    if flat.ndim != 2 or not 2 <= flat.numel() <= 4000:
        return None
    return flat.cpu().numpy()


def first_difference(want: Tensor, got: Tensor) -> dict[str, Any] | None:
    """Where two tensors of one shape differ first, and in how many numbers."""
    a, b = want.double(), got.double()
    scale = float(a.abs().max()) if a.numel() else 1.0
    off = ~((a - b).abs() <= 2e-5 * (scale or 1.0))  # NaN counts as a difference
    if not bool(off.any()):
        return None
    index = tuple(off.nonzero()[0].tolist())
    numbers = dict(expected=float(a[index]), got=float(b[index]))
    return dict(index=list(index), off=int(off.sum()), of=off.numel(), **numbers)


def shapes_differ_by(got: Tensor, want: Tensor) -> str:
    """The key of the words for what one shape has to do with the other."""
    if sorted(got.shape) == sorted(want.shape):
        return "axes in another order"
    if got.numel() == want.numel():
        return "axes of other lengths"
    if got.squeeze().shape == want.squeeze().shape:
        return "axis of length 1"
    return "nothing in common"


def relation(got: Tensor, want: Tensor, equal: Any) -> tuple[str, dict[str, Any]]:
    """What any two tensors of one shape may have to do with each other, whatever the exercise.

    Args:
        got, want: in float64.
        equal: says whether two tensors are equal to rounding.

    Returns:
        The mistake, and the values for its words.
    """
    if equal(-got, want):
        return "sign", {}
    if float(got.abs().max()) == 0:
        return "all zeros", {}
    norm = float(want.square().sum())
    factor = float((got * want).sum()) / norm if norm else 0.0
    if abs(factor) > 1e-6 and equal(got, want * factor):
        return "scale", dict(factor=factor)
    if equal(got - got.mean(), want - want.mean()):
        return "offset", dict(gap=float((got - want).mean()))
    for axis in range(want.ndim):
        n = want.shape[axis]
        if not 2 <= n <= 64:
            continue
        a = got.transpose(0, axis).reshape(n, -1)  # (n, everything else)
        b = want.transpose(0, axis).reshape(n, -1)
        nearest = torch.cdist(a, b).argmin(dim=1)  # (n,)
        order = nearest.tolist()
        if sorted(order) == list(range(n)) and equal(a, b[nearest]):
            return "wrong order", dict(axis=axis, first=order[0], second=order[1])
    if equal(got.flatten().sort().values, want.flatten().sort().values):
        return "wrong places", {}
    return "wrong values", {}
