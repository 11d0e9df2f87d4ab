"""Checks of lesson 2: the two MLPs, LayerNorm and the sublayer as functions, then as modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mixer_lite.check.engine.exercise import Inputs, Look, exercise
from mixer_lite.check.engine.trial import Foreseen, Trial, nearly_equal

# Who moves whom

PLACE = ("b", "s", "c", "b2", "s2", "c2")  # of an output, then of an input


def _look_who_moves(
    apart: str, t: Trial, answer: Any, got: Any, args: tuple[Any, ...], want: Tensor
) -> Look:
    # `apart` names the axis that must not be crossed, "channels" or "tokens".
    got = t.tensor(got)
    if got.shape != want.shape:
        return Look()
    again = t.tensor(t.call(answer, *args))
    if not nearly_equal(again.nan_to_num(), got.nan_to_num()):
        t.fail("not the same twice", *t.told())
    # NaN and huge numbers would hide what moves.
    if not bool((got.abs() < 1e3 * want.abs().max()).all()):
        return Look()
    x, *rest = args
    with torch.enable_grad():
        moved = t.moved(lambda v: answer(v, *rest), x[:2].clone())  # (b, S, C, b, S, C)
    image, token, channel = (torch.eye(n, dtype=torch.bool) for n in x[:2].shape)
    same = {
        "channels": channel[None, None, :, None, None, :],
        "tokens": token[None, :, None, None, :, None],
    }[apart]
    may = (image[:, None, None, :, None, None] & same).expand_as(moved)
    crossing, silent = moved & ~may, may & ~moved
    mixed = {"channels": "tokens", "tokens": "channels"}[apart]
    if bool(crossing.any()):
        places = dict(zip(PLACE, crossing.nonzero()[0].tolist(), strict=True))
        if places["b"] != places["b2"]:
            line = t.line("cross images", **places)
            return Look([Foreseen(("mixes images",), got)], below=[line])
        mistake, line = f"mixes {apart}", t.line("cross", **places)
    elif 2 * int(silent.sum()) >= int(may.sum()):
        places = dict(zip(PLACE, silent.nonzero()[0].tolist(), strict=True))
        mistake, line = f"does not mix {mixed}", t.line("silent", **places)
    else:
        return Look()
    expected, yours = (
        rearrange(support[0, :, :, 0], "s c s2 c2 -> (s c) (s2 c2)").double().numpy()
        for support in (may, moved)
    )
    found = [Foreseen((mistake,), got)]
    return Look(found, expected=expected, yours=yours, below=[line, t.line("drawn")])


# The two MLPs

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": F.gelu,
    "tanh GELU": lambda x: F.gelu(x, approximate="tanh"),
    "another GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "ReLU for GELU": F.relu,
    "SiLU for GELU": F.silu,
    "sigmoid for GELU": torch.sigmoid,
    "tanh for GELU": torch.tanh,
    "leaky ReLU for GELU": F.leaky_relu,
    "ELU for GELU": F.elu,
    "GELU without its root": lambda x: x * (1 + torch.erf(x)) / 2,
    "GELU without its half": lambda x: x * torch.erf(x / math.sqrt(2)),
    "GELU without its x": lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2,
    "no activation": lambda x: x,
}

TURNS: dict[str, Callable[[Tensor], Tensor]] = {  # (b, m, n) -> (b, n, m)
    "transpose": lambda x: x.transpose(1, 2),
    "reshape": lambda x: x.reshape(len(x), x.shape[2], x.shape[1]),
    "none": lambda x: x,
}

BOTH_MLPS = (
    ("residual included", dict(skip=True)),
    ("LayerNorm included", dict(before=lambda x: F.layer_norm(x, x.shape[-1:]))),
    *((name, dict(act=name)) for name in list(ACTIVATIONS)[1:]),
    ("activation in the wrong place", dict(act="no activation", after=F.gelu)),
    ("activation twice", dict(after=F.gelu)),
    ("biases missing", dict(first="none", second="none")),
    ("first bias missing", dict(first="none")),
    ("second bias missing", dict(second="none")),
    ("bias along the wrong axis", dict(first="across", second="across")),
    ("bias along the wrong axis: first", dict(first="across")),
    ("bias along the wrong axis: second", dict(second="across")),
    ("weights transposed", dict(weights="columns")),
    ("layers exchanged", dict(weights="exchanged")),
    ("images mixed", dict(images=lambda y: y.sum(0))),
    ("first image only", dict(images=lambda y: y[0])),
)

TOKEN_MIXING = (
    ("both MLPs over channels", dict(turn="none", back="none")),
    ("reshape for transpose", dict(turn="reshape", back="reshape")),
    ("reshape for transpose: there", dict(turn="reshape")),
    ("reshape for transpose: back", dict(back="reshape")),
    ("not turned back", dict(back="none")),
    *BOTH_MLPS,
)

CHANNEL_MIXING = (
    ("both MLPs over tokens", dict(turn="transpose", back="transpose")),
    ("turned for nothing", dict(back="transpose")),
    ("reshape for transpose", dict(back="reshape")),
    *BOTH_MLPS,
)


def _mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    turn: str,
    back: str,
    act: str = "exact",
    first: str = "along",
    second: str = "along",
    weights: str = "rows",
    before: Callable[[Tensor], Tensor] = lambda x: x,
    after: Callable[[Tensor], Tensor] = lambda y: y,
    skip: bool = False,
    images: Callable[[Tensor], Tensor] = lambda y: y,
) -> Tensor:
    """Two layers along the last axis of ``x``, turned before and after; (b, S, C) -> (b, S, C)."""

    def add(y: Tensor, bias: Tensor, how: str) -> Tensor:
        return y if how == "none" else y + (bias[:, None] if how == "across" else bias)

    if weights == "columns":
        w1, w2 = w1.T, w2.T
    if weights == "exchanged":
        w1, b1, w2, b2 = w2, b2, w1, b1
    y = add(TURNS[turn](before(x)) @ w1.T, b1, first)  # (b, rows, D)
    y = ACTIVATIONS[act](y)
    y = after(TURNS[back](add(y @ w2.T, b2, second)))  # (b, S, C)
    return images(x + y if skip else y)


def _draw_mlp(axis: str, equal: bool, t: Trial) -> Inputs:
    # x (b, S, C) and an MLP n -> d -> n, of such a size that every GELU is in its bend.
    b, s, c, d = (4, 4, 4, 4) if equal else t.choose(4, 2, 6)
    n, rows = (s, "channels") if axis == "token" else (c, "tokens")
    weights = t.randn(d, n) * (2 / n) ** 0.5, t.randn(d), t.randn(n, d) / d**0.5, t.randn(n)
    names = dict(axis=axis, rows=rows, hidden="D_S" if axis == "token" else "D_C")
    return (t.randn(b, s, c), *weights), dict(b=b, s=s, c=c, d=d, **names)


@exercise(
    "lesson2",
    partial(_draw_mlp, "token", False),
    TOKEN_MIXING,
    equal=partial(_draw_mlp, "token", True),
    look=partial(_look_who_moves, "channels"),
)
def token_mixing(
    *args: Tensor, turn: str = "transpose", back: str = "transpose", **how: Any
) -> Tensor:
    """``token_mixing(x (b, S, C), w1 (D_S, S), b1 (D_S,), w2 (S, D_S), b2 (S,)) -> (b, S, C)``.

    The MLP alone, the same for all channels; exact GELU; no LayerNorm and no skip connection.
    """
    return _mlp(*args, turn=turn, back=back, **how)


@exercise(
    "lesson2",
    partial(_draw_mlp, "channel", False),
    CHANNEL_MIXING,
    equal=partial(_draw_mlp, "channel", True),
    look=partial(_look_who_moves, "tokens"),
)
def channel_mixing(*args: Tensor, turn: str = "none", back: str = "none", **how: Any) -> Tensor:
    """``channel_mixing(x (b, S, C), w1 (D_C, C), b1 (D_C,), w2 (C, D_C), b2 (C,)) -> (b, S, C)``.

    The MLP alone, the same for all tokens; exact GELU; no LayerNorm and no skip connection.
    """
    return _mlp(*args, turn=turn, back=back, **how)


# LayerNorm


def _draw_norm(t: Trial) -> Inputs:
    b, s, c = t.choose(3, 3, 6)
    loud = 0.5 + t.randn(b, s, 1).abs()
    x = loud * t.randn(b, s, c) + t.randn(b, s, 1) + t.randn(c)
    eps = round(t.random.uniform(0.05, 0.3), 2)  # large, so that one sees where it goes
    return (x, t.randn(c), t.randn(c), eps), dict(b=b, s=s, c=c, eps=eps)


ROOTS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {  # of variance, mean square, eps
    "inside": lambda v, square, eps: (v + eps).sqrt(),
    "outside": lambda v, square, eps: v.sqrt() + eps,
    "none": lambda v, square, eps: v.sqrt(),
    "fixed": lambda v, square, eps: (v + 1e-5).sqrt(),
    "no root": lambda v, square, eps: v + eps,
    "square": lambda v, square, eps: (v + eps**2).sqrt(),
    "mean square": lambda v, square, eps: (square + eps).sqrt(),
    "no division": lambda v, square, eps: torch.ones_like(v),
}


def _other_deviation(
    add: Callable[..., Tensor] | None, x: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> Tensor:
    # By the root of a sum of squares, or the mean magnitude: in place of the standard deviation.
    y = x - x.mean(-1, keepdim=True)
    size = add(y * y, -1, keepdim=True).sqrt() if add else y.abs().mean(-1, keepdim=True)
    return y / (size + eps) * scale + shift


LAYER_NORM = (
    ("over tokens", dict(over=(1,))),
    ("over tokens and channels", dict(over=(1, 2))),
    ("batch statistics", dict(over=(0, 1))),
    ("over images", dict(over=(0,))),
    ("one mean for all", dict(over=(0, 1, 2))),
    ("unbiased variance", dict(correction=1)),
    ("eps outside the root", dict(root="outside")),
    ("eps ignored", dict(root="none")),
    ("eps ignored", dict(root="fixed")),
    ("eps squared", dict(root="square")),
    ("root missing", dict(root="no root")),
    ("mean of squares", dict(root="mean square")),
    ("mean kept: RMSNorm", dict(centre=False, root="mean square")),
    ("mean kept", dict(centre=False)),
    ("not divided", dict(root="no division")),
    ("scale and shift missing", dict(scaled=lambda y, scale: y, shifted=lambda y, shift: y)),
    ("scale missing", dict(scaled=lambda y, scale: y)),
    ("shift missing", dict(shifted=lambda y, shift: y)),
    ("scale and shift exchanged", dict(exchanged=True)),
    ("shift before scale", dict(shift_first=True)),
    ("one plus scale", dict(scaled=lambda y, scale: y * (1 + scale))),
    ("axis lost", dict(keepdim=False)),
    (
        "scaled before it is normalised",
        lambda x, scale, shift, eps: F.layer_norm(x * scale + shift, x.shape[-1:], eps=eps),
    ),
    ("length for deviation", partial(_other_deviation, torch.sum)),
    ("mean deviation", partial(_other_deviation, None)),
)


@exercise(
    "lesson2",
    _draw_norm,
    LAYER_NORM,
    equal=lambda t: (
        (t.randn(4, 4, 4), t.randn(4), t.randn(4), 0.1),
        dict(b=4, s=4, c=4, eps=0.1),
    ),
    look=partial(_look_who_moves, "tokens"),
)
def layer_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    *,
    over: tuple[int, ...] = (2,),
    correction: int = 0,
    root: str = "inside",
    centre: bool = True,
    keepdim: bool = True,
    exchanged: bool = False,
    shift_first: bool = False,
    scaled: Callable[[Tensor, Tensor], Tensor] = torch.mul,
    shifted: Callable[[Tensor, Tensor], Tensor] = torch.add,
) -> Tensor:
    """``layer_norm(x (b, S, C), scale (C,), shift (C,), eps) -> (b, S, C)``.

    Every token by itself: mean 0 and variance 1 over its channels (variance with 1/C, eps added to
    it), then times ``scale``, plus ``shift``.
    """
    mean, square = (v.mean(over, keepdim=keepdim) for v in (x, x.square()))
    variance = x.var(over, correction=correction, keepdim=keepdim)
    y = (x - mean if centre else x) / ROOTS[root](variance, square, eps)
    if exchanged:
        scale, shift = shift, scale
    return scaled(y + shift, scale) if shift_first else shifted(scaled(y, scale), shift)


# A sublayer


class _Bend(nn.Module):
    # Stands for a mixing MLP: (b, S, C) -> (b, S, C), and counts its calls.
    def __init__(self, matrix: Tensor, bias: Tensor):
        super().__init__()
        self.matrix, self.bias = nn.Parameter(matrix), nn.Parameter(bias)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(x @ self.matrix) + self.bias  # (b, S, C)


def _draw_sublayer(t: Trial) -> Inputs:
    b, s, c = t.choose(3, 3, 6)
    x = 2 * t.randn(b, s, c) + t.randn(c)
    norm, mix = nn.LayerNorm(c).to(x), _Bend(t.randn(c, c), t.randn(c))
    with torch.no_grad():
        norm.weight.copy_(t.randn(c))
        norm.bias.copy_(t.randn(c))
    return (x, norm, mix), dict(shape=tuple(x.shape), b=b, s=s, c=c)


SUBLAYER = (
    ("residual missing", lambda x, norm, mix: mix(norm(x))),
    ("residual from the normed input", lambda x, norm, mix: norm(x) + mix(norm(x))),
    ("un-normed mixing", lambda x, norm, mix: x + mix(x)),
    ("post-norm", lambda x, norm, mix: norm(x + mix(x))),
    ("norm of the sum", lambda x, norm, mix: norm(x + mix(norm(x)))),
    ("norm not used", lambda x, norm, mix: x + mix(F.layer_norm(x, x.shape[-1:]))),
    ("norm after mix", lambda x, norm, mix: x + norm(mix(x))),
    ("norm after mix: alone", lambda x, norm, mix: norm(mix(x))),
    ("norm after mix: both", lambda x, norm, mix: x + norm(mix(norm(x)))),
    ("norm after mix: both alone", lambda x, norm, mix: norm(mix(norm(x)))),
    ("normed twice", lambda x, norm, mix: x + mix(norm(norm(x)))),
    ("mix called twice", lambda x, norm, mix: x + mix(mix(norm(x)))),
    ("mix added twice", lambda x, norm, mix: x + 2 * mix(norm(x))),
    ("residual twice", lambda x, norm, mix: 2 * x + mix(norm(x))),
    ("residual twice: normed too", lambda x, norm, mix: x + norm(x) + mix(norm(x))),
    ("subtracted", lambda x, norm, mix: x - mix(norm(x))),
    ("subtracted: the other way", lambda x, norm, mix: mix(norm(x)) - x),
    ("halved", lambda x, norm, mix: (x + mix(norm(x))) / 2),
    ("multiplied", lambda x, norm, mix: x * mix(norm(x))),
    ("residual inside", lambda x, norm, mix: mix(x + norm(x))),
    ("mix not used", lambda x, norm, mix: norm(x)),
    ("mix not used: sum", lambda x, norm, mix: x + norm(x)),
    ("un-normed mixing: alone", lambda x, norm, mix: mix(x)),
    ("returns its input", lambda x, norm, mix: x),
    ("concatenated", lambda x, norm, mix: torch.cat([x, mix(norm(x))], dim=2)),
    ("concatenated: below", lambda x, norm, mix: torch.cat([x, mix(norm(x))], dim=1)),
)


def _look_at_calls(t: Trial, answer: Any, got: Any, args: Any, want: Tensor) -> Look:
    calls = args[2].calls - 1  # one of them is the check's own
    times = {0: "not at all", 1: "once"}.get(calls, f"{calls} times")
    return Look(lines=[t.line("calls", times=times)])


@exercise("lesson2", _draw_sublayer, SUBLAYER, look=_look_at_calls)
def sublayer(x: Tensor, norm: nn.Module, mix: nn.Module) -> Tensor:
    """``sublayer(x (b, S, C), norm, mix) -> (b, S, C)``: half a Mixer block.

    ``norm`` and ``mix`` are modules from tables to tables. What is mixed is normalised first; the
    skip connection carries the table as it came in.
    """
    return x + mix(norm(x))
