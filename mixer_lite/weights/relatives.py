"""Relatives of the Mixer that timm has trained weights of, for the sake of their token mixing.

They mix tokens and channels in turn, as the Mixer does, with other layers; what is loaded here
are their token-mixing matrices, not models that predict.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mixer_lite._support.words import did_you_mean
from mixer_lite.weights import downloads
from mixer_lite.weights.checkpoints import read_file

_RESMLP = "Meta's ResMLP (arXiv 2105.03404), trained on {} (Apache-2.0), as timm hosts it."
_IN1K, _DISTILLED = "ImageNet-1k", "ImageNet-1k with distillation"
# timm's names; how large the file is, in millions of bytes; where the weights come from.
RELATIVES = {
    "resmlp_12_224.fb_in1k": (61, _RESMLP.format(_IN1K)),
    "resmlp_12_224.fb_distilled_in1k": (61, _RESMLP.format(_DISTILLED)),
    "resmlp_12_224.fb_dino": (61, _RESMLP.format("ImageNet-1k without labels (DINO)")),
    "resmlp_24_224.fb_in1k": (120, _RESMLP.format(_IN1K)),
    "resmlp_24_224.fb_distilled_in1k": (120, _RESMLP.format(_DISTILLED)),
    "resmlp_24_224.fb_dino": (120, _RESMLP.format("ImageNet-1k without labels (DINO)")),
    "resmlp_36_224.fb_in1k": (179, _RESMLP.format(_IN1K)),
    "resmlp_36_224.fb_distilled_in1k": (179, _RESMLP.format(_DISTILLED)),
    "resmlp_big_24_224.fb_in1k": (517, _RESMLP.format(_IN1K)),
    "resmlp_big_24_224.fb_distilled_in1k": (517, _RESMLP.format(_DISTILLED)),
    "resmlp_big_24_224.fb_in22k_ft_in1k": (517, _RESMLP.format("ImageNet-22k, then ImageNet-1k")),
    "gmlp_s16_224.ra3_in1k": (
        78,
        "gMLP (arXiv 2105.08050), trained by timm on ImageNet-1k (Apache-2.0).",
    ),
    "gmixer_24_224.ra3_in1k": (
        99,
        "A Mixer with gated MLPs, made and trained by timm on ImageNet-1k (Apache-2.0).",
    ),
}

# Where the token-mixing layer of each block stands, and what kind of layer it is.
_PLACES = {
    r"blocks\.(\d+)\.mlp_tokens\.fc1\.weight": "gated",  # gMixer
    r"blocks\.(\d+)\.(?:linear_tokens|attn)\.weight": "linear",  # ResMLP by timm, by Meta
    r"blocks\.(\d+)\.mlp_channels\.gate\.proj\.weight": "linear",  # gMLP
}


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix where a model has a layer: ``weight``, shaped (out, in)."""

    weight: Tensor


@dataclass(frozen=True, eq=False)
class TokenLayers:
    """The token-mixing matrices of one block, for S tokens.

    Attributes:
        fc1: ``(D_S, S)``, what units read. Of a linear mixer the only matrix, ``(S, S)``: row s
            is what token s is made of.
        fc2: ``(S, D_S)``, what units write; None of a linear mixer.
        gate: ``(D_S, S)``, what opens each unit of gMixer's; None of others.
    """

    fc1: Matrix
    fc2: Matrix | None = None
    gate: Matrix | None = None


@dataclass(frozen=True, eq=False)
class TokenBlock:
    """A block, of which only the token mixing is known."""

    mlp_tokens: TokenLayers


@dataclass(frozen=True, eq=False)
class TokenMixing:
    """The token mixing of all blocks of a model, for ``ml.filters`` and ``ml.explore_filters``.

    It has what these ask of a Mixer, and cannot predict.

    Attributes:
        name: of the weights, or of their file.
        source: one sentence: where they come from and under what licence.
        blocks: first to last.
        grid_size: rows and columns of patches.
    """

    name: str
    source: str
    blocks: tuple[TokenBlock, ...]
    grid_size: tuple[int, int]
    num_classes: int = 0
    config: None = None

    @property
    def num_blocks(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    @property
    def tokens_mlp_dim(self) -> int:
        """D_S: units of a block; of a linear mixer one for each token."""
        return len(self.blocks[0].mlp_tokens.fc1.weight)


def list_relatives() -> list[str]:
    """Names that :func:`load_token_mixing` takes."""
    return list(RELATIVES)


def load_token_mixing(name: str, *, file: str | Path | None = None) -> TokenMixing:
    """The token-mixing matrices of a trained ResMLP, gMLP or gMixer.

    From the model hub's cache, else downloaded into it once: 61 MB for
    ``"resmlp_12_224.fb_in1k"``. ResMLP and gMLP mix tokens with one matrix a block.

    Args:
        name: one of :func:`list_relatives`.
        file: these weights, brought by hand; nothing is downloaded then.

    Raises:
        ValueError: there are no weights of this name, or the file holds others or is damaged.
        FileNotFoundError: ``file`` does not exist.
        ConnectionError: the weights are not in the cache and could not be downloaded.
        OSError: there is no room for them, or the cache cannot be written.
    """
    if name not in RELATIVES:
        hint = did_you_mean(name, RELATIVES, "list_relatives() lists them.")
        raise ValueError(f"There is no relative of the Mixer named {name!r}. {hint}")
    if file is None:
        call = f"load_token_mixing({name!r}, file='model.safetensors')"
        mib = RELATIVES[name][0] * 1e6 / 2**20
        path = downloads.from_hub(f"timm/{name}", mib=mib, name=name, call=call)
    else:
        path = Path(file).expanduser()
    return token_mixing(read_file(path)[0], name=name, source=RELATIVES[name][1])


def token_mixing(state: Mapping[str, Tensor], *, name: str, source: str = "") -> TokenMixing:
    """The token-mixing matrices in a state dict of timm's ResMLP, gMLP or gMixer.

    gMixer's first layer holds two matrices: its first half is what units read (``fc1`` here), its
    second half what opens them (``gate``).

    Raises:
        ValueError: there are none, or their shapes belong to none of these models.
    """
    found: dict[int, TokenLayers] = {}
    for key, weight in state.items():
        for place, kind in _PLACES.items():
            match = re.fullmatch(place, key)
            if match and kind == "linear":
                found[int(match[1])] = TokenLayers(Matrix(weight.float()))
            elif match:
                units = len(weight) // 2
                second = state.get(key.replace("fc1", "fc2"))
                if second is None or second.shape[1] != units:
                    raise ValueError(
                        f"{name}: its token mixing has no gate, so it may be a Mixer, which "
                        f"load_checkpoint(path) opens."
                    )
                found[int(match[1])] = TokenLayers(
                    *(Matrix(w.float()) for w in (weight[:units], second, weight[units:]))
                )
    if not found or sorted(found) != list(range(len(found))):
        raise ValueError(
            f"{name}: these are not the weights of a ResMLP, gMLP or gMixer in timm's layout "
            f"(their first names: {', '.join(list(state)[:3]) or 'none'})."
        )
    blocks = tuple(TokenBlock(found[i]) for i in sorted(found))
    tokens = blocks[0].mlp_tokens.fc1.weight.shape[1]
    side = round(tokens**0.5)
    shapes = {tuple(block.mlp_tokens.fc1.weight.shape) for block in blocks}
    if side**2 != tokens or len(shapes) > 1:
        raise ValueError(f"{name}: {tokens} tokens are no square grid, or differ between blocks.")
    return TokenMixing(name, source, blocks, (side, side))
