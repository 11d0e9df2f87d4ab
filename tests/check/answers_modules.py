"""Lessons 2 and 3: the MLP, the block and the whole Mixer as modules."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from einops.layers.torch import EinMix, Rearrange, Reduce
from torch import nn

from tests.check.zoo import right, wrong

# The MLP, right


@right("mlp_block")
class MlpOfTwoLinears(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim)
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


@right("mlp_block")
def mlp_in_a_row(dim, hidden_dim):
    return nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))


@right("mlp_block")
class MlpOfBareParameters(nn.Module):
    def __init__(self, *, dim, hidden_dim):
        super().__init__()
        self.b2 = nn.Parameter(torch.zeros(dim))
        self.w2 = nn.Parameter(torch.randn(hidden_dim, dim))
        self.w1 = nn.Parameter(torch.randn(dim, hidden_dim))
        self.b1 = nn.Parameter(torch.zeros(hidden_dim))

    def forward(self, x):
        h = torch.einsum("...d,dh->...h", x, self.w1) + self.b1
        h = 0.5 * h * (1 + torch.erf(h / math.sqrt(2)))
        return torch.einsum("...h,hd->...d", h, self.w2) + self.b2


@right("mlp_block")
class MlpOfConvolutions(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(dim, hidden_dim, 1), nn.Conv1d(hidden_dim, dim, 1)])
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        x = x.transpose(1, 2)
        x = self.layers[1](self.drop(F.gelu(self.layers[0](x))))
        return x.transpose(1, 2)


@right("mlp_block")
def mlp_of_einmix(dim, hidden_dim):
    sizes = dict(d=dim, h=hidden_dim)
    return nn.Sequential(
        EinMix("b n d -> b n h", weight_shape="d h", bias_shape="h", **sizes),
        nn.GELU(),
        EinMix("b n h -> b n d", weight_shape="h d", bias_shape="d", **sizes),
    )


@right("mlp_block")
class MlpThatFindsItsSizes(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.LazyLinear(hidden_dim), nn.LazyLinear(dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x.float())))


# The MLP, wrong


def _mlp(forward, *, biases=(True, True)):
    # A student's MLP with this forward pass.
    class StudentsMlp(nn.Module):
        def __init__(self, dim, hidden_dim):
            super().__init__()
            self.fc1 = nn.Linear(dim, hidden_dim, bias=biases[0])
            self.fc2 = nn.Linear(hidden_dim, dim, bias=biases[1])

    StudentsMlp.forward = forward
    return StudentsMlp


@wrong("mlp_block", "ReLU", "Your MLP", "GELU")
class MlpWithRelu(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))

    def forward(self, x):
        return self.net(x)


@wrong("mlp_block", "tanh GELU")
class MlpWithAFormulaFromTheNet(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.a, self.b = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x):
        x = self.a(x)
        x = 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))
        return self.b(x)


@wrong("mlp_block", "skip inside the MLP", "belongs to the block")
class MlpWithASkip(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x):
        return x + self.fc2(F.gelu(self.fc1(x)))


@wrong("mlp_block", "random in eval mode", "training=self.training")
class MlpThatAlwaysDropsOut(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x):
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), 0.3))


@wrong("mlp_block", "parameters not registered", "nn.Sequential", "Python list")
class MlpInAPythonList(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.layers = [nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@wrong("mlp_block", "parameters not registered", "nn.Parameter")
class MlpOfPlainTensors(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.w1, self.b1 = torch.randn(hidden_dim, dim), torch.zeros(hidden_dim)
        self.w2, self.b2 = torch.randn(dim, hidden_dim), torch.zeros(dim)

    def forward(self, x):
        return F.linear(F.gelu(F.linear(x, self.w1, self.b1)), self.w2, self.b2)


@wrong("mlp_block", "parameters not registered", "__init__")
class MlpMadeInForward(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.sizes = dim, hidden_dim
        self.fc1 = nn.Linear(dim, hidden_dim)

    def forward(self, x):
        torch.manual_seed(0)
        return nn.Linear(*self.sizes[::-1])(F.gelu(self.fc1(x)))


@wrong("mlp_block", "wrong axis", "axis 1")
def mlp_along_axis_1(dim, hidden_dim):
    return nn.Sequential(nn.Conv1d(dim, hidden_dim, 1), nn.GELU(), nn.Conv1d(hidden_dim, dim, 1))


@wrong("mlp_block", "rows mixed", "changing row")
class MlpWithNeighbours(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x):
        h = F.gelu(self.fc1(x))
        return self.fc2(h + h.roll(1, dims=1))


@wrong("mlp_block", "rows mixed", "of its result")
class MlpWithWideConvolutions(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(dim, hidden_dim, 3, padding=1), nn.GELU(), nn.Conv1d(hidden_dim, dim, 1)
        )

    def forward(self, x):
        return self.net(x.mT).mT


@wrong("mlp_block", "no gradient", "detach()")
class MlpDetached(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x):
        h = F.gelu(self.fc1(x)).detach()
        return self.fc2(h)


@wrong("mlp_block", "unused parameters", "extra")
class MlpWithLeftovers(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        self.extra = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


@wrong("mlp_block", "raises", "mat1 and mat2")
def mlp_the_wrong_way_round(dim, hidden_dim):
    return nn.Sequential(nn.Linear(hidden_dim, dim), nn.GELU(), nn.Linear(dim, hidden_dim))


@wrong("mlp_block", "not a module", "function")
def mlp_as_a_function(dim, hidden_dim):
    return lambda x: x


@wrong("mlp_block", "changes its input", "x = x + y")
class MlpInPlace(nn.Module):
    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x):
        x -= x.mean()
        return self.fc2(F.gelu(self.fc1(x)))


# The block, right


@right("mixer_block")
class BlockWithEinops(nn.Module):
    def __init__(self, *, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.tokens = MlpOfTwoLinears(num_tokens, tokens_mlp_dim)
        self.channels = MlpOfTwoLinears(hidden_dim, channels_mlp_dim)

    def forward(self, x):
        y = self.tokens(rearrange(self.norm1(x), "b s c -> b c s"))
        x = x + rearrange(y, "b c s -> b s c")
        return x + self.channels(self.norm2(x))


class _Skip(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@right("mixer_block")
def block_in_a_row(num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
    # A convolution of width 1 over (b, S, C) takes the tokens for its channels.
    s, c = num_tokens, hidden_dim
    return nn.Sequential(
        _Skip(
            nn.LayerNorm(c, eps=1e-6),
            nn.Conv1d(s, tokens_mlp_dim, 1),
            nn.GELU(),
            nn.Conv1d(tokens_mlp_dim, s, 1),
            nn.Dropout(0.2),
        ),
        _Skip(
            nn.LayerNorm(c, eps=1e-6),
            nn.Linear(c, channels_mlp_dim),
            nn.GELU(),
            nn.Linear(channels_mlp_dim, c),
        ),
    )


@right("mixer_block")
class BlockOfEinMix(nn.Module):
    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        n, m = dict(s=num_tokens, t=tokens_mlp_dim), dict(c=hidden_dim, d=channels_mlp_dim)
        self.channel_mlp = nn.Sequential(
            nn.LayerNorm(hidden_dim, eps=1e-6),
            EinMix("b s c -> b s d", weight_shape="c d", bias_shape="d", **m),
            nn.GELU(),
            EinMix("b s d -> b s c", weight_shape="d c", bias_shape="c", **m),
        )
        self.token_mlp = nn.Sequential(
            nn.LayerNorm(hidden_dim, eps=1e-6),
            EinMix("b s c -> b t c", weight_shape="t s", bias_shape="t", **n),
            nn.GELU(),
            EinMix("b t c -> b s c", weight_shape="s t", bias_shape="s", **n),
        )

    def forward(self, x):
        x = x + self.token_mlp(x)
        return x + self.channel_mlp(x)


@right("mixer_block")
class BlockOfBareParameters(nn.Module):
    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        S, C, T, D = num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim
        self.w1, self.b1 = nn.Parameter(torch.randn(T, S)), nn.Parameter(torch.zeros(T, 1))
        self.w2, self.b2 = nn.Parameter(torch.randn(S, T)), nn.Parameter(torch.zeros(S, 1))
        self.w3, self.b3 = nn.Parameter(torch.randn(D, C)), nn.Parameter(torch.zeros(D))
        self.w4, self.b4 = nn.Parameter(torch.randn(C, D)), nn.Parameter(torch.zeros(C))
        self.shift1, self.scale1 = nn.Parameter(torch.zeros(C)), nn.Parameter(torch.ones(C))
        self.shift2, self.scale2 = nn.Parameter(torch.zeros(C)), nn.Parameter(torch.ones(C))

    def norm(self, x, scale, shift):
        x = x - x.mean(dim=-1, keepdim=True)
        return shift + scale * x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6)

    def forward(self, x):
        y = self.norm(x, self.scale1, self.shift1)
        x = x + self.w2 @ F.gelu(self.w1 @ y + self.b1) + self.b2
        y = self.norm(x, self.scale2, self.shift2)
        return x + F.gelu(y @ self.w3.T + self.b3) @ self.w4.T + self.b4


@right("mixer_block")
class BlockWithLoops(nn.Module):
    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.mlp2 = mlp_in_a_row(hidden_dim, channels_mlp_dim)
        self.mlp1 = mlp_in_a_row(num_tokens, tokens_mlp_dim)
        self.ln2 = nn.LayerNorm(hidden_dim, 1e-6)
        self.ln1 = nn.LayerNorm(hidden_dim, 1e-6)

    def forward(self, x):
        _, s, c = x.shape
        y = self.ln1(x)
        x = x + torch.stack([self.mlp1(y[:, :, i]) for i in range(c)], dim=2)
        y = self.ln2(x)
        return x + torch.stack([self.mlp2(y[:, i]) for i in range(s)], dim=1)


@right("mixer_block")
class BlockThatAddsShiftFirst(nn.Module):
    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.scales = nn.ParameterList([torch.ones(hidden_dim) for _ in range(2)])
        self.shifts = nn.ParameterList([torch.zeros(hidden_dim) for _ in range(2)])
        self.tokens = MlpOfTwoLinears(num_tokens, tokens_mlp_dim)
        self.channels = MlpOfTwoLinears(hidden_dim, channels_mlp_dim)

    def norm(self, x, i):
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return torch.addcmul(self.shifts[i], self.scales[i], x)

    def forward(self, x):
        x = x + self.tokens(self.norm(x, 0).swapaxes(1, 2)).swapaxes(1, 2)
        return x + self.channels(self.norm(x, 1))


# The block, wrong


class _Block(nn.Module):
    # The right layers, for students who go wrong in the forward pass.
    eps = 1e-6

    def __init__(self, *, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_dim, eps=self.eps)
        self.token_mlp = MlpOfTwoLinears(num_tokens, tokens_mlp_dim)
        self.norm2 = nn.LayerNorm(hidden_dim, eps=self.eps)
        self.channel_mlp = MlpOfTwoLinears(hidden_dim, channels_mlp_dim)

    def tokens(self, x):
        return self.token_mlp(x.transpose(1, 2)).transpose(1, 2)

    def forward(self, x):
        x = x + self.tokens(self.norm1(x))
        return x + self.channel_mlp(self.norm2(x))


@wrong("mixer_block", "missing first residual", "around token mixing")
class BlockWithoutFirstSkip(_Block):
    def forward(self, x):
        x = self.tokens(self.norm1(x))
        return x + self.channel_mlp(self.norm2(x))


@wrong("mixer_block", "missing second residual", "around channel mixing")
class BlockWithoutSecondSkip(_Block):
    eps = 1e-5

    def forward(self, x):
        x = x + self.tokens(self.norm1(x))
        return self.channel_mlp(self.norm2(x))


@wrong("mixer_block", "no residuals", "Both skip")
def block_without_skips(num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
    return nn.Sequential(
        nn.LayerNorm(hidden_dim),
        Rearrange("b s c -> b c s"),
        mlp_in_a_row(num_tokens, tokens_mlp_dim),
        Rearrange("b c s -> b s c"),
        nn.LayerNorm(hidden_dim),
        mlp_in_a_row(hidden_dim, channels_mlp_dim),
    )


@wrong("mixer_block", "post-norm", "inside the branch")
class BlockPostNorm(_Block):
    def forward(self, x):
        x = self.norm1(x + self.tokens(x))
        return self.norm2(x + self.channel_mlp(x))


@wrong("mixer_block", "norm after the MLP", "what goes in")
class BlockNormsResults(_Block):
    def forward(self, x):
        x = x + self.norm1(self.tokens(x))
        return x + self.norm2(self.channel_mlp(x))


@wrong("mixer_block", "skip from the normalised", "as it came in")
class BlockOverwritesX(_Block):
    def forward(self, x):
        x = self.norm1(x)
        x = x + self.tokens(x)
        x = self.norm2(x)
        x = x + self.channel_mlp(x)
        return x


@wrong("mixer_block", "reshape for transpose", "jumbled")
class BlockReshapes(_Block):
    def tokens(self, x):
        b, s, c = x.shape
        return self.token_mlp(x.reshape(b, c, s)).reshape(b, s, c)


@wrong("mixer_block", "shared LayerNorm", "used twice")
class BlockSharesItsNorm(nn.Module):
    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.mlp1 = mlp_in_a_row(num_tokens, tokens_mlp_dim)
        self.mlp2 = mlp_in_a_row(hidden_dim, channels_mlp_dim)

    def forward(self, x):
        x = x + rearrange(self.mlp1(rearrange(self.norm(x), "b s c -> b c s")), "b c s -> b s c")
        return x + self.mlp2(self.norm(x))


@wrong("mixer_block", "shared LayerNorm", "Each half", "never used: norm2.weight")
class BlockUsesNorm1Twice(_Block):
    def forward(self, x):
        x = x + self.tokens(self.norm1(x))
        return x + self.channel_mlp(self.norm1(x))


@wrong("mixer_block", "un-normed channel MLP", "second LayerNorm")
class BlockForgetsNorm2(_Block):
    def forward(self, x):
        x = x + self.tokens(self.norm1(x))
        return x + self.channel_mlp(x)


@wrong("mixer_block", "LayerNorm over tokens", "over its channels")
class BlockNormsTokens(_Block):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.norm1 = nn.LayerNorm(sizes["num_tokens"], eps=1e-6)

    def forward(self, x):
        y = self.token_mlp(self.norm1(x.transpose(1, 2)))
        x = x + y.transpose(1, 2)
        return x + self.channel_mlp(self.norm2(x))


@right("mixer_block")  # with a remark
class BlockWithTorchsEps(_Block):
    eps = 1e-5


@right("mixer_block")  # with a remark
class BlockWithTorchsEpsByHand(BlockOfBareParameters):
    def norm(self, x, scale, shift):
        return F.layer_norm(x, scale.shape, scale, shift)


@wrong("mixer_block", "swapped widths", "D_C = channels_mlp_dim", "22.98 M")
class BlockWithSwappedWidths(_Block):
    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__(
            num_tokens=num_tokens,
            hidden_dim=hidden_dim,
            tokens_mlp_dim=channels_mlp_dim,
            channels_mlp_dim=tokens_mlp_dim,
        )


@wrong("mixer_block", "both MLPs over channels", "no token ever", "(D_S, S)")
class BlockWithoutTurning(nn.Module):
    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.mlp1 = MlpOfTwoLinears(hidden_dim, tokens_mlp_dim)
        self.mlp2 = MlpOfTwoLinears(hidden_dim, channels_mlp_dim)

    def forward(self, x):
        x = x + self.mlp1(self.norm1(x))
        return x + self.mlp2(self.norm2(x))


@wrong("mixer_block", "untied token MLP", "C times as many")
class BlockWithAnMlpForEachChannel(_Block):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.token_mlp = nn.ModuleList(
            MlpOfTwoLinears(sizes["num_tokens"], sizes["tokens_mlp_dim"])
            for _ in range(sizes["hidden_dim"])
        )

    def tokens(self, x):
        return torch.stack([mlp(x[:, :, i]) for i, mlp in enumerate(self.token_mlp)], -1)


@wrong("mixer_block", "ReLU", "Your channel MLP")
class BlockWithOneRelu(_Block):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        c, d = sizes["hidden_dim"], sizes["channels_mlp_dim"]
        self.channel_mlp = nn.Sequential(nn.Linear(c, d), nn.ReLU(), nn.Linear(d, c))


@wrong("mixer_block", "tanh GELU", "Each of your MLPs")
class BlockAsInJax(_Block):
    def tokens(self, x):
        up, down = self.token_mlp.up, self.token_mlp.down
        return down(F.gelu(up(x.mT), approximate="tanh")).mT

    def forward(self, x):
        up, down = self.channel_mlp.up, self.channel_mlp.down
        x = x + self.tokens(self.norm1(x))
        return x + down(F.gelu(up(self.norm2(x)), approximate="tanh"))


@wrong("mixer_block", "random in eval mode", "F.dropout")
class BlockWithStubbornDropout(_Block):
    def forward(self, x):
        x = x + F.dropout(self.tokens(self.norm1(x)), p=0.1)
        return x + self.channel_mlp(self.norm2(x))


@wrong("mixer_block", "returns its input", "unchanged")
class BlockThatDoesNothing(_Block):
    def forward(self, x):
        return x


@wrong("mixer_block", "wrong token mixing", "token-mixing half")
class BlockWithTokensReversed(_Block):
    def tokens(self, x):
        return self.token_mlp(x.flip(1).mT).mT


@wrong("mixer_block", "token mixing mixes channels", "only channel 1", "changing token 1")
class BlockTurnsChannelsRound(_Block):
    def tokens(self, x):
        return super().tokens(x).flip(-1)


@wrong("mixer_block", "channel mixing mixes tokens", "changing token 1 changed token")
class BlockPoolsBeforeMixing(_Block):
    def forward(self, x):
        x = x + self.tokens(self.norm1(x))
        y = self.norm2(x)
        return x + self.channel_mlp(y + y.mean(dim=1, keepdim=True))


@wrong("mixer_block", "wrong channel mixing", "channel-mixing half")
class BlockWithHalvedChannels(_Block):
    def forward(self, x):
        x = x + self.tokens(self.norm1(x))
        return x + self.channel_mlp(self.norm2(x)) / 2


@wrong("mixer_block", "wrong without its MLPs", "skip connections")
class BlockWithScaledSkips(_Block):
    def forward(self, x):
        x = 0.5 * x + self.tokens(self.norm1(x))
        return x + self.channel_mlp(self.norm2(x))


@wrong("mixer_block", "changes its input", "x = x + y")
class BlockInPlace(_Block):
    def forward(self, x):
        x += self.tokens(self.norm1(x))
        x += self.channel_mlp(self.norm2(x))
        return x


@wrong("mixer_block", "wrong shape", "(b, S, C)", "axes are in another order")
class BlockNotTurnedBack(_Block):
    def forward(self, x):
        return super().forward(x).transpose(1, 2)


@wrong("mixer_block", "wrong without its MLPs", "where you normalise")
class BlockWithTwoMistakes(_Block):
    def forward(self, x):
        x = self.norm1(x + self.tokens(x).relu())
        return self.norm2(x + self.channel_mlp(x))


@wrong("mixer_block", "wrong parameters", "missing, or shared")
class BlockWithoutNormAndGelu(_Block):
    def forward(self, x):
        x = x + self.tokens(self.norm1(x))
        return x + self.channel_mlp(x.relu())


@wrong("mixer_block", "no gradient", "frozen", "norm1.weight")
class BlockFrozen(_Block):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.norm1.requires_grad_(False)


@wrong("mixer_block", "not finite", "NaN")
class BlockWithARoot(_Block):
    def forward(self, x):
        return super().forward(x).sqrt()


@wrong("mixer_block", "raises", "mat1 and mat2")
class BlockForgetsToTurn(_Block):
    def tokens(self, x):
        return self.token_mlp(x)


@wrong("mixer_block", "eps", "0.1")
class BlockWithALargeEps(_Block):
    eps = 0.1


@wrong("mixer_block", "overwrites what backward needs", "x = x + y")
class BlockOverwritesWhatBackwardNeeds(_Block):
    def forward(self, x):
        x = x.clone()
        x += self.tokens(self.norm1(x))
        x += self.channel_mlp(self.norm2(x))
        return x


@wrong("mixer_block", "random in eval mode", "__init__")
class BlockMakesItsLayerInForward(_Block):
    def forward(self, x):
        x = x + self.tokens(nn.LayerNorm(x.shape[-1], eps=1e-6).to(x)(x))
        return x + nn.Linear(x.shape[-1], x.shape[-1]).to(x)(self.norm2(x))


@wrong("mixer_block", "un-normed channel MLP", "Besides (ReLU)")
class BlockWithoutSecondNormAndGelu(_Block):
    def bend(self, mlp, x):
        return mlp.down(mlp.up(x).relu())

    def forward(self, x):
        x = x + self.bend(self.token_mlp, self.norm1(x).mT).mT
        return x + self.bend(self.channel_mlp, x)


# The whole Mixer, right


@right("mixer")
class MixerAsTimm(nn.Module):
    def __init__(
        self, image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim,
        channels_mlp_dim,
    ):  # fmt: skip
        super().__init__()
        h, w = image_size
        s = (h // patch_size) * (w // patch_size)
        self.stem = nn.Conv2d(3, hidden_dim, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(
            BlockWithEinops(
                num_tokens=s,
                hidden_dim=hidden_dim,
                tokens_mlp_dim=tokens_mlp_dim,
                channels_mlp_dim=channels_mlp_dim,
            )
            for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.head = nn.Linear(hidden_dim, num_classes)
        nn.init.zeros_(self.head.weight)

    def tokens(self, images):
        return self.stem(images).flatten(2).transpose(1, 2)

    def pool(self, x):
        return self.norm(x).mean(dim=1)

    def forward(self, images):
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x))


@right("mixer")
def mixer_in_a_row(
    *, image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim
):
    p, c = patch_size, hidden_dim
    s = image_size[0] * image_size[1] // p**2
    return nn.Sequential(
        Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=p, p2=p),
        nn.Linear(3 * p * p, c),
        *[block_in_a_row(s, c, tokens_mlp_dim, channels_mlp_dim) for _ in range(num_blocks)],
        nn.LayerNorm(c, eps=1e-6),
        Reduce("b s c -> b c", "mean"),
        nn.Linear(c, num_classes),
    )


@right("mixer")
class MixerOfEinMix(nn.Module):
    def __init__(self, *, image_size, patch_size, num_classes, num_blocks, hidden_dim, **widths):
        super().__init__()
        s = image_size[0] // patch_size * (image_size[1] // patch_size)
        self.head = nn.Linear(hidden_dim, num_classes)
        self.last_norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.layers = nn.Sequential(
            *(BlockOfEinMix(s, hidden_dim, *widths.values()) for _ in range(num_blocks))
        )
        self.embed = EinMix(
            "b c (h p) (w q) -> b (h w) d",
            weight_shape="c p q d",
            bias_shape="d",
            c=3,
            p=patch_size,
            q=patch_size,
            d=hidden_dim,
        )

    def forward(self, images):
        x = self.last_norm(self.layers(self.embed(images)))
        return reduce(self.head(x), "b s k -> b k", "mean")


@right("mixer")
class MixerOfBareParameters(nn.Module):
    def __init__(self, image_size, patch_size, num_classes, num_blocks, hidden_dim, **widths):
        super().__init__()
        self.p = patch_size
        n = 3 * patch_size**2
        s = image_size[0] * image_size[1] // patch_size**2
        self.embed = nn.Parameter(torch.randn(n, hidden_dim))
        self.embed_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.blocks = nn.ModuleList()
        for _ in range(num_blocks):
            self.blocks.append(BlockOfBareParameters(s, hidden_dim, **widths))
        self.scale = nn.Parameter(torch.ones(hidden_dim))
        self.shift = nn.Parameter(torch.zeros(hidden_dim))
        self.classes = nn.Parameter(torch.zeros(hidden_dim, num_classes))
        self.classes_bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, images):
        rows = []
        for y in range(0, images.shape[2], self.p):
            for x in range(0, images.shape[3], self.p):
                patch = images[:, :, y : y + self.p, x : x + self.p]
                rows.append(patch.flatten(1) @ self.embed + self.embed_bias)
        x = torch.stack(rows, 1)
        for block in self.blocks:
            x = block(x)
        x = F.layer_norm(x, self.scale.shape, self.scale, self.shift, 1e-6)
        return x.sum(1) / x.shape[1] @ self.classes + self.classes_bias


@right("mixer")
class MixerInHalves(nn.Module):
    def __init__(self, image_size, patch_size, num_classes, num_blocks, hidden_dim, **widths):
        super().__init__()
        s = image_size[0] * image_size[1] // patch_size**2
        c, t, d = hidden_dim, widths["tokens_mlp_dim"], widths["channels_mlp_dim"]
        self.p = patch_size
        self.norms1 = nn.ModuleList(nn.LayerNorm(c, eps=1e-6) for _ in range(num_blocks))
        self.norms2 = nn.ModuleList(nn.LayerNorm(c, eps=1e-6) for _ in range(num_blocks))
        self.mlps1 = nn.ModuleList(MlpOfTwoLinears(s, t) for _ in range(num_blocks))
        self.mlps2 = nn.ModuleList(MlpOfTwoLinears(c, d) for _ in range(num_blocks))
        self.norm, self.head = nn.LayerNorm(c, eps=1e-6), nn.Linear(c, num_classes)
        self.stem = nn.Linear(3 * patch_size**2, c)

    def forward(self, x):
        x = F.unfold(x.float(), self.p, stride=self.p).mT
        x = self.stem(x)
        for n1, n2, m1, m2 in zip(self.norms1, self.norms2, self.mlps1, self.mlps2, strict=True):
            x = x + m1(n1(x).mT).mT
            x = x + m2(n2(x))
        return self.head(F.adaptive_avg_pool1d(self.norm(x).mT, 1)[..., 0])


# The whole Mixer, wrong


def _with_blocks(block):
    # A student's Mixer that is right but for its blocks.
    def make(num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim, **rest):
        model = MixerAsTimm(
            num_blocks=num_blocks,
            hidden_dim=hidden_dim,
            tokens_mlp_dim=tokens_mlp_dim,
            channels_mlp_dim=channels_mlp_dim,
            **rest,
        )
        s = rest["image_size"][0] * rest["image_size"][1] // rest["patch_size"] ** 2
        sizes = dict(
            num_tokens=s,
            hidden_dim=hidden_dim,
            tokens_mlp_dim=tokens_mlp_dim,
            channels_mlp_dim=channels_mlp_dim,
        )
        model.blocks = nn.ModuleList(block(**sizes) for _ in range(num_blocks))
        return model

    make.__name__ = f"mixer_of_{block.__name__}"
    return make


for _block, _mistake, *_words in [
    (BlockWithSwappedWidths, "swapped widths", "22.98 M"),
    (BlockWithoutTurning, "both MLPs over channels", "no token ever"),
    (BlockSharesItsNorm, "shared LayerNorm", "used twice"),
    (BlockUsesNorm1Twice, "shared LayerNorm", "never used: blocks.0.norm2.weight"),
    (BlockForgetsNorm2, "un-normed channel MLP", "second LayerNorm"),
    (BlockNormsTokens, "LayerNorm over tokens", "C scales"),
    (BlockPostNorm, "post-norm", "inside the branch"),
    (BlockWithoutFirstSkip, "missing first residual", "around token mixing"),
    (BlockWithoutSecondSkip, "missing second residual", "around channel mixing"),
    (BlockReshapes, "reshape for transpose", "jumbled"),
    (BlockWithAnMlpForEachChannel, "untied token MLP", "C times as many"),
    (BlockAsInJax, "tanh GELU", "Each of your MLPs"),
    (BlockWithOneRelu, "ReLU", "Your channel MLP"),
    (BlockWithStubbornDropout, "random in eval mode", "F.dropout"),
    (BlockWithTokensReversed, "wrong token mixing", "token-mixing half"),
]:
    wrong("mixer", _mistake, *_words)(_with_blocks(_block))


@wrong("mixer", "blocks sharing weights", "[block] * n")
class MixerOfOneBlock(MixerAsTimm):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.blocks = nn.Sequential(*[self.blocks[0]] * sizes["num_blocks"])


@wrong("mixer", "parameters not registered", "nn.ModuleList")
class MixerWithBlocksInAList(MixerAsTimm):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        blocks = list(self.blocks)
        del self.blocks
        self.blocks = blocks


@wrong("mixer", "blocks not chained", "x = block(x)")
class MixerForgetsTheChain(MixerAsTimm):
    def forward(self, images):
        x = self.tokens(images)
        for block in self.blocks:
            y = block(x)
        return self.head(self.pool(y))


@wrong("mixer", "one block", "whatever num_blocks says")
class MixerOfADepthOfOne(MixerAsTimm):
    def __init__(self, *, num_blocks, **sizes):
        super().__init__(num_blocks=1, **sizes)

    def forward(self, images):
        return self.head(self.pool(self.blocks[0](self.tokens(images))))


@wrong("mixer", "wrong without its MLPs", "stem")
class MixerOfUpsideDownImages(MixerAsTimm):
    def forward(self, images):
        return super().forward(images.flip(2))


@wrong("mixer", "no gradient", "stem.weight")
class MixerWithFrozenStem(MixerInHalves):
    def forward(self, x):
        with torch.no_grad():
            patches = self.stem(F.unfold(x, self.p, stride=self.p).mT)
        x = patches
        for n1, n2, m1, m2 in zip(self.norms1, self.norms2, self.mlps1, self.mlps2, strict=True):
            x = x + m1(n1(x).mT).mT
            x = x + m2(n2(x))
        return self.head(self.norm(x).mean(1))


@right("mixer")  # with a remark
class MixerForSquares(MixerAsTimm):
    def __init__(self, *, image_size, **sizes):
        super().__init__(image_size=(image_size, image_size), **sizes)


@wrong("mixer", "wrong shape", "(b, num_classes)")
class MixerWithTurnedLogits(MixerAsTimm):
    def forward(self, images):
        return super().forward(images).T
