"""Checks of lesson 2, functions: the two MLPs, LayerNorm, and a sublayer with its skip."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mixer_lite.checks.deviations import Deviation, call_or_name, suspects
from mixer_lite.checks.trial import Suspect, Trial, Wrong, exercise, fail, nearly_equal

LESSON = "2 Two ways to mix"

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": F.gelu,
    "tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "hyperbolic": torch.tanh,
    "leaky": F.leaky_relu,
    "elu": F.elu,
    "erf": lambda x: x * (1 + torch.erf(x)) / 2,  # the root of two forgotten
    "cdf": lambda x: (1 + torch.erf(x / 2**0.5)) / 2,  # the factor x forgotten
    "none": lambda x: x,
}


def _turn(x: Tensor, how: str) -> Tensor:
    # (b, m, n) -> (b, n, m): really, by cutting the numbers anew, or not at all.
    if how == "reshape":
        return x.reshape(len(x), x.shape[2], x.shape[1])
    return x.transpose(1, 2) if how == "transpose" else x


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
    before: str = "",
    after: str = "",
    skip: bool = False,
    images: str = "apart",
) -> Tensor:
    """Two layers along the last axis of ``x``, turned before and after; (b, S, C) -> (b, S, C)."""

    def add(y: Tensor, bias: Tensor, how: str) -> Tensor:
        return y if how == "none" else y + (bias[:, None] if how == "across" else bias)

    y = F.layer_norm(x, x.shape[-1:]) if before == "norm" else x
    if weights == "columns":
        w1, w2 = w1.T, w2.T
    if weights == "exchanged":
        w1, b1, w2, b2 = w2, b2, w1, b1
    y = add(_turn(y, turn) @ w1.T, b1, first)  # (b, rows, D)
    y = ACTIVATIONS[act](y)
    y = _turn(add(y @ w2.T, b2, second), back)  # (b, S, C)
    if after:
        y = ACTIVATIONS[after](y)
    if skip:
        y = x + y
    return {"apart": y, "summed": y.sum(0), "first": y[0]}[images]


BENDS = {
    "tanh GELU": (
        "tanh",
        "Your GELU is the tanh approximation. It differs by less than 0.0005, which no accuracy "
        "would tell, but the exact GELU is x times the normal distribution: F.gelu(x).",
    ),
    "another GELU": (
        "quick",
        "Your GELU is the quick approximation x · sigmoid(1.702 x); use the exact one, F.gelu(x).",
    ),
    "ReLU for GELU": ("relu", "You bend with ReLU; a Mixer has GELU."),
    "SiLU for GELU": ("silu", "You bend with SiLU (swish); a Mixer has GELU."),
    "sigmoid for GELU": ("sigmoid", "You bend with a sigmoid; a Mixer has GELU."),
    "tanh for GELU": ("hyperbolic", "You bend with tanh; a Mixer has GELU."),
    "leaky ReLU for GELU": ("leaky", "You bend with a leaky ReLU; a Mixer has GELU."),
    "ELU for GELU": ("elu", "You bend with ELU; a Mixer has GELU."),
    "GELU without its root": (
        "erf",
        "In your GELU the √2 is missing: the normal distribution is (1 + erf(x / √2)) / 2.",
    ),
    "GELU without its x": (
        "cdf",
        "In your GELU the factor x is missing: it is x times the normal distribution of x.",
    ),
    "no activation": (
        "none",
        "There is no GELU between your two layers. Two matrices after each other are only one.",
    ),
}  # fmt: skip


def _mlp_mistakes(axis: str, rows: str) -> tuple[Deviation, ...]:
    # What goes wrong in both; `axis`: along which the MLP runs, `rows`: which it leaves apart.
    return (
        Deviation(
            "residual included",
            dict(skip=True),
            "You add the input to the result. That is the skip connection, which belongs to the "
            "sublayer around it; the mixing alone is the MLP.",
        ),
        Deviation(
            "LayerNorm included",
            dict(before="norm"),
            "You normalise the input first. LayerNorm belongs to the sublayer around the mixing; "
            "the mixing alone is the MLP.",
        ),
        *(Deviation(name, dict(act=act), says) for name, (act, says) in BENDS.items()),
        Deviation(
            "activation in the wrong place",
            dict(act="none", after="exact"),
            "Your GELU comes after the second layer; it belongs between the two.",
        ),
        Deviation(
            "activation twice",
            dict(after="exact"),
            "There is a GELU after your second layer as well. The second layer ends with its bias.",
        ),
        Deviation(
            "biases missing",
            dict(first="none", second="none"),
            "Neither bias is added: each of the two layers has one.",
        ),
        Deviation(
            "first bias missing",
            dict(first="none"),
            "b1 is not added: it comes after W1, before the GELU.",
        ),
        Deviation("second bias missing", dict(second="none"), "b2 is not added: it comes last."),
        Deviation(
            "bias along the wrong axis",
            dict(first="across", second="across"),
            f"Your biases lie along the wrong axis. There is one number for each hidden unit (b1) "
            f"and for each {axis[:-1]} (b2), the same for all {rows}: look at which axis is last "
            f"where you add it, and use b[:, None] where it is the last but one.",
        ),
        Deviation(
            "bias along the wrong axis",
            dict(first="across"),
            "b1 lies along the wrong axis: it has one number for each hidden unit. Use b1[:, None] "
            "where the hidden units are the last axis but one.",
        ),
        Deviation(
            "bias along the wrong axis",
            dict(second="across"),
            f"b2 lies along the wrong axis: it has one number for each {axis[:-1]}. Use "
            f"b2[:, None] where the {axis} are the last axis but one.",
        ),
        Deviation(
            "weights transposed",
            dict(weights="columns"),
            f"You use the weights the wrong way round. A row of W1 is one hidden unit, with a "
            f"weight for each of the {axis}: with the {axis} in the last axis it is x @ W1.T.",
        ),
        Deviation(
            "layers exchanged",
            dict(weights="exchanged"),
            "You apply the second layer first: W1 and b1 come before the GELU, W2 and b2 after.",
        ),
        Deviation(
            "images mixed",
            dict(images="summed"),
            "You add up the images of the batch: an einsum sums over every letter that is missing "
            "on its right side, so keep the b.",
        ),
        Deviation(
            "first image only",
            dict(images="first"),
            "Your result is that of the first image alone; keep the axis of the batch.",
        ),
    )


TOKEN_MIXING = (
    Deviation(
        "both MLPs over channels",
        dict(turn="none", back="none"),
        "Your MLP runs along the channels of each token. Token mixing runs along the tokens of "
        "each channel: turn the table first, (b, S, C) to (b, C, S), and back afterwards.",
    ),
    Deviation(
        "reshape for transpose",
        dict(turn="reshape", back="reshape"),
        "You turn the table by cutting its numbers anew, there and back. A reshape moves no "
        "number, so what you call a channel is a mixture: use transpose, permute or rearrange.",
    ),
    Deviation(
        "reshape for transpose",
        dict(turn="reshape"),
        "You turn the table by cutting its numbers anew. A reshape moves no number: use "
        "transpose, permute or rearrange.",
    ),
    Deviation(
        "reshape for transpose",
        dict(back="reshape"),
        "You turn the table properly, but back by cutting its numbers anew. A reshape moves no "
        "number: use transpose, permute or rearrange both times.",
    ),
    Deviation(
        "not turned back",
        dict(back="none"),
        "Your result is still turned, (b, C, S): turn it back after the MLP.",
    ),
    *_mlp_mistakes("tokens", "channels"),
)

CHANNEL_MIXING = (
    Deviation(
        "both MLPs over tokens",
        dict(turn="transpose", back="transpose"),
        "You turn the table, so that your MLP runs along the tokens. Channel mixing runs along "
        "the channels of each token, which is the last axis already.",
    ),
    Deviation(
        "turned for nothing",
        dict(back="transpose"),
        "The MLP is right, but afterwards you turn the table: channels are the last axis before "
        "and after.",
    ),
    Deviation(
        "reshape for transpose",
        dict(back="reshape"),
        "The MLP is right, but afterwards you cut the table anew. It has its shape already.",
    ),
    *_mlp_mistakes("channels", "tokens"),
)


class _Crossing(NamedTuple):
    # Who moves whom that should not, or does not move whom it should.
    mistake: str
    says: str
    pair: str  # one such pair, in words
    pictures: dict[str, np.ndarray]  # of one image: rows are outputs, columns inputs, by token


def _crossing(
    t: Trial, function: Callable[[Tensor], Any], x: Tensor, apart: str
) -> _Crossing | None:
    # `apart` names the axis that must not be crossed, "channels" or "tokens".
    moved = t.moved(function, x, "the result")  # (b, S, C, b, S, C)
    image, token, channel = (torch.eye(n, dtype=torch.bool) for n in x.shape)
    same = {
        "channels": channel[None, None, :, None, None, :],
        "tokens": token[None, :, None, None, :, None],
    }[apart]
    may = (image[:, None, None, :, None, None] & same).expand_as(moved)
    crossing, silent = moved & ~may, may & ~moved
    pictures = {
        name: rearrange(support[0, :, :, 0], "s c s2 c2 -> (s c) (s2 c2)").double().numpy()
        for name, support in (("expected", may), ("yours", moved))
    }
    if bool(crossing.any()):
        b, s, c, b2, s2, c2 = crossing.nonzero()[0].tolist()
        if b != b2:
            pair = f"changing token {s2} of image {b2} changed token {s} of image {b}; it must not"
            says = "No image of a batch may hear of another; in yours they do."
            return _Crossing("mixes images", says, pair, {})
        pair = f"changing channel {c2} of token {s2} changed channel {c} of token {s}; it must not"
        says = f"No {apart[:-1]} may hear of another; in yours they do."
        return _Crossing(f"mixes {apart}", says, pair, pictures)
    if 2 * int(silent.sum()) >= int(may.sum()):
        _, s, c, _, s2, c2 = silent.nonzero()[0].tolist()
        mixed = {"channels": "tokens", "tokens": "channels"}[apart]
        pair = (
            f"changing channel {c2} of token {s2} did not change channel {c} of token {s}; it must"
        )
        says = f"Your {mixed} do not all hear of each other."
        return _Crossing(f"does not mix {mixed}", says, pair, pictures)
    return None


def _judge(
    t: Trial,
    answer: Any,
    args: Sequence[Any],
    equal: Sequence[Any],
    compute: Callable[..., Tensor],
    table: Sequence[Deviation],
    apart: str,
    sizes: str,
) -> None:
    # Pass, or end the check: known mistakes by value, unknown ones by who moves whom.
    x, *rest = args
    got = t.tensor(call_or_name(t, answer, args, equal, compute, table, sizes), "the result")
    want = compute(*args)
    known = suspects(functools.partial(compute, *args), table)
    crossing = None
    if got.shape == want.shape and not nearly_equal(got, want):
        again = t.call(answer, *args)
        if not nearly_equal(t.tensor(again, "the result").nan_to_num(), got.nan_to_num()):
            fail(
                "not the same twice",
                "Two calls with the same numbers gave two results: is there a dropout, or "
                "something random, or a module with weights of its own?",
                sizes,
            )
        # NaN and numbers out of all proportion would hide what moves.
        if bool((got.abs() < 1e3 * want.abs().max()).all()):
            crossing = _crossing(t, lambda v: answer(v, *rest), x[:2].clone(), apart)
    if crossing:
        known.append(Suspect(crossing.mistake, got, crossing.says))
    try:
        t.same(got, want, "the result", "(b, S, C)", known, sizes)
    except Wrong as wrong:
        if not crossing:
            raise
        lines = (*wrong.finding.evidence, crossing.pair)
        if crossing.pictures:
            lines += ("drawn: which outputs (rows) hear of which inputs (columns), by token",)
        fail(wrong.finding.mistake, wrong.finding.says, *lines, **crossing.pictures)


def _draw(t: Trial, n: int, b: int, s: int, c: int, d: int) -> tuple[Tensor, ...]:
    # x (b, S, C) and an MLP n -> d -> n, of such a size that every GELU is in its bend.
    weights = t.randn(d, n) * (2 / n) ** 0.5, t.randn(d), t.randn(n, d) / d**0.5, t.randn(n)
    return t.randn(b, s, c), *weights


@exercise(
    lesson=LESSON,
    takes="token_mixing(x, w1, b1, w2, b2)",
    hints=(
        "Begin with one channel of one image: a column of S numbers. W1 makes D_S sums of it, "
        "GELU bends them, W2 makes S numbers again. In a loop over images and channels, that is "
        "already an answer.",
        "`F.linear` works along the last axis. Along which axis must yours work, and how do you "
        "bring that axis to the end?",
        "Turn the table with `rearrange`, which says what it does, apply the two layers with a "
        "GELU between, and turn the result back.",
    ),
)
def token_mixing(t: Trial, answer: Any) -> None:
    """``token_mixing(x (b, S, C), w1 (D_S, S), b1 (D_S,), w2 (S, D_S), b2 (S,)) -> (b, S, C)``.

    The MLP alone, the same for all channels; exact GELU; no LayerNorm and no skip connection.
    """
    compute = functools.partial(_mlp, turn="transpose", back="transpose")
    for _ in range(t.rounds):
        b, s, c, d = t.sizes(4, 2, 6)
        args, equal = _draw(t, s, b, s, c, d), _draw(t, 4, 4, 4, 4, 4)
        sizes = f"{b} images, S = {s} tokens, C = {c} channels, D_S = {d}"
        _judge(t, answer, args, equal, compute, TOKEN_MIXING, "channels", sizes)


@exercise(
    lesson=LESSON,
    takes="channel_mixing(x, w1, b1, w2, b2)",
    hints=(
        "Begin with one token: a row of C numbers. W1 makes D_C sums of it, GELU bends them, W2 "
        "makes C numbers again.",
        "The same for every row of the table. Which axis of (b, S, C) does the MLP run along, and "
        "does anything have to be turned?",
        "`F.linear(x, w, b)` multiplies every row of x with the rows of w, and adds b.",
    ),
)
def channel_mixing(t: Trial, answer: Any) -> None:
    """``channel_mixing(x (b, S, C), w1 (D_C, C), b1 (D_C,), w2 (C, D_C), b2 (C,)) -> (b, S, C)``.

    The MLP alone, the same for all tokens; exact GELU; no LayerNorm and no skip connection.
    """
    compute = functools.partial(_mlp, turn="none", back="none")
    for _ in range(t.rounds):
        b, s, c, d = t.sizes(4, 2, 6)
        args, equal = _draw(t, c, b, s, c, d), _draw(t, 4, 4, 4, 4, 4)
        sizes = f"{b} images, S = {s} tokens, C = {c} channels, D_C = {d}"
        _judge(t, answer, args, equal, compute, CHANNEL_MIXING, "tokens", sizes)


def _norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    *,
    over: tuple[int, ...] = (2,),
    correction: int = 0,
    root: str = "inside",
    centre: bool = True,
    times: str = "scale",
    plus: str = "shift",
    keepdim: bool = True,
) -> Tensor:
    mean = x.mean(over, keepdim=keepdim)
    variance = x.var(over, correction=correction, keepdim=keepdim)
    bottom = {
        "inside": lambda: (variance + eps).sqrt(),
        "outside": lambda: variance.sqrt() + eps,
        "none": lambda: variance.sqrt(),
        "fixed": lambda: (variance + 1e-5).sqrt(),
        "no root": lambda: variance + eps,
        "square": lambda: (variance + eps**2).sqrt(),
        "mean square": lambda: (x.square().mean(over, keepdim=keepdim) + eps).sqrt(),
        "no division": lambda: torch.ones(()).to(x),
    }[root]()
    y = (x - mean if centre else x) / bottom
    if plus == "before":
        return (y + shift) * scale
    factor, summand = {"scale": scale, "shift": shift, "1 + scale": 1 + scale}, {"shift": shift}
    return y * factor.get(times, 1) + (scale if plus == "scale" else summand.get(plus, 0))


LAYER_NORM = (
    Deviation(
        "over tokens",
        dict(over=(1,)),
        "Your mean and variance run over the tokens of each channel. LayerNorm takes them over "
        "the channels of each token: the last axis.",
    ),
    Deviation(
        "over tokens and channels",
        dict(over=(1, 2)),
        "You take one mean and one variance for the whole table; each token has its own, over its "
        "channels.",
    ),
    Deviation(
        "batch statistics",
        dict(over=(0, 1)),
        "You take mean and variance of each channel over all images and tokens: that is BatchNorm. "
        "LayerNorm takes them over the channels of each token, and no image hears of another.",
    ),
    Deviation(
        "over images",
        dict(over=(0,)),
        "Your mean and variance run over the images of the batch; no image may hear of another. "
        "Take them over the channels of each token.",
    ),
    Deviation(
        "one mean for all",
        dict(over=(0, 1, 2)),
        "You take one mean and one variance of all numbers there are; each token of each image "
        "has its own, over its channels.",
    ),
    Deviation(
        "unbiased variance",
        dict(correction=1),
        "You divide by C - 1 for the variance, which is what torch.var and torch.std do when not "
        "told otherwise; LayerNorm divides by C: unbiased=False.",
    ),
    Deviation(
        "eps outside the root",
        dict(root="outside"),
        "You add eps to the standard deviation; it is added to the variance, before the root is "
        "taken.",
    ),
    *(
        Deviation(
            "eps ignored",
            dict(root=root),
            "The eps that is given is not used; there is none, or a layer's default. Add the one "
            "that is given to the variance, before you take the root.",
        )
        for root in ("none", "fixed")
    ),
    Deviation(
        "eps squared", dict(root="square"), "You square eps; it is added to the variance as it is."
    ),
    Deviation(
        "root missing",
        dict(root="no root"),
        "You divide by the variance; the deviation is its square root.",
    ),
    Deviation(
        "mean of squares",
        dict(root="mean square"),
        "You take away the mean, but divide by the root of the mean square of the numbers as they "
        "came. The variance is the mean square after the mean is taken away.",
    ),
    Deviation(
        "mean kept",
        dict(centre=False, root="mean square"),
        "You divide by the root mean square and take no mean away: that is RMSNorm. LayerNorm "
        "takes the mean away first.",
    ),
    Deviation(
        "mean kept",
        dict(centre=False),
        "The mean is not taken away before you divide by the deviation.",
    ),
    Deviation(
        "not divided",
        dict(root="no division"),
        "The mean is taken away, but nothing is divided by the deviation.",
    ),
    Deviation(
        "scale and shift missing",
        dict(times="none", plus="none"),
        "Scale and shift are not used: after normalising, each channel is multiplied by its scale, "
        "and its shift is added.",
    ),
    Deviation("scale missing", dict(times="none"), "The scale is not used: multiply by it."),
    Deviation("shift missing", dict(plus="none"), "The shift is not added."),
    Deviation(
        "scale and shift exchanged",
        dict(times="shift", plus="scale"),
        "Scale and shift are exchanged: multiply by scale, then add shift.",
    ),
    Deviation(
        "shift before scale",
        dict(plus="before"),
        "You add the shift before you multiply by the scale; it comes last.",
    ),
    Deviation(
        "one plus scale",
        dict(times="1 + scale"),
        "You multiply by 1 + scale; multiply by the scale itself.",
    ),
    Deviation(
        "axis lost",
        dict(keepdim=False),
        "Mean and variance have lost their axis, (b, S), and then line up with the wrong axes of "
        "x, (b, S, C): keepdim=True keeps it with length 1.",
    ),
)


@exercise(
    lesson=LESSON,
    takes="layer_norm(x, scale, shift, eps)",
    hints=(
        "Take one token: C numbers. From each take away their mean; divide by their deviation.",
        "The deviation is the root of the variance, and the variance is the mean of the squares, "
        "divided by C and not by C - 1. Where does eps go, so that a token of equal numbers does "
        "no harm?",
        "Afterwards each channel is multiplied by its own scale, and its own shift is added. "
        "`keepdim=True` keeps means in line with what they are taken from.",
    ),
)
def layer_norm(t: Trial, answer: Any) -> None:
    """``layer_norm(x (b, S, C), scale (C,), shift (C,), eps) -> (b, S, C)``.

    Every token by itself: mean 0 and variance 1 over its channels (variance with 1/C, eps added to
    it), then times ``scale``, plus ``shift``.
    """
    for _ in range(t.rounds):
        b, s, c = t.sizes(3, 3, 6)
        loud = 0.5 + t.randn(b, s, 1).abs()
        x = loud * t.randn(b, s, c) + t.randn(b, s, 1) + t.randn(c)
        eps = round(t.random.uniform(0.05, 0.3), 2)  # large, so that one sees where it goes
        args = (x, t.randn(c), t.randn(c), eps)
        equal = (t.randn(4, 4, 4), t.randn(4), t.randn(4), eps)
        sizes = f"{b} images, S = {s} tokens, C = {c} channels, eps = {eps}"
        _judge(t, answer, args, equal, _norm, LAYER_NORM, "tokens", sizes)


class _Bend(nn.Module):
    # Stands for a mixing MLP: (b, S, C) -> (b, S, C), and counts how often it is asked.
    def __init__(self, matrix: Tensor, bias: Tensor):
        super().__init__()
        self.matrix, self.bias = nn.Parameter(matrix), nn.Parameter(bias)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(x @ self.matrix) + self.bias  # (b, S, C)


def _sublayer_mistakes(x: Tensor, norm: nn.Module, mix: nn.Module) -> list[Suspect]:
    n, m = norm(x), mix(x)
    y = mix(n)  # what a sublayer adds to x
    late = "You mix first and normalise the result. The order is norm, then mix, then the addition."
    both = "Do not normalise what mix gives; only what goes into mix is normalised."
    rows: list[tuple[str, Any, str]] = [
        (
            "residual missing",
            y,
            "There is no skip connection: mix replaces the table, where it should only add to it.",
        ),
        (
            "residual from the normed input",
            n + y,
            "Your skip connection carries norm(x). It should carry x as it came in, before "
            "LayerNorm.",
        ),
        (
            "un-normed mixing",
            x + m,
            "You mix x itself, and norm is not used: it is norm(x) that goes into mix.",
        ),
        (
            "post-norm",
            norm(x + m),
            "You normalise after the addition, as the first transformers did. A Mixer normalises "
            "what goes into mix, and nothing after the addition.",
        ),
        (
            "norm of the sum",
            norm(x + y),
            "The inner part is right, but you normalise once more after the addition: the sum "
            "stays as it is.",
        ),
        (
            "norm not used",
            x + mix(F.layer_norm(x, x.shape[-1:])),
            "You normalise with a LayerNorm of your own, without scale and shift; use the norm "
            "that is given.",
        ),
        ("norm after mix", x + norm(m), late),
        ("norm after mix", norm(m), f"{late} And there is no skip connection."),
        ("norm after mix", x + norm(y), both),
        ("norm after mix", norm(y), f"{both} And there is no skip connection."),
        ("normed twice", x + mix(norm(n)), "You normalise twice before mixing; once is enough."),
        ("mix called twice", x + mix(y), "mix is called on its own result: once is enough."),
        ("mix added twice", x + 2 * y, "What mix gives is added twice."),
        ("residual twice", 2 * x + y, "x is added twice."),
        ("residual twice", x + n + y, "x and norm(x) are both added to what mix gives; only x is."),
        ("subtracted", x - y, "What mix gives is taken away from x; it is added."),
        ("subtracted", y - x, "x is taken away from what mix gives; it is added."),
        ("halved", (x + y) / 2, "You take the mean of x and what mix gives; take their sum."),
        (
            "multiplied",
            x * y,
            "You multiply x by what mix gives, as a gate does; a skip connection adds.",
        ),
        ("residual inside", mix(x + n), "The addition is inside: mix(x + norm(x)). It comes last."),
        ("mix not used", n, "Your result is norm(x): mix is not used, and nothing is added."),
        ("mix not used", x + n, "mix is not used: it takes norm(x), and x is added to its result."),
        (
            "un-normed mixing",
            m,
            "Your result is mix(x): without norm, and without skip connection.",
        ),
        ("returns its input", x, "Your result is x itself: nothing has been added to it."),
        (
            "concatenated",
            torch.cat([x, y], dim=2),
            "You put the two tables side by side; add them number by number.",
        ),
        (
            "concatenated",
            torch.cat([x, y], dim=1),
            "You put one table below the other; add them number by number.",
        ),
    ]
    return [Suspect(*row) for row in rows]


@exercise(
    lesson=LESSON,
    takes="sublayer(x, norm, mix)",
    hints=(
        "Read the first line of the paper's equation 1 aloud: U = X + ... Which X, the one before "
        "LayerNorm or the one after?",
        "`norm` and `mix` are functions of a table. What goes into `norm`? What goes into `mix`? "
        "What is added to what `mix` gives?",
        "Nothing is normalised after the addition. Each of the two is called once.",
    ),
)
def sublayer(t: Trial, answer: Any) -> None:
    """``sublayer(x (b, S, C), norm, mix) -> (b, S, C)``: half a Mixer block.

    ``norm`` and ``mix`` are modules from tables to tables. What is mixed is normalised first; the
    skip connection carries the table as it came in.
    """
    for _ in range(t.rounds):
        b, s, c = t.sizes(3, 3, 6)
        x = 2 * t.randn(b, s, c) + t.randn(c)
        norm, mix = nn.LayerNorm(c).to(x), _Bend(t.randn(c, c), t.randn(c))
        with torch.no_grad():
            norm.weight.copy_(t.randn(c))
            norm.bias.copy_(t.randn(c))
        got = t.call(answer, x, norm, mix)
        times = {0: "not at all", 1: "once"}.get(mix.calls, f"{mix.calls} times")
        with torch.no_grad():
            t.same(
                got,
                x + mix(norm(x)),
                "the result",
                "(b, S, C)",
                _sublayer_mistakes(x, norm, mix),
                f"x {tuple(x.shape)}: {b} images, S = {s} tokens, C = {c} channels; your code "
                f"called mix {times}",
            )
