"""Lesson 3, arithmetic."""

import math

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixer_lite import specs
from tests.check.zoo import right, wrong


@right("count_parameters")
def params_in_one_line(
    image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim
):
    s, c = (image_size // patch_size) ** 2, hidden_dim
    tokens = 2 * s * tokens_mlp_dim + tokens_mlp_dim + s
    channels = 2 * c * channels_mlp_dim + channels_mlp_dim + c
    stem, head = 3 * patch_size**2 * c + c, c * num_classes + num_classes
    return stem + num_blocks * (tokens + channels + 4 * c) + 2 * c + head


@right("count_parameters")
def params_layer_by_layer(**sizes):
    def layer(m, n):
        return m * n + n

    c, side = sizes["hidden_dim"], sizes["image_size"] // sizes["patch_size"]
    total = layer(3 * sizes["patch_size"] * sizes["patch_size"], c)
    for _ in range(sizes["num_blocks"]):
        for n, hidden in ((side * side, "tokens_mlp_dim"), (c, "channels_mlp_dim")):
            total += c + c  # a LayerNorm
            total += layer(n, sizes[hidden]) + layer(sizes[hidden], n)
    total += c + c
    total += layer(c, sizes["num_classes"])
    return total


class Block(nn.Module):
    def __init__(self, s, c, d_s, d_c):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(c), nn.LayerNorm(c)])
        self.tokens = nn.Sequential(nn.Conv1d(s, d_s, 1), nn.GELU(), nn.Conv1d(d_s, s, 1))
        self.channels = nn.Sequential(nn.Linear(c, d_c), nn.GELU(), nn.Linear(d_c, c))

    def forward(self, x):
        x = x + self.tokens(self.norms[0](x))
        return x + self.channels(self.norms[1](x))


def build(
    image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim
):
    s = (image_size // patch_size) ** 2
    with torch.device("meta"):
        stem = nn.Conv2d(3, hidden_dim, patch_size, patch_size)
        sizes = (s, hidden_dim, tokens_mlp_dim, channels_mlp_dim)
        blocks = nn.Sequential(*(Block(*sizes) for _ in range(num_blocks)))
        return nn.ModuleList(
            [stem, blocks, nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, num_classes)]
        )


@right("count_parameters")
def params_of_a_model(**sizes):
    return sum(p.numel() for p in build(**sizes).parameters())


@right("count_parameters")
def params_of_timm(**sizes):
    from timm.models.mlp_mixer import MlpMixer

    c = sizes["hidden_dim"]
    # timm takes ratios, and rounds down.
    ratios = tuple((sizes[name] + 0.5) / c for name in ("tokens_mlp_dim", "channels_mlp_dim"))
    with torch.device("meta"):
        model = MlpMixer(
            img_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            num_classes=sizes["num_classes"],
            num_blocks=sizes["num_blocks"],
            embed_dim=c,
            mlp_ratio=ratios,
        )
    return sum(p.numel() for p in model.parameters())


