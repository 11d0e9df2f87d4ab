"""How each project names and shapes a Mixer's weights: one table a layout, read both ways.

A row gives our weight, the name it has there, and the einops pattern that turns that array into
ours; read from right to left, it turns ours into theirs. The bias beside a weight has the same
path and the last word ``bias`` in every layout, and needs no pattern.

    C  hidden_dim    d: C of the stem      c: image channels      p, q: pixels of a patch
    o, i  outputs and inputs of a fully connected layer
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import EinopsError, parse_shape, rearrange
from torch import Tensor

from mixer_lite.model import Gelu, MlpMixer


@dataclass(frozen=True)
class Layout:
    """One project's names for a Mixer's weights, and the arithmetic its code does with them.

    Attributes:
        owner: whose layout it is, as in "timm's layout".
        rows: our weight -> (their name, pattern from their array to ours or "" for the same).
            In names, ``{i}`` is the block from 0, ``{j}`` is i + 2, ``{n2}`` and ``{n4}`` are
            2 and 4 more than the number of blocks.
        gelu, norm_eps: the activation and the epsilon of LayerNorm in that project's code.
    """

    owner: str
    rows: dict[str, tuple[str, str]]
    gelu: Gelu = "exact"
    norm_eps: float = 1e-6


_OURS = {
    name: (name, "")
    for name in (
        "stem.weight",
        "blocks.{i}.norm1.weight",
        "blocks.{i}.mlp_tokens.fc1.weight",
        "blocks.{i}.mlp_tokens.fc2.weight",
        "blocks.{i}.norm2.weight",
        "blocks.{i}.mlp_channels.fc1.weight",
        "blocks.{i}.mlp_channels.fc2.weight",
        "norm.weight",
        "head.weight",
    )
}

# timm's stem is a strided convolution, ours the equal matrix: all else is the same.
_TIMM = _OURS | {"stem.weight": ("stem.proj.weight", "d c p q -> d (c p q)")}

# Flax: kernels are (inputs, outputs); the stem's is height, width, input, output.
_DENSE = "i o -> o i"
_GOOGLE = {
    "stem.weight": ("stem/kernel", "p q c d -> d (c p q)"),
    "blocks.{i}.norm1.weight": ("MixerBlock_{i}/LayerNorm_0/scale", ""),
    "blocks.{i}.mlp_tokens.fc1.weight": ("MixerBlock_{i}/token_mixing/Dense_0/kernel", _DENSE),
    "blocks.{i}.mlp_tokens.fc2.weight": ("MixerBlock_{i}/token_mixing/Dense_1/kernel", _DENSE),
    "blocks.{i}.norm2.weight": ("MixerBlock_{i}/LayerNorm_1/scale", ""),
    "blocks.{i}.mlp_channels.fc1.weight": ("MixerBlock_{i}/channel_mixing/Dense_0/kernel", _DENSE),
    "blocks.{i}.mlp_channels.fc2.weight": ("MixerBlock_{i}/channel_mixing/Dense_1/kernel", _DENSE),
    "norm.weight": ("pre_head_layer_norm/scale", ""),
    "head.weight": ("head/kernel", _DENSE),
}

# backbone.ln1 is the norm after the last block, named like the first norm of each.
_OPENMMLAB = {
    "stem.weight": ("backbone.patch_embed.projection.weight", "d c p q -> d (c p q)"),
    "blocks.{i}.norm1.weight": ("backbone.layers.{i}.ln1.weight", ""),
    "blocks.{i}.mlp_tokens.fc1.weight": ("backbone.layers.{i}.token_mix.layers.0.0.weight", ""),
    "blocks.{i}.mlp_tokens.fc2.weight": ("backbone.layers.{i}.token_mix.layers.1.weight", ""),
    "blocks.{i}.norm2.weight": ("backbone.layers.{i}.ln2.weight", ""),
    "blocks.{i}.mlp_channels.fc1.weight": ("backbone.layers.{i}.channel_mix.layers.0.0.weight", ""),
    "blocks.{i}.mlp_channels.fc2.weight": ("backbone.layers.{i}.channel_mix.layers.1.weight", ""),
    "norm.weight": ("backbone.ln1.weight", ""),
    "head.weight": ("head.fc.weight", ""),
}

# One nn.Sequential: 0 cuts the patches, 1 is the stem, blocks begin at 2. A patch's pixels are
# in the order row, column, channel; the token MLP is a convolution of width 1.
_LUCIDRAINS = {
    "stem.weight": ("1.weight", "d (p q c) -> d (c p q)"),
    "blocks.{i}.norm1.weight": ("{j}.0.norm.weight", ""),
    "blocks.{i}.mlp_tokens.fc1.weight": ("{j}.0.fn.0.weight", "o i 1 -> o i"),
    "blocks.{i}.mlp_tokens.fc2.weight": ("{j}.0.fn.3.weight", "o i 1 -> o i"),
    "blocks.{i}.norm2.weight": ("{j}.1.norm.weight", ""),
    "blocks.{i}.mlp_channels.fc1.weight": ("{j}.1.fn.0.weight", ""),
    "blocks.{i}.mlp_channels.fc2.weight": ("{j}.1.fn.3.weight", ""),
    "norm.weight": ("{n2}.weight", ""),
    "head.weight": ("{n4}.weight", ""),
}

LAYOUTS = {
    "timm": Layout("timm", _TIMM),
    "mixer_lite": Layout("Mixer Lite", _OURS),
    "google": Layout("Google", _GOOGLE, gelu="tanh"),
    "openmmlab": Layout("OpenMMLab", _OPENMMLAB, norm_eps=1e-5),
    "lucidrains": Layout("lucidrains", _LUCIDRAINS, norm_eps=1e-5),
}

# What an entry of this name shows a file of another architecture to be.
_OTHERS = (
    (r"\.gate\.proj\.", "a gMLP's"),
    (r"\.linear_tokens\.|^blocks\.\d+\.gamma_1$", "a ResMLP's"),
    (r"(^|\.)cls_token$|\.attn\.qkv\.|encoderblock_|attention\.", "a Vision Transformer's"),
    (r"^(.*\.)?layer\d\.\d+\.conv\d\.|^block\d/unit\d+/", "a ResNet's"),
    (r"running_mean$", "a convolutional network's"),
)


def _rows(layout: Layout, blocks: int | Collection[str]) -> Iterator[tuple[str, str, str]]:
    # (our name, their name, pattern) of every entry that a model with a head has. Of as many
    # blocks, or of those that are in these names.
    num_blocks = blocks if isinstance(blocks, int) else _depth(layout, blocks)
    for ours, (theirs, pattern) in layout.rows.items():
        for i in range(num_blocks) if "{i}" in ours else (0,):
            places = dict(i=i, j=i + 2, n2=num_blocks + 2, n4=num_blocks + 4)
            weight, name = ours.format_map(places), theirs.format_map(places)
            yield weight, name, pattern
            yield weight.removesuffix("weight") + "bias", re.sub(r"\w+$", "bias", name), ""


def _block_pattern(layout: Layout, ours: str) -> re.Pattern[str]:
    # Finds the number of the block in a name of theirs: no Mixer has a thousand.
    name = re.escape(layout.rows[ours][0])
    return re.compile(re.sub(r"\\\{[ij]\\\}", r"(\\d{1,3})", name))


def _depth(layout: Layout, names: Collection[str]) -> int:
    first = 2 if "{j}" in layout.rows["blocks.{i}.norm1.weight"][0] else 0
    patterns = [_block_pattern(layout, ours) for ours in layout.rows if "{i}" in ours]
    matches = (p.fullmatch(name) for name in names for p in patterns)
    found = {int(m[1]) - first for m in matches if m}
    # A number far above the others is a foreign entry: without it, the depth is a count.
    last = max(found, default=0)
    return max(1, last + 1 if last < len(found) + 8 else len(found))


def printable(names: Iterable[str]) -> str:
    """Names for an error message, on one line whatever is in them."""
    return ", ".join(n if n.isprintable() else repr(n) for n in names)


def recognise(names: Collection[str]) -> Layout:
    """The layout that these names of weights are in.

    Raises:
        ValueError: no layout has token-mixing weights of such names; what else they are of is
            said where it is known.
    """
    best: tuple[int, Layout] | None = None
    for layout in LAYOUTS.values():
        tokens = _block_pattern(layout, "blocks.{i}.mlp_tokens.fc1.weight")
        if any(tokens.fullmatch(n) for n in names):
            known = {theirs for _, theirs, _ in _rows(layout, names)}
            fits = len(known.intersection(names))
            if best is None or fits > best[0]:
                best = fits, layout
    if best:
        return best[1]
    for pattern, what in _OTHERS:
        for name in names:
            if re.search(pattern, name):
                raise ValueError(
                    f"These are {what} weights ({printable([name])}), not an MLP-Mixer's: "
                    f"timm.create_model builds such models."
                )
    raise ValueError(
        f"These are not an MLP-Mixer's weights: no name is that of a token-mixing layer in the "
        f"layouts of {', '.join(x.owner for x in LAYOUTS.values())} (the first of their names: "
        f"{printable(list(names)[:3]) or 'none'})."
    )


def read_arguments(
    state: Mapping[str, Tensor],
    *,
    image_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
) -> dict[str, Any]:
    """The arguments of :class:`MlpMixer` that fit weights in any layout, read off their shapes.

    No weight tells the shape of the patch grid, nor, where the stem is a matrix, the patch from
    the image's channels: unless given, the grid is taken to be square and the channels three.

    Raises:
        ValueError: the weights are not a Mixer's, one that tells a size is missing, or the
            shapes fit no Mixer.
    """
    layout = recognise(state)
    rows = {ours: (theirs, pattern) for ours, theirs, pattern in _rows(layout, state)}
    head = rows["head.weight"][0] in state
    telling = [
        "stem.weight",
        "blocks.0.mlp_tokens.fc1.weight",
        "blocks.0.mlp_tokens.fc2.weight",
        "blocks.0.mlp_channels.fc1.weight",
        *(["head.weight"] if head else []),
    ]
    if any(rows[name][0] not in state for name in telling):
        names = {theirs: 0 for ours, (theirs, _) in rows.items() if head or ours[:5] != "head."}
        raise _misfit(
            layout,
            missing=[n for n in names if n not in state],
            unexpected=[n for n in state if n not in names],
        )
    shapes = {}
    for name in telling:
        theirs, pattern = rows[name]
        shape, axes = tuple(state[theirs].shape), _axes(pattern)
        if len(shape) != axes or 0 in shape:
            raise _misfit(layout, misshapen=[f"{theirs} {shape} in place of {axes} axes"])
        try:  # the stem is read below: its pattern wants to know the patch
            turned = state[theirs] if name == "stem.weight" else _rearrange(state[theirs], pattern)
        except EinopsError as error:
            raise _misfit(layout, misshapen=[f"{theirs} {shape} for {pattern!r}"]) from error
        shapes[name] = tuple(turned.shape)
    if len(shapes["stem.weight"]) == 4:
        theirs, pattern = rows["stem.weight"]
        axis = parse_shape(state[theirs], pattern.split(" -> ")[0])
        hidden_dim, channels, patch = axis["d"], axis["c"], axis["p"]
        pixels = channels * patch * axis["q"]
    else:
        hidden_dim, pixels = shapes["stem.weight"]
        patch = patch_size or math.isqrt(pixels // 3)
        channels = pixels // patch**2 if patch_size else 3
    tokens_mlp_dim, num_tokens = shapes["blocks.0.mlp_tokens.fc1.weight"]
    if 2 * shapes["blocks.0.mlp_tokens.fc2.weight"][1] == tokens_mlp_dim:
        raise ValueError(
            "These are a gMixer's weights (its second token-mixing layers take half of what the "
            "first give), not an MLP-Mixer's: timm.create_model builds such models."
        )
    side = math.isqrt(num_tokens)
    grid = (image_size[0] // patch, image_size[1] // patch) if image_size else (side, side)
    if grid[0] * grid[1] != num_tokens or channels * patch**2 != pixels:
        raise ValueError(
            f"{num_tokens} tokens of {pixels} values are not a square grid of square RGB patches."
        )
    return dict(
        image_size=grid[0] * patch if grid[0] == grid[1] else (grid[0] * patch, grid[1] * patch),
        patch_size=patch,
        num_classes=shapes["head.weight"][0] if head else 0,
        num_blocks=_depth(layout, state),
        hidden_dim=hidden_dim,
        tokens_mlp_dim=tokens_mlp_dim,
        channels_mlp_dim=shapes["blocks.0.mlp_channels.fc1.weight"][0],
        **({} if channels == 3 else {"in_channels": channels}),
    )


def _axes(pattern: str) -> int:
    # Axes of their array; it is a matrix where it is the same as ours.
    left = re.sub(r"\(.*?\)", "x", pattern.split(" -> ")[0])
    return len(left.split()) if pattern else 2


def _misfit(layout: Layout, **faults: list[str]) -> ValueError:
    told = "; ".join(f"{kind} {printable(found)}" for kind, found in faults.items() if found)
    return ValueError(
        f"These weights in {layout.owner}'s layout are not those of one whole Mixer: {told}."
    )


def to_layout(state: Mapping[str, Tensor], layout: Layout, patch_size: int) -> dict[str, Tensor]:
    """Our state dict under a layout's names and shapes, as views where that is possible."""
    depth = len({k.split(".")[1] for k in state if k.startswith("blocks.")})
    return {
        theirs: _rearrange(state[ours], " -> ".join(pattern.split(" -> ")[::-1]), patch_size)
        for ours, theirs, pattern in _rows(layout, depth)
        if ours in state
    }


