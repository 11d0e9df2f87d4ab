"""Mixers broken on purpose: each foreseen mistake as a change to our own module.

A check reads the learner's weights into these, one after the other. The one that gives the
learner's numbers names the mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer

EPS = 1e-6  # of every LayerNorm


@dataclass(frozen=True)
class Broken:
    """A foreseen mistake, as a change to our own module.

    Attributes:
        mistake: short stable name.
        breaks: makes the mistake in our module, in place; all parameters that it leaves there
            must be used, and it may raise where the sizes do not allow it.
        says: the mistake in the learner's terms.
        by_shape: the sizes of the parameters alone prove it.
    """

    mistake: str
    breaks: Callable[[Any], object]
    says: str
    by_shape: bool = False


# Small modules that the broken copies are made of


class _Turned(nn.Module):
    # A module over tokens in place of channels: (b, S, C) -> (b, S, C).
    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mT).mT


class _OtherNorm(nn.Module):
    # LayerNorm's parameters, another formula.
    def __init__(self, norm: nn.LayerNorm, formula: Callable[[Tensor], Tensor]):
        super().__init__()
        self.weight, self.bias, self.formula = norm.weight, norm.bias, formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x) * self.weight + self.bias


class _Untied(nn.Module):
    # An MLP of its own for each channel: (b, C, S) -> (b, C, S).
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


def _set(module: nn.Module, **values: Any) -> nn.Module:
    for name, value in values.items():
        setattr(module, name, value)
    return module


def _runs(forward: Callable[[Any, Tensor], Tensor], name: str = "forward") -> Callable[[Any], None]:
    return lambda module: setattr(module, name, MethodType(forward, module))


def _each_norm(make: Callable[[nn.LayerNorm], nn.Module]) -> Callable[[nn.Module], None]:
    def breaks(module: nn.Module) -> None:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(parent, name, make(child))

    return breaks


def _standardised(x: Tensor, eps: float, *, correction: int = 0, outside: bool = False) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=correction, keepdim=True)
    return (x - mean) / (var.sqrt() + eps if outside else (var + eps).sqrt())


def _standardised_table(x: Tensor) -> Tensor:
    return _standardised(x.flatten(1), EPS).reshape(x.shape)


# What can be wrong in an MLP; {mlp} is "Your MLP", "Your token MLP", ...


def _second(mlp: MlpBlock, x: Tensor) -> Tensor:
    return mlp.fc2(mlp.act(mlp.fc1(x)))


MLP = [
    Broken(
        "ReLU",
        lambda m: _set(m, act=nn.ReLU()),
        "{mlp} bends its hidden numbers with ReLU; the Mixer's nonlinearity is GELU.",
    ),
    Broken(
        "tanh GELU",
        lambda m: _set(m, act=nn.GELU(approximate="tanh")),
        "{mlp} uses the tanh approximation of GELU. It is off by up to 0.0005: take the exact "
        'one, without approximate="tanh".',
    ),
    Broken(
        "another nonlinearity",
        lambda m: _set(m, act=nn.SiLU()),
        "{mlp} uses SiLU (Swish); the Mixer's nonlinearity is GELU.",
    ),
    Broken(
        "approximate GELU",
        lambda m: _runs(lambda m, x: x * torch.sigmoid(1.702 * x))(m.act),
        "{mlp} uses x·sigmoid(1.702 x), a rough approximation of GELU: take the exact one.",
    ),
    Broken(
        "no nonlinearity",
        lambda m: _set(m, act=nn.Identity()),
        "{mlp} has no nonlinearity between its layers: two matrices in a row are only one matrix.",
    ),
    Broken(
        "GELU after both layers",
        _runs(lambda m, x: F.gelu(_second(m, x))),
        "{mlp} puts a GELU after the second layer too; it belongs only between the two.",
    ),
    Broken(
        "GELU before the first layer",
        _runs(lambda m, x: m.fc2(m.fc1(F.gelu(x)))),
        "{mlp} applies GELU before the first layer; it belongs between the two.",
    ),
    Broken(
        "GELU after the second layer",
        _runs(lambda m, x: F.gelu(m.fc2(m.fc1(x)))),
        "{mlp} applies GELU after the second layer; it belongs between the two.",
    ),
    Broken(
        "skip inside the MLP",
        _runs(lambda m, x: x + _second(m, x)),
        "{mlp} adds its own input to its result. The skip connection belongs to the block, "
        "around LayerNorm and MLP together.",
    ),
    Broken(
        "biases missing",
        lambda m: (_set(m.fc1, bias=None), _set(m.fc2, bias=None)),
        "{mlp} has no biases: both of its layers should have one.",
        by_shape=True,
    ),
    Broken(
        "bias missing",
        lambda m: _set(m.fc1, bias=None),
        "{mlp} has no bias in its first layer.",
        by_shape=True,
    ),
    Broken(
        "bias missing",
        lambda m: _set(m.fc2, bias=None),
        "{mlp} has no bias in its second layer.",
        by_shape=True,
    ),
    Broken(
        "hidden width ignored",
        lambda m: _set(
            m,
            fc1=nn.Linear(m.fc1.in_features, m.fc1.in_features),
            fc2=nn.Linear(m.fc1.in_features, m.fc1.in_features),
        ),
        "{mlp} has a hidden layer as wide as its input, and ignores the hidden width it is given.",
        by_shape=True,
    ),
    Broken(
        "tied layers",
        lambda m: (
            _set(m.fc2, weight=None),
            _runs(lambda m, x: F.linear(m.act(m.fc1(x)), m.fc1.weight.T, m.fc2.bias))(m),
        ),
        "{mlp} uses the first layer's matrix, transposed, for the second layer too: each has "
        "weights of its own.",
    ),
    Broken(
        "a layer too many",
        lambda m: (
            _set(m, more=nn.Linear(m.fc1.out_features, m.fc1.out_features)),
            _runs(lambda m, x: m.fc2(F.gelu(m.more(F.gelu(m.fc1(x))))))(m),
        ),
        "{mlp} has three layers, one of them from the hidden width to itself; it needs two.",
        by_shape=True,
    ),
]

MLP_ALONE = [
    Broken(
        "LayerNorm inside the MLP",
        lambda m: (
            _set(m, norm=nn.LayerNorm(m.fc1.in_features, eps=EPS)),
            _runs(lambda m, x: _second(m, m.norm(x)))(m),
        ),
        "Your MLP normalises its input. LayerNorm belongs to the block, before the MLP.",
        by_shape=True,
    ),
    Broken(
        "a layer missing",
        lambda m: (_set(m, fc2=nn.Identity()), _runs(lambda m, x: m.act(m.fc1(x)))(m)),
        "Your MLP stops at its hidden layer. A second layer leads back from hidden_dim to dim.",
        by_shape=True,
    ),
    Broken(
        "a layer missing",
        lambda m: (
            _set(m, fc1=nn.Linear(m.fc1.in_features, m.fc1.in_features), fc2=nn.Identity()),
            _runs(lambda m, x: m.act(m.fc1(x)))(m),
        ),
        "Your MLP has one layer; it needs two: from dim to hidden_dim, and back.",
        by_shape=True,
    ),
    Broken(
        "softmax in the MLP",
        _runs(lambda m, x: _second(m, x).softmax(-1)),
        "Your MLP ends in a softmax; it should end in its second layer.",
    ),
]


def _named_mlp(broken: Broken, name: str) -> str:
    return broken.says.format(mlp=name)


# What can be wrong in a block


def _mixed(b: MixerBlock, y: Tensor) -> Tensor:
    # The token-mixing MLP of normalised tokens: (b, S, C) -> (b, S, C).
    return rearrange(b.mlp_tokens(rearrange(y, "b s c -> b c s")), "b c s -> b s c")


def _then(b: MixerBlock, y: Tensor) -> Tensor:
    return y + b.mlp_channels(b.norm2(y))


def _by_reshape(b: MixerBlock, x: Tensor, into: bool, back: bool) -> Tensor:
    y = b.norm1(x)
    y = y.reshape(len(x), x.shape[2], x.shape[1]) if into else y.mT
    y = b.mlp_tokens(y)
    return _then(b, x + (y.reshape(x.shape) if back else y.mT))


def _post_norm(b: MixerBlock, x: Tensor) -> Tensor:
    y = b.norm1(x + _mixed(b, x))
    return b.norm2(y + b.mlp_channels(y))


def _skips_norm(b: MixerBlock, x: Tensor) -> Tensor:
    y = b.norm1(x)
    y = b.norm2(y + _mixed(b, y))
    return y + b.mlp_channels(y)


def _norms_last(b: MixerBlock, x: Tensor) -> Tensor:
    y = x + b.norm1(_mixed(b, x))
    return y + b.norm2(b.mlp_channels(y))


def _channels_first(b: MixerBlock, x: Tensor) -> Tensor:
    y = x + b.mlp_channels(b.norm1(x))
    return y + _mixed(b, b.norm2(y))


def _widths(b: MixerBlock) -> tuple[int, int, int, int]:
    fc1, fc2 = b.mlp_tokens.fc1, b.mlp_channels.fc1
    return fc1.in_features, fc2.in_features, fc1.out_features, fc2.out_features


def _mlps(tokens: str | None, channels: str | None) -> Callable[[MixerBlock], None]:
    # MLPs of other sizes; "S D_C" in place of the token MLP is one over S of width D_C.
    def breaks(b: MixerBlock) -> None:
        size = dict(zip(("S", "C", "D_S", "D_C"), _widths(b), strict=True))
        for name, text in (("mlp_tokens", tokens), ("mlp_channels", channels)):
            if text is not None:
                dim, hidden = (size[letter] for letter in text.split())
                setattr(b, name, MlpBlock(dim=dim, hidden_dim=hidden))
        over_channels, over_tokens = tokens and tokens[0] == "C", channels and channels[0] == "S"

        def forward(b: MixerBlock, x: Tensor) -> Tensor:
            y = b.norm1(x)
            x = x + (b.mlp_tokens(y) if over_channels else _mixed(b, y))
            y = b.norm2(x)
            return x + (b.mlp_channels(y.mT).mT if over_tokens else b.mlp_channels(y))

        _runs(forward)(b)

    return breaks


def _dims(b: MixerBlock) -> int:
    return b.norm1.normalized_shape[0]


BLOCK = [
    Broken(
        "missing first residual",
        _runs(lambda b, x: _then(b, _mixed(b, b.norm1(x)))),
        "The skip connection around token mixing is missing: the token MLP's result should be "
        "added to what came in, x + ..., and not replace it.",
    ),
    Broken(
        "missing second residual",
        _runs(lambda b, x: b.mlp_channels(b.norm2(x + _mixed(b, b.norm1(x))))),
        "The skip connection around channel mixing is missing: the channel MLP's result should "
        "be added to what came in, x + ..., and not replace it.",
    ),
    Broken(
        "no residuals",
        _runs(lambda b, x: b.mlp_channels(b.norm2(_mixed(b, b.norm1(x))))),
        "Both skip connections are missing: each MLP's result should be added to what came in.",
    ),
    Broken(
        "second skip from the start",
        _runs(lambda b, x: x + b.mlp_channels(b.norm2(x + _mixed(b, b.norm1(x))))),
        "The second skip connection starts from the block's input. It should start from the "
        "result of token mixing; as it is, that result reaches the end only through an MLP.",
    ),
    Broken(
        "one skip around both",
        _runs(lambda b, x: x + b.mlp_channels(b.norm2(_mixed(b, b.norm1(x))))),
        "You have one skip connection around both MLPs together; each MLP should have its own.",
    ),
    Broken(
        "halves side by side",
        _runs(lambda b, x: x + _mixed(b, b.norm1(x)) + b.mlp_channels(b.norm2(x))),
        "Your channel MLP reads the block's input. It should read the result of token mixing: "
        "the two halves come one after the other.",
    ),
    Broken(
        "channels first",
        _runs(_channels_first),
        "Your block mixes channels first and tokens second; the Mixer does it the other way round.",
    ),
    Broken(
        "post-norm",
        _runs(_post_norm),
        "You normalise after each skip connection (post-norm). In a Mixer the LayerNorm stands "
        "before the MLP, inside the branch: x + MLP(norm(x)).",
    ),
    Broken(
        "norm after the MLP",
        _runs(_norms_last),
        "You normalise what comes out of each MLP; the LayerNorm should be applied to what goes "
        "in: x + MLP(norm(x)).",
    ),
    Broken(
        "skip from the normalised",
        _runs(_skips_norm),
        "Your skip connections carry the normalised tokens: x = norm(x) comes first, and then "
        "x + MLP(x). What is added should be x as it came in: x + MLP(norm(x)).",
    ),
    Broken(
        "reshape for transpose",
        _runs(lambda b, x: _by_reshape(b, x, True, True)),
        "You turn the table of tokens for the token MLP with a reshape. That gives it the right "
        "shape but cuts the list of numbers anew, so that tokens and channels are jumbled: "
        "transpose it, or rearrange 'b s c -> b c s'.",
    ),
    Broken(
        "reshape for transpose",
        _runs(lambda b, x: _by_reshape(b, x, False, True)),
        "After the token MLP you turn the table back with a reshape. That gives the right shape "
        "but jumbles tokens and channels: transpose it, or rearrange 'b c s -> b s c'.",
    ),
    Broken(
        "reshape for transpose",
        _runs(lambda b, x: _by_reshape(b, x, True, False)),
        "Before the token MLP you turn the table with a reshape. That gives the right shape but "
        "jumbles tokens and channels: transpose it, or rearrange 'b s c -> b c s'.",
    ),
    Broken(
        "shared LayerNorm",
        lambda b: _set(b, norm2=b.norm1),
        "One LayerNorm serves both halves of the block: its scale and shift (2 × C numbers) are "
        "used twice. Each half has a LayerNorm of its own.",
    ),
    Broken(
        "un-normed channel MLP",
        lambda b: _set(b, norm2=nn.Identity()),
        "Your channel MLP reads tokens that were not normalised: the second LayerNorm is missing.",
    ),
    Broken(
        "un-normed token MLP",
        lambda b: _set(b, norm1=nn.Identity()),
        "Your token MLP reads tokens that were not normalised: the first LayerNorm is missing.",
    ),
    Broken(
        "no LayerNorm",
        lambda b: _set(b, norm1=nn.Identity(), norm2=nn.Identity()),
        "There is no LayerNorm in your block: one belongs before each MLP.",
    ),
    Broken(
        "LayerNorm over tokens",
        lambda b: _set(
            b,
            norm1=_Turned(nn.LayerNorm(_widths(b)[0], eps=EPS)),
            norm2=_Turned(nn.LayerNorm(_widths(b)[0], eps=EPS)),
        ),
        "Your LayerNorms normalise over the tokens, with S scales; they should normalise each "
        "token over its channels, with C scales.",
        by_shape=True,
    ),
    Broken(
        "LayerNorm over tokens",
        lambda b: _set(b, norm1=_Turned(nn.LayerNorm(_widths(b)[0], eps=EPS))),
        "Your first LayerNorm normalises over the tokens, with S scales; it should normalise "
        "each token over its channels, with C scales: normalise before you turn the table.",
        by_shape=True,
    ),
    Broken(
        "LayerNorm over the whole table",
        lambda b: _each_norm(lambda n: nn.LayerNorm((_widths(b)[0], *n.normalized_shape), eps=EPS))(
            b
        ),
        "Your LayerNorms normalise the whole table of tokens at once, with S × C scales; they "
        "should normalise each token over its channels, with C scales.",
        by_shape=True,
    ),
    Broken(
        "swapped widths",
        _mlps("S D_C", "C D_S"),
        "The hidden widths are swapped: your token MLP has D_C = channels_mlp_dim hidden units, "
        "your channel MLP D_S = tokens_mlp_dim. In B/16 that makes 22.98 M parameters of 59.88 M.",
        by_shape=True,
    ),
    Broken(
        "both MLPs over channels",
        _mlps("C D_S", None),
        "Both of your MLPs run over the channels of each token: the token MLP should run over "
        "the S tokens of each channel, so its first matrix is (D_S, S). As it is, no token ever "
        "hears another.",
        by_shape=True,
    ),
    Broken(
        "both MLPs over tokens",
        _mlps(None, "S D_C"),
        "Both of your MLPs run over the tokens of each channel: the channel MLP should run over "
        "the C channels of each token.",
        by_shape=True,
    ),
    Broken(
        "the MLPs' axes swapped",
        _mlps("C D_S", "S D_C"),
        "Your token MLP runs over channels and your channel MLP over tokens: only their hidden "
        "widths are as they should be.",
        by_shape=True,
    ),
    Broken(
        "wrong hidden width",
        _mlps("S D_C", None),
        "Your token MLP has D_C = channels_mlp_dim hidden units; it should have "
        "D_S = tokens_mlp_dim.",
        by_shape=True,
    ),
    Broken(
        "wrong hidden width",
        _mlps(None, "C D_S"),
        "Your channel MLP has D_S = tokens_mlp_dim hidden units; it should have "
        "D_C = channels_mlp_dim.",
        by_shape=True,
    ),
    Broken(
        "untied token MLP",
        lambda b: _set(b, mlp_tokens=_Untied(_dims(b), _widths(b)[0], _widths(b)[2])),
        "Every channel has a token MLP of its own, C times as many weights. In a Mixer one token "
        "MLP serves all channels.",
        by_shape=True,
    ),
    Broken(
        "untied token MLP",
        lambda b: _set(
            b,
            mlp_tokens=_EachItsOwn(
                [MlpBlock(dim=_widths(b)[0], hidden_dim=_widths(b)[2]) for _ in range(_dims(b))]
            ),
        ),
        "Every channel has a token MLP of its own, C times as many weights. In a Mixer one token "
        "MLP serves all channels.",
        by_shape=True,
    ),
    Broken(
        "channel mixing missing",
        lambda b: (
            _set(b, norm2=nn.Identity(), mlp_channels=nn.Identity()),
            _runs(lambda b, x: x + _mixed(b, b.norm1(x)))(b),
        ),
        "Your block ends after token mixing: the second half, channel mixing, is missing.",
        by_shape=True,
    ),
    Broken(
        "token mixing missing",
        lambda b: (_set(b, norm1=nn.Identity(), mlp_tokens=nn.Identity()), _runs(_then)(b)),
        "Your block mixes channels only: the first half, token mixing, is missing.",
        by_shape=True,
    ),
]

# What can be wrong with every LayerNorm, in a block or in a whole model

NORMS = [
    Broken(
        "LayerNorm without scale and shift",
        _each_norm(lambda n: nn.LayerNorm(n.normalized_shape, eps=EPS, elementwise_affine=False)),
        "Your LayerNorms have no scale and shift: after normalising, each channel is multiplied "
        "by a learned number, and another is added.",
        by_shape=True,
    ),
    Broken(
        "LayerNorm without shift",
        _each_norm(lambda n: nn.LayerNorm(n.normalized_shape, eps=EPS, bias=False)),
        "Your LayerNorms have a learned scale but no learned shift.",
    ),
    Broken(
        "BatchNorm",
        _each_norm(lambda n: _OtherNorm(n, lambda x: x / (1 + 1e-5) ** 0.5)),
        "You normalise with BatchNorm, over the images of a batch; the Mixer has LayerNorm, over "
        "the channels of each token.",
    ),
    Broken(
        "variance over n - 1",
        _each_norm(lambda n: _OtherNorm(n, lambda x: _standardised(x, EPS, correction=1))),
        "Your LayerNorm divides the sum of squares by C - 1, as torch's var and std do unless "
        "told otherwise; LayerNorm divides by C (unbiased=False).",
    ),
    Broken(
        "no mean taken away",
        _each_norm(lambda n: _OtherNorm(n, lambda x: x / (x.square().mean(-1, True) + EPS) ** 0.5)),
        "Your LayerNorm divides by the size of the numbers but does not take their mean away "
        "first.",
    ),
    Broken(
        "LayerNorm over tokens",
        _each_norm(lambda n: _OtherNorm(n, lambda x: _standardised(x.mT, EPS).mT)),
        "Your LayerNorm takes mean and variance over the tokens; it should take them over the "
        "channels of each token.",
    ),
    Broken(
        "LayerNorm over the whole table",
        _each_norm(lambda n: _OtherNorm(n, _standardised_table)),
        "You normalise the whole table of tokens at once, as GroupNorm with one group does; each "
        "token should be normalised by itself, over its channels.",
    ),
    Broken(
        "eps outside the root",
        _each_norm(lambda n: _OtherNorm(n, lambda x: _standardised(x, EPS, outside=True))),
        "Your LayerNorm adds eps to the standard deviation; it should be added to the variance, "
        "under the square root.",
    ),
    Broken(
        "eps outside the root",
        _each_norm(
            lambda n: _OtherNorm(n, lambda x: _standardised(x, EPS, correction=1, outside=True))
        ),
        "Your LayerNorm adds eps to the standard deviation; it should be added to the variance, "
        "under the square root. And torch's std divides by C - 1; LayerNorm divides by C.",
    ),
    *(
        Broken(
            "eps",
            _each_norm(lambda n, e=eps: nn.LayerNorm(n.normalized_shape, eps=e)),  # type: ignore[misc]
            f"Your LayerNorm has eps = {eps:g}; the Mixer's is 1e-06.",
        )
        for eps in (1e-5, 1e-3, 1e-7, 1e-8, 1e-12, 0.0)
    ),
]


# What can be wrong around the blocks


def _patches(pattern: str) -> Callable[[Any], None]:
    def patchify(m: MlpMixer, images: Tensor) -> Tensor:
        gh, gw = m.grid_size
        return rearrange(images, pattern, gh=gh, gw=gw)

    return _runs(patchify, "patchify")


def _tail(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], None]:
    # From the blocks' result (b, S, C) to the logits.
    return _runs(lambda m, x: function(m, m.blocks(m.stem(m.patchify(x)))))


def _after_stem(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], None]:
    # On the tokens (b, S, C) before the first block.
    return _runs(lambda m, x: m.norm(m.blocks(function(m, m.stem(m.patchify(x))))), _FEATURES)


_FEATURES = "forward_features"


def _new_head(m: MlpMixer, inputs: int) -> nn.Module:
    return _set(m, head=nn.Linear(inputs, m.num_classes))


def _some_blocks(m: MlpMixer, change: int) -> None:
    made = [
        MixerBlock(
            num_tokens=m.num_tokens,
            hidden_dim=m.hidden_dim,
            tokens_mlp_dim=m.tokens_mlp_dim,
            channels_mlp_dim=m.channels_mlp_dim,
        )
        for _ in range(m.num_blocks + change)
    ]
    m.blocks = nn.Sequential(*made)


def _unchained(m: MlpMixer, images: Tensor) -> Tensor:
    x = m.stem(m.patchify(images))
    return m.norm([block(x) for block in m.blocks][-1])


MIXER = [
    Broken(
        "blocks sharing weights",
        lambda m: _set(m, blocks=nn.Sequential(*[m.blocks[0]] * m.num_blocks)),
        "Your blocks are one and the same block, run several times: [block] * n repeats one "
        "object. Make a new block for each: [Block(...) for _ in range(n)].",
    ),
    Broken(
        "blocks not chained",
        _runs(_unchained, _FEATURES),
        "Each of your blocks reads the stem's result, and only the last one counts. A block "
        "should read what the one before it gave: x = block(x).",
    ),
    Broken(
        "one block",
        lambda m: _some_blocks(m, 1 - m.num_blocks),
        "Your model has a single block, whatever num_blocks says.",
        by_shape=True,
    ),
    Broken(
        "too few blocks",
        lambda m: _some_blocks(m, -1),
        "Your model has one block fewer than num_blocks.",
        by_shape=True,
    ),
    Broken(
        "too many blocks",
        lambda m: _some_blocks(m, 1),
        "Your model has one block more than num_blocks.",
        by_shape=True,
    ),
    Broken(
        "column-major tokens",
        _patches("b c (gh p1) (gw p2) -> b (gw gh) (c p1 p2)"),
        "Your tokens run down the columns of the grid of patches; they should run along its "
        "rows, as one reads a page: in (gh gw) the letter gw counts fastest.",
    ),
    Broken(
        "woven patches",
        _patches("b c (p1 gh) (p2 gw) -> b (gh gw) (c p1 p2)"),
        "Your patches take every gh-th row and every gw-th column, like threads of a cloth, in "
        "place of neighbouring pixels: write (gh p1), not (p1 gh).",
    ),
    Broken(
        "reshape for rearrange",
        _runs(lambda m, x: x.reshape(len(x), m.num_tokens, -1), "patchify"),
        "You cut the list of pixels into pieces of the size of a patch without moving any. A "
        "patch's rows are not neighbours in memory: split height and width into two axes each, "
        "and move them.",
    ),
    Broken(
        "reshape for transpose",
        _after_stem(lambda m, x: x.mT.reshape(x.shape)),
        "After the stem you turn (b, C, S) into (b, S, C) with a reshape. That gives the right "
        "shape but jumbles tokens and channels: transpose it.",
    ),
    Broken(
        "stem without bias",
        lambda m: _set(m.stem, bias=None),
        "Your stem has no bias: C numbers are missing.",
    ),
    Broken(
        "GELU after the stem",
        _after_stem(lambda m, x: F.gelu(x)),
        "You apply a GELU to the tokens before the first block; the stem is linear.",
    ),
    Broken(
        "norm after the stem",
        lambda m: (
            _set(m, first=nn.LayerNorm(m.hidden_dim, eps=EPS)),
            _after_stem(lambda m, x: m.first(x))(m),
        ),
        "You normalise the tokens after the stem; the first LayerNorm is that of the first block.",
    ),
    Broken(
        "positional embedding",
        lambda m: (
            _set(m, pos=nn.Parameter(torch.ones(m.num_tokens, m.hidden_dim))),
            _after_stem(lambda m, x: x + m.pos)(m),
        ),
        "You add a positional embedding (S × C numbers) to the tokens. A Mixer needs none: its "
        "token-mixing weights are tied to places.",
        by_shape=True,
    ),
    Broken(
        "no final norm",
        lambda m: _set(m, norm=nn.Identity()),
        "The LayerNorm after the last block, before the mean over tokens, is missing.",
    ),
    Broken(
        "norm after pooling",
        _tail(lambda m, x: m.head(m.norm(x.mean(1)))),
        "You take the mean over tokens first and normalise it afterwards. The last LayerNorm "
        "comes before the mean: each token is normalised by itself.",
    ),
    Broken(
        "first-token pooling",
        _tail(lambda m, x: m.head(m.norm(x)[:, 0])),
        "Your head reads token 0 alone, as a Transformer's class token; a Mixer has none. It "
        "should read the mean over all tokens.",
    ),
    Broken(
        "last-token pooling",
        _tail(lambda m, x: m.head(m.norm(x)[:, -1])),
        "Your head reads the last token alone; it should read the mean over all tokens.",
    ),
    Broken(
        "max pooling",
        _tail(lambda m, x: m.head(m.norm(x).amax(1))),
        "You take the largest number of each channel over the tokens; it should be the mean.",
    ),
    Broken(
        "sum pooling",
        _tail(lambda m, x: m.head(m.norm(x).sum(1))),
        "You add the tokens up; the head should read their mean.",
    ),
    Broken(
        "mean over channels",
        lambda m: (
            _new_head(m, m.num_tokens),
            _tail(lambda m, x: m.head(m.norm(x).mean(2)))(m),
        ),
        "You take the mean over the channels of each token, and your head reads S numbers. It "
        "should be the mean over the tokens: C numbers are left.",
        by_shape=True,
    ),
    Broken(
        "flattened, not pooled",
        lambda m: (
            _new_head(m, m.num_tokens * m.hidden_dim),
            _tail(lambda m, x: m.head(m.norm(x).flatten(1)))(m),
        ),
        "Your head reads all S × C numbers; it should read the mean over the tokens, C numbers.",
        by_shape=True,
    ),
    Broken(
        "no pooling",
        _tail(lambda m, x: m.head(m.norm(x))),
        "You give logits for every token. The mean over the tokens is missing.",
    ),
    Broken(
        "no head",
        lambda m: _set(m, head=nn.Identity()),
        "Your model returns the pooled features (b, C); the head, a linear layer to num_classes, "
        "is missing.",
        by_shape=True,
    ),
    Broken(
        "head without bias",
        lambda m: _set(m.head, bias=None),
        "Your head has no bias.",
        by_shape=True,
    ),
    Broken(
        "GELU before the head",
        _tail(lambda m, x: m.head(F.gelu(m.norm(x).mean(1)))),
        "You apply a GELU to the pooled features; the head reads them as they are.",
    ),
    *(
        Broken(
            mistake,
            _tail(lambda m, x, f=function: f(m.head(m.norm(x).mean(1)))),  # type: ignore[misc]
            f"Your model returns {name} of the logits. It should return the logits themselves: "
            f"the loss and the reader do the rest.",
        )
        for mistake, name, function in (
            ("softmax inside forward", "the softmax", lambda x: x.softmax(1)),
            ("log-softmax inside forward", "the log-softmax", lambda x: x.log_softmax(1)),
            ("sigmoid inside forward", "the sigmoid", torch.sigmoid),
        )
    ),
]


def _of_mlps(which: str) -> Iterator[Broken]:
    # The mistakes of an MLP, made in one or both of a block.
    names = {
        "both": ("Each of your MLPs", ("mlp_tokens", "mlp_channels")),
        "tokens": ("Your token MLP", ("mlp_tokens",)),
        "channels": ("Your channel MLP", ("mlp_channels",)),
    }
    name, mlps = names[which]
    for broken in MLP:

        def breaks(b: Any, broken: Broken = broken) -> None:
            for mlp in mlps:
                broken.breaks(getattr(b, mlp))

        yield Broken(broken.mistake, breaks, _named_mlp(broken, name), broken.by_shape)


def _in_all_blocks(broken: Broken) -> Broken:
    def breaks(m: Any) -> None:
        for block in m.blocks:
            broken.breaks(block)

    return Broken(broken.mistake, breaks, broken.says, broken.by_shape)


OF_MLP = [
    *(Broken(b.mistake, b.breaks, _named_mlp(b, "Your MLP"), b.by_shape) for b in MLP),
    *MLP_ALONE,
]
IN_BLOCK = [*BLOCK, *(b for which in ("both", "tokens", "channels") for b in _of_mlps(which))]
OF_BLOCK = [*IN_BLOCK, *NORMS]
OF_MIXER = [*MIXER, *map(_in_all_blocks, IN_BLOCK), *NORMS]
