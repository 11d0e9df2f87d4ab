"""Mysteries of the bug hunt: one mistake, drawn by a seed, in one block of a trained Mixer.

:func:`make` gives the model, :func:`answer` says what is wrong with it and where, which is what
``check.culprit`` asks for. Spoilers below.
"""

from __future__ import annotations

import copy
import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixer_lite.bugs import HEALTHY, SkipFromTheStart, SleeplessMlp, Suspect, disguised
from mixer_lite.model import MixerBlock, MlpMixer, mixer_blocks
from mixer_lite.specs import spec
from mixer_lite.weights.pretrained import load_pretrained

KINDS: dict[str, str] = {
    "skip": "the second skip connection starts at the block's input",
    "norm": "one LayerNorm serves both halves of the block",
    "dropout": "an MLP's dropout stays awake in eval()",
    "epsilon": "a LayerNorm's epsilon is 1e-5 in place of 1e-6",
    "reshape": "the table is turned by reshape where it should be transposed",
    "gelu": "an MLP has no GELU",
    "transposed": "a square matrix of token mixing was loaded transposed",
}


class Culprit(NamedTuple):
    """What is wrong with a mystery: a name in :data:`KINDS`, and the block, from 0."""

    kind: str
    block: int


@disguised
class Reshaped(MixerBlock):
    """The table goes into token mixing in another shape, its numbers in the same order."""

    def forward(self, x: Tensor) -> Tensor:
        """``(b, S, C) -> (b, S, C)``."""
        b, s, c = x.shape
        y = self.mlp_tokens(self.norm1(x).reshape(b, c, s))  # no transpose
        x = x + y.reshape(b, s, c)
        return x + self.mlp_channels(self.norm2(x))


class _NoGelu(nn.GELU):
    def forward(self, x: Tensor) -> Tensor:
        return x


_NoGelu.__name__ = _NoGelu.__qualname__ = nn.GELU.__name__


@torch.no_grad()
def _hurt(block: MixerBlock, kind: str, rng: random.Random) -> None:
    # Make the mistake, and draw where in the block it can be in two places.
    if kind == "skip":
        block.__class__ = SkipFromTheStart
    elif kind == "norm":
        block.norm2 = block.norm1
    elif kind == "epsilon":
        rng.choice([block.norm1, block.norm2]).eps = 1e-5
    elif kind == "reshape":
        block.__class__ = Reshaped
    elif kind == "transposed":
        weight = rng.choice([block.mlp_tokens.fc1, block.mlp_tokens.fc2]).weight
        weight.copy_(weight.T.clone())  # (D_S, S) -> (S, D_S), which are equal here
    else:
        mlp = rng.choice([block.mlp_tokens, block.mlp_channels])
        if kind == "dropout":
            mlp.__class__ = SleeplessMlp
        else:
            mlp.act = _NoGelu()


def _drawn(seed: int) -> tuple[Culprit, random.Random]:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"A mystery's seed is a whole number, not {seed!r}.")
    rng = random.Random(f"mystery {seed}")
    return Culprit(rng.choice(list(KINDS)), rng.randrange(spec(HEALTHY)["num_blocks"])), rng


def answer(seed: int) -> Culprit:
    """What is wrong with the mystery of this seed, and in which block.

    Raises:
        ValueError: the seed is no whole number.
    """
    return _drawn(seed)[0]


def make(seed: int) -> MlpMixer:
    """The bundled model with the mistake of this seed, in eval mode.

    Raises:
        ValueError: the seed is no whole number.
    """
    culprit, rng = _drawn(seed)
    model = copy.deepcopy(load_pretrained(HEALTHY))
    _hurt(mixer_blocks(model)[culprit.block], culprit.kind, rng)
    model.__class__ = Suspect  # its repr says nothing
    return model.eval()
