"""Checks of lesson 2, modules: the MLP and the Mixer block, and what can be wrong in them.

A row's second part breaks our own module, in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_lite.check.engine.broken import Breaks, Way, change, runs
from mixer_lite.check.engine.exercise import Row, exercise
from mixer_lite.check.engine.instances import made, read_block, read_mlp
from mixer_lite.check.engine.modules import EPS, Compared
from mixer_lite.check.engine.trial import Trial, Wrong
from mixer_lite.model import MixerBlock, MlpBlock

# An MLP


def _bends(function: Callable[[Tensor], Tensor]) -> Way:
    return Way("mlp", dict(bend=function))


def _square(m: MlpBlock) -> nn.Linear:
    return nn.Linear(m.fc1.in_features, m.fc1.in_features)


def _tied(m: MlpBlock) -> None:
    change(m.fc2, weight=None)
    runs(lambda m, x: F.linear(m.act(m.fc1(x)), m.fc1.weight.T, m.fc2.bias))(m)


def _three_layers(m: MlpBlock) -> None:
    change(m, more=nn.Linear(m.fc1.out_features, m.fc1.out_features))
    runs(lambda m, x: m.fc2(F.gelu(m.more(F.gelu(m.fc1(x))))))(m)


def _norm_inside(m: MlpBlock) -> None:
    change(m, norm=nn.LayerNorm(m.fc1.in_features, eps=EPS))
    runs(lambda m, x: m.fc2(m.act(m.fc1(m.norm(x)))))(m)


def _without_second(m: MlpBlock) -> None:
    change(m, fc2=nn.Identity())
    runs(lambda m, x: m.act(m.fc1(x)))(m)


def _one_layer(m: MlpBlock) -> None:
    change(m, fc1=_square(m))
    _without_second(m)


MLP: Sequence[Row] = (
    ("ReLU", _bends(F.relu)),
    ("tanh GELU", _bends(lambda x: F.gelu(x, approximate="tanh"))),
    ("another nonlinearity", _bends(F.silu)),
    ("approximate GELU", _bends(lambda x: x * torch.sigmoid(1.702 * x))),
    ("x times erf", _bends(lambda x: x * torch.erf(x / math.sqrt(2)))),
    ("no nonlinearity", _bends(lambda x: x)),
    ("GELU after both layers", Way("mlp", dict(last=F.gelu))),
    ("GELU before the first layer", Way("mlp", dict(first=F.gelu, bend=lambda x: x))),
    ("GELU after the second layer", Way("mlp", dict(last=F.gelu, bend=lambda x: x))),
    ("skip inside the MLP", Way("mlp", dict(skip=True))),
    ("biases missing", lambda m: (change(m.fc1, bias=None), change(m.fc2, bias=None))),
    ("bias missing: first", lambda m: change(m.fc1, bias=None)),
    ("bias missing: second", lambda m: change(m.fc2, bias=None)),
    ("hidden width ignored", lambda m: change(m, fc1=_square(m), fc2=_square(m))),
    ("tied layers", _tied),
    ("a layer too many", _three_layers),
)

MLP_ALONE: Sequence[Row] = (
    *MLP,
    ("LayerNorm inside the MLP", _norm_inside),
    ("a layer missing: second", _without_second),
    ("a layer missing", _one_layer),
    ("softmax in the MLP", Way("mlp", dict(last=lambda x: x.softmax(-1)))),
)


# A block


class _Turned(nn.Module):
    # A module over tokens in place of channels: (b, S, C) -> (b, S, C).
    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mT).mT


class _Untied(nn.Module):
    # A separate MLP for each channel: (b, C, S) -> (b, C, S).
    def __init__(self, c: int, s: int, d: int):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.ones(c, s, d)), nn.Parameter(torch.ones(c, d))
        self.w2, self.b2 = nn.Parameter(torch.ones(c, d, s)), nn.Parameter(torch.ones(c, s))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(torch.einsum("bcs,csd->bcd", x, self.w1) + self.b1)
        return torch.einsum("bcd,cds->bcs", x, self.w2) + self.b2


class _EachItsOwn(nn.Module):
    def __init__(self, mlps: Sequence[nn.Module]):
        super().__init__()
        self.mlps = nn.ModuleList(mlps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([mlp(x[:, c]) for c, mlp in enumerate(self.mlps)], dim=1)


def _size(b: MixerBlock) -> dict[str, int]:
    tokens, channels = b.mlp_tokens.fc1, b.mlp_channels.fc1
    hidden = dict(D_S=tokens.out_features, D_C=channels.out_features)
    return dict(S=tokens.in_features, C=channels.in_features, **hidden)


def _mlps(tokens: str, channels: str) -> Breaks:
    # MLPs of other sizes; "S D_C" in place of the token MLP is one over S of width D_C.
    def breaks(b: MixerBlock) -> None:
        size = _size(b)
        for name, text in (("mlp_tokens", tokens), ("mlp_channels", channels)):
            dim, hidden = (size[letter] for letter in text.split())
            setattr(b, name, MlpBlock(dim=dim, hidden_dim=hidden))
        Way("block", dict(axes=tokens[0] + channels[0]))(b)

    return breaks


def _norm_of(length: str, which: str = "both") -> Breaks:
    # LayerNorms over tokens.
    def breaks(b: MixerBlock) -> None:
        change(b, norm1=_Turned(nn.LayerNorm(_size(b)[length], eps=EPS)))
        if which == "both":
            change(b, norm2=_Turned(nn.LayerNorm(_size(b)[length], eps=EPS)))

    return breaks


def _untied(b: MixerBlock) -> None:
    size = _size(b)
    change(b, mlp_tokens=_Untied(size["C"], size["S"], size["D_S"]))


def _each_its_own(b: MixerBlock) -> None:
    size = _size(b)
    mlps = [MlpBlock(dim=size["S"], hidden_dim=size["D_S"]) for _ in range(size["C"])]
    change(b, mlp_tokens=_EachItsOwn(mlps))


def _without_channels(b: MixerBlock) -> None:
    change(b, norm2=nn.Identity(), mlp_channels=nn.Identity())
    Way("block", dict(half="first"))(b)


def _without_tokens(b: MixerBlock) -> None:
    change(b, norm1=nn.Identity(), mlp_tokens=nn.Identity())
    Way("block", dict(half="second"))(b)


def each_norm(make: Callable[[nn.LayerNorm], nn.Module]) -> Breaks:
    """Another module in place of every LayerNorm."""

    def breaks(module: nn.Module) -> None:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(parent, name, make(child))

    return breaks


def _whole_table(b: MixerBlock) -> None:
    s = _size(b)["S"]
    each_norm(lambda n: nn.LayerNorm((s, *n.normalized_shape), eps=EPS))(b)


def _wired(reorders: bool = False, **how: Any) -> Way:
    return Way("block", {name.replace("_", " "): value for name, value in how.items()}, reorders)


BLOCK: Sequence[Row] = (
    ("missing first residual", _wired(skip_1="none")),
    ("missing second residual", _wired(skip_2="none")),
    ("no residuals", _wired(skip_1="none", skip_2="none")),
    ("second skip from the start", _wired(skip_2="start")),
    ("input left out", _wired(skip_2="u")),
    ("one skip around both", _wired(skip_1="none", skip_2="start")),
    ("halves side by side", _wired(side=True)),
    ("channels first", _wired(channels_first=True, reorders=True)),
    ("post-norm", _wired(norm="after both", reorders=True)),
    ("norm after the MLP", _wired(norm="after", reorders=True)),
    ("skip from the normalised", _wired(skip_1="norm", skip_2="norm")),
    ("first skip from the normalised", _wired(skip_1="norm")),
    ("second skip from the normalised", _wired(skip_2="norm")),
    ("reshape for transpose", _wired(into=True, back=True)),
    ("reshape for transpose: back", _wired(back=True)),
    ("reshape for transpose: there", _wired(into=True)),
    *(("branch divided", _wired(keep=keep)) for keep in (0.9, 0.8, 0.7, 0.5)),
    ("shared LayerNorm", lambda b: change(b, norm2=b.norm1)),
    ("un-normed channel MLP", lambda b: change(b, norm2=nn.Identity())),
    ("un-normed token MLP", lambda b: change(b, norm1=nn.Identity())),
    ("no LayerNorm", lambda b: change(b, norm1=nn.Identity(), norm2=nn.Identity())),
    ("LayerNorm over tokens", _norm_of("S")),
    ("LayerNorm over tokens: first", _norm_of("S", "first")),
    ("LayerNorm over the whole table", _whole_table),
    ("swapped widths", _mlps("S D_C", "C D_S")),
    ("both widths C", _mlps("S C", "C C")),
    ("both MLPs over channels", _mlps("C D_S", "C D_C")),
    ("both MLPs over tokens", _mlps("S D_S", "S D_C")),
    ("the MLPs' axes swapped", _mlps("C D_S", "S D_C")),
    ("wrong hidden width", _mlps("S D_C", "C D_C")),
    ("wrong hidden width: C", _mlps("S C", "C D_C")),
    ("wrong hidden width: channels", _mlps("S D_S", "C D_S")),
    ("untied token MLP", _untied),
    ("untied token MLP", _each_its_own),
    ("channel mixing missing", _without_channels),
    ("token mixing missing", _without_tokens),
)


# Every LayerNorm, in a block or in a whole model


def _formula(formula: Callable[[Tensor], Tensor]) -> Way:
    return Way("norm", dict(formula=formula))


def _standardised(x: Tensor, *, correction: int = 0, outside: bool = False) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=correction, keepdim=True)
    return (x - mean) / (var.sqrt() + EPS if outside else (var + EPS).sqrt())


def _plain(norm: nn.LayerNorm, **how: Any) -> nn.Module:
    return nn.LayerNorm(norm.normalized_shape, eps=EPS, **how)


NORMS: Sequence[Row] = (
    ("LayerNorm without scale and shift", each_norm(partial(_plain, elementwise_affine=False))),
    ("LayerNorm without shift", each_norm(partial(_plain, bias=False))),
    ("BatchNorm", _formula(lambda x: x / (1 + 1e-5) ** 0.5)),
    ("variance over n - 1", _formula(partial(_standardised, correction=1))),
    ("no mean taken away", _formula(lambda x: x / (x.square().mean(-1, True) + EPS) ** 0.5)),
    ("LayerNorm over tokens: same scales", _formula(lambda x: _standardised(x.mT).mT)),
    (
        "LayerNorm over the whole table: same scales",
        _formula(lambda x: _standardised(x.flatten(1)).reshape(x.shape)),
    ),
    ("eps outside the root", _formula(partial(_standardised, outside=True))),
    (
        "eps outside the root: and torch.std",
        _formula(partial(_standardised, correction=1, outside=True)),
    ),
)


def _in_mlps(mlps: Sequence[str], breaks: Breaks, b: MixerBlock) -> None:
    for mlp in mlps:
        breaks(getattr(b, mlp))


def _of_mlps(which: str) -> Iterator[Row]:
    # The mistakes of an MLP, made in one or both of a block.
    mlps = ["mlp_tokens", "mlp_channels"] if which == "both" else [f"mlp_{which}"]
    for name, breaks in MLP:
        row = f"{name}{', ' if ':' in name else ': '}{which}"
        if isinstance(breaks, Way):
            yield row, replace(breaks, part="mlp" if which == "both" else mlps[0])
        else:
            yield row, partial(_in_mlps, mlps, breaks)


MLP_OF_BOTH = tuple(_of_mlps("both"))
MLP_OF_ONE = (*_of_mlps("tokens"), *_of_mlps("channels"))
OF_BLOCK = (*BLOCK, *MLP_OF_BOTH, *NORMS)


def _judge_mlp(t: Trial, answer: Any) -> None:
    torch.set_default_dtype(torch.float64)
    for _ in range(t.rounds):
        b, n, dim, hidden = t.choose(4, 2, 9)
        module, sizes = made(t, answer, dict(dim=dim, hidden_dim=hidden), read_mlp)
        x = t.randn(b, n, sizes["dim"])
        t.sizes = dict(**sizes, shape=tuple(x.shape))
        build = partial(MlpBlock, **sizes)
        compared = Compared(t, module, build, x, MLP_ALONE, sizes)
        try:
            compared.against_ours()
        except Wrong as wrong:
            vague = ("raises", "wrong shape", "wrong values", "wrong parameters")
            if wrong.finding.mistake in vague:
                _other_axis(t, compared)
                _rows_mixed(t, compared)
            raise


def _other_axis(t: Trial, compared: Compared) -> None:
    turned = compared.x.mT.contiguous()
    try:
        fits = compared.run(turned).shape == turned.shape
    except Wrong:
        return
    if fits:
        shapes = dict(turned=tuple(turned.shape), due=tuple(compared.x.shape))
        t.fail("wrong axis", t.line("takes", **shapes))


def _rows_mixed(t: Trial, compared: Compared) -> None:
    # An MLP over the last axis treats every row by itself.
    x = compared.x[:1]
    try:
        heard = t.moved(compared.theirs, x)  # (1, n, dim, 1, n, dim)
    except Wrong:
        return
    if heard.shape != (*x.shape, *x.shape):
        return
    rows = heard.any(-1).any(2)[0, :, 0].fill_diagonal_(False)  # (n, n): out, in
    if bool(rows.any()):
        out_row, in_row = rows.nonzero()[0].tolist()
        t.fail("rows mixed", out_row=out_row, in_row=in_row)


def _judge_block(t: Trial, answer: Any) -> None:
    torch.set_default_dtype(torch.float64)
    for _ in range(t.rounds):
        s, c, d_s, d_c = t.choose(4, 4, 12)
        given = dict(num_tokens=s, hidden_dim=c, tokens_mlp_dim=d_s, channels_mlp_dim=d_c)
        module, sizes = made(t, answer, given, read_block)
        s, c, d_s, d_c = (sizes[name] for name in given)
        t.sizes = letters = dict(S=s, C=c, D_S=d_s, D_C=d_c)
        x = t.randn(t.random.randint(2, 3), s, c)
        build = partial(MixerBlock, **sizes)
        Compared(t, module, build, x, OF_BLOCK, letters, MLP_OF_ONE).against_ours()


@exercise("lesson2", None, MLP_ALONE, judge=_judge_mlp, modules=True)
def mlp_block(**sizes: Any) -> nn.Module:
    """``MlpBlock(dim=, hidden_dim=)``, a module ``(b, n, dim) -> (b, n, dim)``.

    Two linear layers with biases, ``dim -> hidden_dim -> dim``, and an exact GELU between them.
    No LayerNorm, no skip connection, no dropout in eval mode. A finished module serves as well as a
    class, ``check.mlp_block(Mlp(8, 24))``; ``like`` gives sizes that cannot be read off it.
    """
    return MlpBlock(**sizes)


@exercise("lesson2", None, (*OF_BLOCK, *MLP_OF_ONE), judge=_judge_block, modules=True)
def mixer_block(**sizes: Any) -> nn.Module:
    """``MixerBlock(num_tokens=, hidden_dim=, tokens_mlp_dim=, channels_mlp_dim=)``.

    A module ``(b, S, C) -> (b, S, C)``: LayerNorm (eps 1e-6), token-mixing MLP and skip
    connection, then LayerNorm, channel-mixing MLP and skip connection. Another eps passes, with
    a remark. A finished module serves as well as a class, ``check.mixer_block(Block(64, 49))``;
    ``like`` gives sizes that cannot be read off it.
    """
    return MixerBlock(**sizes)
