"""A photograph's way through a Mixer, and one number at each station taken apart.

Pure functions of a model and one preprocessed image. Letters in shapes are those of
:mod:`mixer_lite.model`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor

from mixer_lite.filters import block_at
from mixer_lite.model import MlpBlock, MlpMixer, mixer_blocks

STATIONS = ("stem", "tokens", "channels", "classes")


class Sum(NamedTuple):
    """One number: ``values`` weighed with ``weights``, plus ``bias``, is ``sum``.

    In an MLP of n inputs and m hidden units also what becomes of it; elsewhere these are ``None``.
    """

    values: Tensor  # (n,)
    weights: Tensor  # (n,)
    bias: Tensor  # ()
    sum: Tensor  # ()
    activations: Tensor | None = None  # (m,) of all hidden units, after GELU
    written: Tensor | None = None  # (n,) what the chosen unit writes for each unit of activation
    offsets: Tensor | None = None  # (n,) bias of the second layer
    before: Tensor | None = None  # (n,) what the skip connection carries
    after: Tensor | None = None  # (n,) before + what all units write + offsets; stem: the token


@torch.no_grad()
def tokens_on_the_way(model: MlpMixer, image: Tensor) -> Tensor:
    """The table of tokens at every station: ``(1, c, h, w) -> (2 L + 1, S, C)``.

    First after the stem, then after the token mixing and after the channel mixing of each block.
    """
    x = model.stem(model.patchify(image))  # (1, S, C)
    way = [x]
    for block in mixer_blocks(model):
        mixed = x + block.mlp_tokens(block.norm1(x).mT).mT  # (1, S, C)
        x = mixed + block.mlp_channels(block.norm2(mixed))  # (1, S, C)
        way += [mixed, x]
    return torch.cat(way)


@torch.no_grad()
def logits_by_depth(model: MlpMixer, way: Tensor) -> Tensor:
    """What ``explain.prediction_by_depth`` says: ``(2 L + 1, S, C) -> (L + 1, K)``."""
    return model.head(reduce(model.norm(way[::2]), "n s c -> n c", "mean"))


@torch.no_grad()
def stem_sum(model: MlpMixer, image: Tensor, way: Tensor, token: int, channel: int) -> Sum:
    """One channel of one token, from the numbers of its patch (n = in_channels P P)."""
    values = model.patchify(image)[0, token]  # (c*P*P,)
    return _sum(values, model.stem.weight[channel], model.stem.bias[channel])._replace(
        after=way[0, token]
    )


@torch.no_grad()
def token_mixing_sum(model: MlpMixer, way: Tensor, block: int, channel: int, unit: int) -> Sum:
    """One token-mixing unit of a block at one channel of all tokens (n = S)."""
    before, after = way[2 * block : 2 * block + 2, :, channel]  # (S,) each
    read = block_at(model, block).norm1(way[2 * block])[:, channel]  # (S, C) -> (S,)
    return _mlp_sum(block_at(model, block).mlp_tokens, read, unit, before, after)


@torch.no_grad()
def channel_mixing_sum(model: MlpMixer, way: Tensor, block: int, token: int, unit: int) -> Sum:
    """One channel-mixing unit of a block at all channels of one token (n = C)."""
    before, after = way[2 * block + 1 : 2 * block + 3, token]  # (C,) each
    read = block_at(model, block).norm2(before)  # (C,)
    return _mlp_sum(block_at(model, block).mlp_channels, read, unit, before, after)


@torch.no_grad()
def class_sum(model: MlpMixer, way: Tensor, class_index: int) -> Sum:
    """The logit of a class from the mean token (n = C)."""
    mean = reduce(model.norm(way[-1]), "s c -> c", "mean")
    return _sum(mean, model.head.weight[class_index], model.head.bias[class_index])  # type: ignore[index]


def _sum(values: Tensor, weights: Tensor, bias: Tensor) -> Sum:
    return Sum(values, weights, bias, values @ weights + bias)


def _mlp_sum(mlp: MlpBlock, read: Tensor, unit: int, before: Tensor, after: Tensor) -> Sum:
    return _sum(read, mlp.fc1.weight[unit], mlp.fc1.bias[unit])._replace(
        activations=mlp.act(mlp.fc1(read)),
        written=mlp.fc2.weight[:, unit],
        offsets=mlp.fc2.bias,
        before=before,
        after=after,
    )
