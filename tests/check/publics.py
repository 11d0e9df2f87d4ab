"""Mixers as one finds them in public: honest ones in many forms, and wrong ones, often twice."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange, Reduce
from torch import nn


class Mlp(nn.Module):
    bias = True

    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=self.bias)
        self.fc2 = nn.Linear(hidden, dim, bias=self.bias)

    def act(self, x):
        return F.gelu(x)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


def mlp(act=F.gelu, **values):
    return type("Mlp", (Mlp,), dict(act=lambda self, x: act(x), **values))


RELU, SILU, BARE = mlp(F.relu), mlp(F.silu), mlp(bias=False)


def no_norm(*_):
    return nn.Identity()


def plain_norm(_, c):
    return nn.LayerNorm(c, eps=1e-6, elementwise_affine=False)


class OverTokens(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.mT).mT


class Block(nn.Module):
    mlp = Mlp

    def __init__(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        super().__init__()
        self.n1, self.n2 = self.norm(hidden_dim), self.norm(hidden_dim)
        self.t, self.c = (
            self.mlp(num_tokens, tokens_mlp_dim),
            self.mlp(hidden_dim, channels_mlp_dim),
        )

    def norm(self, c):
        return nn.LayerNorm(c, eps=1e-6)

    def tok(self, x):
        return self.t(x.transpose(1, 2)).transpose(1, 2)

    def forward(self, x):
        x = x + self.tok(self.n1(x))
        return x + self.c(self.n2(x))


def block(forward=Block.forward, base=Block, **values):
    return type("Block", (base,), dict(forward=forward, **values))


def widths(choose, **values):
    """A block whose MLPs have other widths: ``choose(S, C, D_S, D_C)`` gives both."""

    def init(self, num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
        chosen = choose(num_tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim)
        Block.__init__(self, num_tokens, hidden_dim, *chosen)

    return block(__init__=init, **values)


# Forward passes of blocks


def post_norm(b, x):
    x = b.n1(x + b.tok(x))
    return b.n2(x + b.c(x))


def no_first_skip(b, x):
    x = b.tok(b.n1(x))
    return x + b.c(b.n2(x))


def no_second_skip(b, x):
    x = x + b.tok(b.n1(x))
    return b.c(b.n2(x))


def normed_skips(b, x):
    x = b.n1(x)
    x = x + b.tok(x)
    x = b.n2(x)
    return x + b.c(x)


def side_by_side(b, x):
    return x + b.tok(b.n1(x)) + b.c(b.n2(x))


def from_the_start(b, x):
    return x + b.c(b.n2(x + b.tok(b.n1(x))))


def left_out(b, x):
    u = b.tok(b.n1(x))
    return u + b.c(b.n2(x + u))


def reshaped(b, x):
    return b.t(b.n1(x).reshape(x.shape[0], x.shape[2], x.shape[1])).reshape(x.shape)


def reshaped_alone(b, x):
    x = reshaped(b, x)
    return x + b.c(b.n2(x))


def reshaped_from_the_start(b, x):
    return x + b.c(b.n2(x + reshaped(b, x)))


def channels_first(b, x):
    x = x + b.c(b.n1(x))
    return x + b.tok(b.n2(x))


def channels_first_alone(b, x):
    x = b.c(b.n1(x))
    return x + b.tok(b.n2(x))


def one_norm_alone(b, x):
    x = x + b.tok(b.n1(x))
    return b.c(b.n1(x))


def one_norm_carried(b, x):
    n = b.n1(x)
    x = n + b.tok(n)
    return x + b.c(b.n1(x))


def unnormed_channels_alone(b, x):
    x = b.tok(b.n1(x))
    return x + b.c(x)


def kept(b, x):
    x = x + b.tok(b.n1(x)) / 0.9
    return x + b.c(b.n2(x)) / 0.9


def in_place(b, x):
    x = x.clone()
    x += b.tok(b.n1(x))
    x += b.c(b.n2(x))
    return x


def odd(b, x):
    x = x + b.tok(b.n1(x)).flip(1)
    return x + b.c(b.n2(x)) / 2


# Whole networks


class Net(nn.Module):
    block = Block

    def __init__(
        self, image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim,
        channels_mlp_dim,
    ):  # fmt: skip
        super().__init__()
        h, w = image_size
        sizes = (h * w // patch_size**2, hidden_dim, tokens_mlp_dim, channels_mlp_dim)
        self.proj = nn.Conv2d(3, hidden_dim, patch_size, patch_size, bias=self.bias)
        self.blocks = nn.Sequential(*(self.block(*sizes) for _ in range(self.number(num_blocks))))
        self.norm = self.last(hidden_dim)
        self.head = nn.Linear(hidden_dim, num_classes, bias=self.bias)
        if self.positions:
            self.pos = nn.Parameter(torch.zeros(1, sizes[0], hidden_dim))

    bias, positions = True, False

    def number(self, n):
        return n

    def last(self, c):
        return nn.LayerNorm(c, eps=1e-6)

    def embed(self, x):
        x = self.proj(x).flatten(2).transpose(1, 2)
        return x + self.pos if self.positions else x

    def pool(self, x):
        return x.mean(1)

    def forward(self, x):
        return self.head(self.pool(self.norm(self.blocks(self.embed(x)))))


def net(**values):
    return type("Net", (Net,), values)


def first_token(_, x):
    return x[:, 0]


def softmaxed(n, x):
    return Net.forward(n, x).softmax(-1)


def late_norm(n, x):
    return n.head(n.norm(n.blocks(n.embed(x)).mean(1)))


def norm_made_in_forward(n, x):
    norm = nn.LayerNorm(n.head.in_features).to(x)
    return n.head(norm(n.blocks(n.embed(x))).mean(1))


def head_made_in_forward(n, x):
    head = nn.Linear(n.head.in_features, n.head.out_features).to(x)
    return head(n.norm(n.blocks(n.embed(x))).mean(1))


def down_the_columns(n, x):
    return rearrange(n.proj(x), "b c h w -> b (w h) c")


def reshaped_stem(n, x):
    y = n.proj(x)
    return y.reshape(y.shape[0], -1, y.shape[1])


def less(_, n):
    return n - 1


NO_LAST, NO_AFFINE = "no final norm", "LayerNorm without scale and shift"
RELU_BLOCK = block(mlp=RELU)

# (check, answer, every mistake that has to be named)
WRONG = (
    ("mixer", net(last=no_norm, block=RELU_BLOCK), NO_LAST, "ReLU"),
    ("mixer", net(last=no_norm, block=block(post_norm)), NO_LAST, "post-norm"),
    ("mixer", net(last=no_norm, block=block(normed_skips)), NO_LAST, "skip from the normalised"),
    ("mixer", net(last=no_norm, pool=first_token), NO_LAST, "first-token pooling"),
    ("mixer", net(last=no_norm, pool=lambda _, x: x.amax(1)), NO_LAST, "max pooling"),
    ("mixer", net(last=no_norm, block=block(side_by_side)), NO_LAST, "halves side by side"),
    ("mixer", net(last=no_norm, block=block(from_the_start)),
     NO_LAST, "second skip from the start"),
    ("mixer", net(last=no_norm, block=block(left_out)), NO_LAST, "input left out"),
    ("mixer", net(last=no_norm, block=block(odd)), NO_LAST),
    ("mixer", net(last=no_norm, block=block(norm=no_norm)), "no LayerNorm"),
    ("mixer", net(last=no_norm, block=block(norm=no_norm, mlp=RELU)), "no LayerNorm", "ReLU"),
    ("mixer", net(last=no_norm, block=block(odd, norm=no_norm)), "no LayerNorm"),
    ("mixer", net(number=less), "too few blocks"),
    ("mixer", net(number=less, block=RELU_BLOCK), "too few blocks", "ReLU"),
    ("mixer", net(number=less, block=block(odd)), "too few blocks"),
    ("mixer", net(number=lambda *_: 1), "one block"),
    ("mixer", net(block=RELU_BLOCK, pool=lambda _, x: x.amax(1)), "ReLU", "max pooling"),
    ("mixer", net(embed=lambda n, x: F.gelu(Net.embed(n, x)), forward=late_norm),
     "GELU after the stem", "norm after pooling"),
    ("mixer", net(positions=True, pool=first_token), "positional embedding", "first-token pooling"),
    ("mixer", net(positions=True, block=RELU_BLOCK), "positional embedding", "ReLU"),
    ("mixer", net(forward=softmaxed, block=RELU_BLOCK), "softmax inside forward", "ReLU"),
    ("mixer", net(forward=softmaxed, block=block(mlp=SILU)),
     "softmax inside forward", "another nonlinearity"),
    ("mixer", net(embed=down_the_columns, block=block(no_first_skip)),
     "column-major tokens", "missing first residual"),
    ("mixer", net(embed=reshaped_stem, block=block(post_norm)),
     "reshape for transpose", "post-norm"),
    ("mixer", net(last=plain_norm, block=block(norm=plain_norm, mlp=RELU)), NO_AFFINE, "ReLU"),
    ("mixer", net(last=plain_norm, block=block(norm=plain_norm), pool=first_token),
     NO_AFFINE, "first-token pooling"),
    ("mixer", net(bias=False), "stem without bias", "head without bias"),
    ("mixer", net(bias=False, block=block(mlp=BARE)), "biases missing"),
    ("mixer", net(block=block(mlp=mlp(F.relu, bias=False))), "biases missing", "ReLU"),
    ("mixer", net(block=block(mlp=BARE), last=no_norm), "biases missing", NO_LAST),
    ("mixer", net(last=lambda _, c: OverTokens(c),
                  block=block(norm=lambda _, c: OverTokens(c), mlp=RELU)), "BatchNorm", "ReLU"),
    ("mixer", net(forward=norm_made_in_forward, last=no_norm), "parameters not registered"),
    ("mixer", net(forward=head_made_in_forward), "random in eval mode"),
    ("mixer", net(block=block(in_place)), "overwrites what backward needs"),
    ("mixer_block", block(post_norm, mlp=RELU), "post-norm", "ReLU"),
    ("mixer_block", block(post_norm, mlp=BARE), "post-norm", "biases missing"),
    ("mixer_block", block(unnormed_channels_alone),
     "missing first residual", "un-normed channel MLP"),
    ("mixer_block", block(one_norm_alone), "shared LayerNorm", "missing second residual"),
    ("mixer_block", block(one_norm_carried), "shared LayerNorm", "first skip from the normalised"),
    ("mixer_block", block(reshaped_alone), "reshape for transpose", "missing first residual"),
    ("mixer_block", block(reshaped_from_the_start),
     "reshape for transpose", "second skip from the start"),
    ("mixer_block", block(channels_first, mlp=RELU), "channels first", "ReLU"),
    ("mixer_block", block(channels_first_alone), "channels first", "missing first residual"),
    ("mixer_block", block(no_second_skip, norm=no_norm),
     "no LayerNorm", "missing second residual"),
    ("mixer_block", block(side_by_side, norm=no_norm), "no LayerNorm", "halves side by side"),
    ("mixer_block", widths(lambda s, c, d, e: (e, d), mlp=RELU), "swapped widths", "ReLU"),
    ("mixer_block", block(no_first_skip, base=widths(lambda s, c, d, e: (e, d))),
     "swapped widths", "missing first residual"),
    ("mixer_block", block(norm=plain_norm, mlp=RELU), NO_AFFINE, "ReLU"),
    ("mixer_block", block(post_norm, norm=plain_norm), NO_AFFINE, "post-norm"),
    ("mixer_block", block(mlp=mlp(lambda x: x * torch.erf(x / math.sqrt(2)))), "x times erf"),
    ("mixer_block", block(kept, mlp=RELU), "branch divided", "ReLU"),
    ("mixer_block", widths(lambda s, c, d, e: (c, c)), "both widths C"),
    ("mixer_block", widths(lambda s, c, d, e: (c, e)), "wrong hidden width"),
    ("mixer_block", widths(lambda s, c, d, e: (e, e)), "wrong hidden width"),
    ("mixer_block", widths(lambda s, c, d, e: (d, d)), "wrong hidden width"),
    ("mixer_block", widths(lambda s, c, d, e: (e, e), mlp=RELU), "wrong hidden width", "ReLU"),
    ("mixer_block", widths(lambda s, c, d, e: (s, c)), "hidden width ignored"),
    ("mixer_block", block(in_place), "overwrites what backward needs"),
    ("mixer_block", block(in_place, mlp=RELU), "ReLU"),
)  # fmt: skip


# Honest forms: (check, answer); each is one line for who has the class


class PreNorm(nn.Module):  # as in the shortest of all public ones
    def __init__(self, dim, fn):
        super().__init__()
        self.fn, self.norm = fn, nn.LayerNorm(dim)

    def forward(self, x):
        return self.fn(self.norm(x)) + x


def feed_forward(dim, factor=4, drop=0.0, dense=nn.Linear):
    inner = int(dim * factor)
    return nn.Sequential(
        dense(dim, inner), nn.GELU(), nn.Dropout(drop), dense(inner, dim), nn.Dropout(drop)
    )


def shortest(image_size, channels, patch_size, dim, depth, num_classes, factor=4, factor_2=0.5):
    patches = (image_size // patch_size) ** 2

    def conv(a, b):
        return nn.Conv1d(a, b, 1)

    return nn.Sequential(
        Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch_size, p2=patch_size),
        nn.Linear(patch_size**2 * channels, dim),
        *(
            nn.Sequential(
                PreNorm(dim, feed_forward(patches, factor, dense=conv)),
                PreNorm(dim, feed_forward(dim, factor_2)),
            )
            for _ in range(depth)
        ),
        nn.LayerNorm(dim),
        Reduce("b n c -> b c", "mean"),
        nn.Linear(dim, num_classes),
    )


class Assigned(nn.Module):  # a university's: its own names, one image_size, an assert
    def __init__(self, num_classes, img_size, patch_size, embed_dim, num_blocks, drop_rate=0.0):
        super().__init__()
        self.img_size = img_size
        self.patchemb = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        patches = (img_size // patch_size) ** 2
        self.blocks = nn.Sequential(*(Ratio(embed_dim, patches) for _ in range(num_blocks)))
        self.norm, self.head = nn.LayerNorm(embed_dim), nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        _, _, h, w = images.shape
        assert h == self.img_size and w == self.img_size, f"{h}x{w}, not {self.img_size}"
        x = self.patchemb(images).flatten(2).transpose(1, 2)
        return self.head(torch.mean(self.norm(self.blocks(x)), dim=1))


class Ratio(nn.Module):
    def __init__(self, dim, seq_len, mlp_ratio=(0.5, 4.0), activation="gelu", drop=0.1):
        super().__init__()
        tokens_dim, channels_dim = (int(ratio * dim) for ratio in mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_tokens = Mlp(seq_len, tokens_dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp_channels = Mlp(dim, channels_dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        x = x + self.drop(self.mlp_tokens(self.norm1(x).permute(0, 2, 1)).permute(0, 2, 1))
        return x + self.drop(self.mlp_channels(self.norm2(x)))


class OneFactor(Ratio):
    def __init__(self, channels, tokens, expansion):
        super().__init__(channels, tokens)
        self.mlp_tokens = Mlp(tokens, tokens * expansion)
        self.mlp_channels = Mlp(channels, channels * expansion)


class OneSide(Net):  # one image_size for both sides
    def __init__(self, image_size, **sizes):
        super().__init__((image_size, image_size), **sizes)
        assert isinstance(image_size, int)


class AssertsSquare(Net):
    def __init__(self, image_size, **sizes):
        assert image_size[0] == image_size[1], "square images only"
        super().__init__(image_size, **sizes)


def loose_eps(_, c):
    return nn.LayerNorm(c)


def by_einsum(n, x):
    p = n.proj.kernel_size[0]
    x = rearrange(x, "b c (y p) (x q) -> b (y x) c p q", p=p, q=p)
    return torch.einsum("bscpq,dcpq->bsd", x, n.proj.weight) + n.proj.bias


def loops(n, x):
    return torch.stack([n.proj(x)[:, :, i, j] for i in range(n.proj(x).shape[2])
                        for j in range(n.proj(x).shape[3])], dim=1)  # fmt: skip


def gelu_by_erf(x):
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def swapped(b, x):
    x = x + b.t(b.n1(x).mT).mT
    y = b.n2(x)
    return torch.add(x, b.c(y))


def in_float32(b, x):
    return Block.forward(b.float(), x.float())


def per_column(b, x):
    n = b.n1(x)
    x = x + torch.stack([b.t(n[:, :, i]) for i in range(x.shape[2])], dim=2)
    return x + b.c(b.n2(x))


def keyed(kind, names):
    """The one-line lambda that is told for other names: theirs by ours."""
    return lambda **s: kind(**{theirs: s[ours] for theirs, ours in names.items()})


def ratios(s):
    return s["tokens_mlp_dim"] / s["hidden_dim"], s["channels_mlp_dim"] / s["hidden_dim"]


FULL = dict(num_classes=5, num_blocks=2, hidden_dim=12, tokens_mlp_dim=7, channels_mlp_dim=20)

HONEST = (
    ("mixer_block", block()),
    ("mixer_block", block(norm=loose_eps)),
    ("mixer_block", block(swapped)),
    ("mixer_block", block(in_float32)),
    ("mixer_block", block(per_column)),
    ("mixer_block", block(mlp=mlp(gelu_by_erf))),
    ("mixer_block", lambda **s: Ratio(s["hidden_dim"], s["num_tokens"], ratios(s))),
    ("mixer_block", Ratio(16, 9)),
    ("mixer_block", Ratio(64, 64)),
    ("mixer_block", OneFactor(8, 6, 2)),
    ("mixer_block", OneFactor(16, 16, 4)),
    ("mixer_block", lambda **s: block()(*s.values())),
    ("mlp_block", lambda **s: Mlp(s["dim"], s["hidden_dim"])),
    ("mlp_block", Mlp(6, 24)),
    ("mlp_block", Mlp(24, 24)),
    ("mlp_block", feed_forward(6, 2)),
    ("mlp_block", lambda **s: feed_forward(s["dim"], s["hidden_dim"] / s["dim"] + 1e-9, 0.3)),
    ("mlp_block", lambda **s: mlp(gelu_by_erf)(*s.values())),
    ("mlp_block", nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 4))),
    ("mixer", net()),
    ("mixer", net(last=loose_eps, block=block(norm=loose_eps))),
    ("mixer", net(embed=by_einsum)),
    ("mixer", net(embed=loops)),
    ("mixer", net(pool=lambda _, x: F.adaptive_avg_pool1d(x.mT, 1).flatten(1))),
    ("mixer", net(block=block(swapped))),
    ("mixer", OneSide),
    ("mixer", AssertsSquare),
    ("mixer", net()((8, 8), 4, **FULL)),
    ("mixer", net(embed=by_einsum)((12, 12), 4, **FULL)),
    ("mixer", shortest(16, 3, 4, 12, 3, 5)),
    ("mixer", shortest(32, 3, 8, 16, 2, 10, 2, 2)),
    ("mixer", Assigned(10, 32, 4, 24, 3)),
    ("mixer", Assigned(10, 16, 4, 16, 1)),
    ("mixer", lambda **s: shortest(s["image_size"], 3, s["patch_size"], s["hidden_dim"],
                                   s["num_blocks"], s["num_classes"],
                                   (s["tokens_mlp_dim"] + 0.5) * s["patch_size"] ** 2
                                   / s["image_size"] ** 2,
                                   (s["channels_mlp_dim"] + 0.5) / s["hidden_dim"])),
    ("mixer", keyed(lambda side, **s: OneSide(side, **s), dict(
        side="image_size", patch_size="patch_size", num_classes="num_classes",
        num_blocks="num_blocks", hidden_dim="hidden_dim", tokens_mlp_dim="tokens_mlp_dim",
        channels_mlp_dim="channels_mlp_dim"))),
    ("mixer", net(forward=lambda n, x: n.head(n.norm(n.blocks(n.embed(x)))).mean(1))),
    ("mixer", net(block=block(in_float32), forward=lambda n, x: Net.forward(n.float(), x.float()))),
    ("patchify", lambda x, p: F.unfold(x, p, stride=p).permute(0, 2, 1)),
    ("patchify", lambda x, p: x.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5)
     .flatten(3).flatten(1, 2)),
    ("patch_embedding", lambda x, w, b, p: F.conv2d(
        x, w.reshape(len(w), x.shape[1], p, p), b, stride=p).flatten(2).transpose(1, 2)),
)  # fmt: skip