@right("count_parameters")
def params_with_numpy(**sizes):
    p, c = np.int64(sizes["patch_size"]), np.int64(sizes["hidden_dim"])
    s = np.square(sizes["image_size"] // p)
    weights = [3 * p * p * c, c * sizes["num_classes"]]
    biases = [c, sizes["num_classes"]]
    for m, n in ((s, sizes["tokens_mlp_dim"]), (c, sizes["channels_mlp_dim"])):
        weights.append(sizes["num_blocks"] * 2 * m * n)
        biases.append(sizes["num_blocks"] * (m + n))
    return np.sum(weights) + np.sum(biases) + (sizes["num_blocks"] * 2 + 1) * 2 * c


@right("count_parameters")
def params_as_a_tensor(**sizes):
    shapes = [tuple(p.shape) for p in build(**sizes).parameters()]
    return torch.tensor([math.prod(shape) for shape in shapes]).sum()


def params(
    image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim,
    s=None, colours=3, norms=2, final=2, head_bias=1, stem_bias=1, tokens_bias=1, channels_bias=1,
):  # fmt: skip
    """A count with something to get wrong."""
    s, c = s or (image_size // patch_size) ** 2, hidden_dim
    block = 2 * s * tokens_mlp_dim + tokens_bias * (tokens_mlp_dim + s)
    block += 2 * c * channels_mlp_dim + channels_bias * (channels_mlp_dim + c) + norms * 2 * c
    stem = colours * patch_size**2 * c + stem_bias * c
    return stem + num_blocks * block + final * c + c * num_classes + head_bias * num_classes


@wrong("count_parameters", "head missing", "C·K")
def params_as_in_table_1(**sizes):
    return params(**{**sizes, "num_classes": 0})


@wrong("count_parameters", "token MLP for each channel", "all channels share")
def params_with_untied_tokens(**sizes):
    s, c, d = (sizes["image_size"] // sizes["patch_size"]) ** 2, sizes["hidden_dim"], 0
    d = sizes["tokens_mlp_dim"]
    one = 2 * s * d + d + s
    return params(**sizes) + sizes["num_blocks"] * (c - 1) * one


@wrong("count_parameters", "head bias", "Besides (final LayerNorm)")
def params_with_two_mistakes(**sizes):
    return params(**sizes, head_bias=0, final=0)


@wrong("count_parameters", "not a whole number", "//")
def params_divided_by_a_slash(**sizes):
    return params(**sizes, s=(sizes["image_size"] / sizes["patch_size"]) ** 2)


@wrong("count_parameters", "not a number", "sum(parts.values())")
def params_by_part(**sizes):
    return {"everything": params(**sizes)}


@wrong("count_parameters", "wrong parts", "the letters in the last line")
def params_with_three_heads(**sizes):
    return params(**sizes) + 2 * sizes["hidden_dim"] * sizes["num_classes"]


@wrong("count_parameters", "not the same twice", "from call to call")
def params_that_pile_up(**sizes):
    params_that_pile_up.total = getattr(params_that_pile_up, "total", 1) + params(**sizes)
    return params_that_pile_up.total


@right("count_macs")
def macs_in_one_line(
    image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim
):
    s, c = (image_size // patch_size) ** 2, hidden_dim
    blocks = num_blocks * 2 * s * c * (tokens_mlp_dim + channels_mlp_dim)
    return s * 3 * patch_size**2 * c + blocks + c * num_classes


@right("count_macs")
def macs_product_by_product(**sizes):
    p, c = sizes["patch_size"], sizes["hidden_dim"]
    s = sizes["image_size"] // p * (sizes["image_size"] // p)
    products = [(s, 3 * p * p, c), (1, c, sizes["num_classes"])]  # rows, inputs, outputs
    for _ in range(sizes["num_blocks"]):
        products += [(c, s, sizes["tokens_mlp_dim"]), (c, sizes["tokens_mlp_dim"], s)]
        products += [(s, c, sizes["channels_mlp_dim"]), (s, sizes["channels_mlp_dim"], c)]
    return sum(math.prod(product) for product in products)


@right("count_macs")
def macs_counted_by_torch(**sizes):
    def flops(layer, x):
        with FlopCounterMode(display=False) as counter:
            y = layer(x)
        return y, counter.get_total_flops()

    stem, blocks, _, head = build(**{**sizes, "num_blocks": 1})
    images = torch.empty(1, 3, sizes["image_size"], sizes["image_size"], device="meta")
    x, first = flops(stem, images)
    x, one_block = flops(blocks, x.flatten(2).mT)
    _, last = flops(head, x.mean(1))
    return (first + sizes["num_blocks"] * one_block + last) // 2


@right("count_macs")
def macs_from_the_weights(**sizes):
    c, s = sizes["hidden_dim"], (sizes["image_size"] // sizes["patch_size"]) ** 2
    stem, blocks, _, head = build(**sizes)
    total = stem.weight.numel() * s + head.weight.numel()
    for block in blocks:
        total += sum(w.numel() for w in block.tokens.parameters() if w.ndim == 3) * c
        total += sum(w.numel() for w in block.channels.parameters() if w.ndim > 1) * s
    return total


@right("count_macs")
def macs_with_numpy(**sizes):
    s = np.int64(sizes["image_size"] // sizes["patch_size"]) ** 2
    c, d = sizes["hidden_dim"], np.array([sizes["tokens_mlp_dim"], sizes["channels_mlp_dim"]])
    stem, head = 3 * s * c * sizes["patch_size"] ** 2, c * sizes["num_classes"]
    return stem + head + sizes["num_blocks"] * np.sum(2 * s * c * d)


def macs(
    image_size, patch_size, num_classes, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim,
    s=None, stem_rows=None, token_rows=None, channel_rows=None, head_rows=1, matrices=2, colours=3,
):  # fmt: skip
    """A count with something to get wrong."""
    c, s = hidden_dim, s or (image_size // patch_size) ** 2
    tokens = matrices * s * tokens_mlp_dim * (token_rows or c)
    channels = matrices * c * channels_mlp_dim * (channel_rows or s)
    stem = (stem_rows or s) * colours * patch_size**2 * c
    return stem + num_blocks * (tokens + channels) + head_rows * c * num_classes


@wrong("count_macs", "operations for multiply-accumulates", "twice")
def macs_as_flops(**sizes):
    return 2 * macs(**sizes)


@wrong("count_macs", "biases counted", "matrix products alone")
def macs_with_biases(**sizes):
    s, c = (sizes["image_size"] // sizes["patch_size"]) ** 2, sizes["hidden_dim"]
    mlps = c * (sizes["tokens_mlp_dim"] + s) + s * (sizes["channels_mlp_dim"] + c)
    return macs(**sizes) + s * c + sizes["num_blocks"] * mlps + sizes["num_classes"]


@wrong("count_macs", "LayerNorms counted", "OpenMMLab", "Besides (")
def macs_as_openmmlab_counts(**sizes):
    return (
        specs.count_openmmlab_flops(**sizes)["total"] + sizes["hidden_dim"] * sizes["num_classes"]
    )


@wrong("count_macs", "always the same number", "yours 12,601,767,936")
def macs_known_by_heart(**sizes):
    return 12_601_767_936


@wrong("count_macs", "wrong number", "Mixer-B/16")
def macs_rounded(**sizes):
    return round(macs(**sizes) / 1000) * 1000


@wrong("count_macs", "not a whole number", "//")
def macs_in_billions(**sizes):
    return macs(**sizes) / 1e9


@wrong("count_macs", "raises", "TypeError")
def macs_of_other_names(image_size, patch_size, classes, depth, dim, tokens_dim, channels_dim):
    return image_size * patch_size * classes * depth * dim * tokens_dim * channels_dim