def from_layout(
    state: dict[str, Tensor], model: MlpMixer, layout: Layout
) -> Iterator[tuple[str, str, Tensor]]:
    """Our name, theirs and our array of each weight, taken out of ``state``: none is kept twice.

    Args:
        state: entries under the layout's names; empty when all have been taken.
        model: a Mixer of the right sizes; its weights are not looked at, only their shapes.
        layout: of the entries.

    Raises:
        ValueError: entries are missing, unexpected or of other shapes; all are named.
    """
    expected = {
        name: tuple(value.shape)
        for name, value in to_layout(
            {k: v.detach() for k, v in model.state_dict().items()}, layout, model.patch_size
        ).items()
    }
    missing = [f"{k} {shape}" for k, shape in expected.items() if k not in state]
    unexpected = [f"{k} {tuple(v.shape)}" for k, v in state.items() if k not in expected]
    misshapen = [
        f"{k} {tuple(state[k].shape)} in place of {shape}"
        for k, shape in expected.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    if missing or unexpected or misshapen:
        raise _misfit(layout, missing=missing, unexpected=unexpected, misshapen=misshapen)
    return (
        (ours, theirs, _rearrange(state.pop(theirs), pattern, model.patch_size))
        for ours, theirs, pattern in _rows(layout, model.num_blocks)
        if theirs in expected
    )


def _rearrange(tensor: Tensor, pattern: str, patch_size: int = 1) -> Tensor:
    if not pattern:
        return tensor
    # einops wants to be told the axes that it cannot tell apart, and no others.
    composed = re.search(r"\((.*?)\)", pattern.split(" -> ")[0])
    return rearrange(tensor, pattern, **({"p": patch_size, "q": patch_size} if composed else {}))


def meta_model(**arguments: Any) -> MlpMixer:
    """A Mixer of these sizes without memory for weights: they are to be assigned."""
    with torch.device("meta"):
        return MlpMixer(**arguments)
