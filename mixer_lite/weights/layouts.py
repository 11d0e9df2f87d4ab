"""How each project names and shapes a Mixer's weights: one table a layout, read both ways.

A row gives our weight, the name it has there, and the einops pattern that turns that array into
ours; read from right to left, it turns ours into theirs. The bias beside a weight has the same
path, its last word is ``bias`` unless the layout has another, and it needs no pattern.

    C  hidden_dim    d: C of the stem      c: image channels      p, q: pixels of a patch
    o, i  outputs and inputs of a fully connected layer
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import EinopsError, parse_shape, rearrange
from torch import Tensor

from mixer_lite._support.words import listed
from mixer_lite.model import Gelu, MlpMixer, Resize


@dataclass(frozen=True)
class Layout:
    """One project's names for a Mixer's weights, and the arithmetic its code does with them.

    Attributes:
        owner: whose layout it is, as in "timm's layout".
        rows: our weight -> (their name, pattern from their array to ours or "" for the same).
            In names, ``{i}`` is the block from 0, ``{j}`` is i + 2, ``{n2}`` and ``{n4}`` are
            2 and 4 more than the number of blocks.
        gelu, norm_eps: the activation and the epsilon of LayerNorm in that project's code.
        biases: the last word of a weight's name -> that of its bias, where it is not ``bias``.
        resize: the library that resizes images there; OpenCV's reader turns them upright too.
    """

    owner: str
    rows: dict[str, tuple[str, str]]
    gelu: Gelu = "exact"
    norm_eps: float = 1e-6
    biases: Mapping[str, str] = field(default_factory=dict)
    resize: Resize = "pillow"

    @property
    def tells_channels(self) -> bool:
        """Whether the first layer is a convolution, which tells channels and patch size."""
        theirs = self.rows["stem.weight"][1].split(" -> ")[0]
        return bool(theirs) and "(" not in theirs

    def bias_of(self, weight: str) -> str:
        """Their name of the bias beside a weight of theirs."""
        return re.sub(r"\w+$", lambda last: self.biases.get(last[0], "bias"), weight)


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
    "openmmlab": Layout("OpenMMLab", _OPENMMLAB, norm_eps=1e-5, resize="opencv"),
    "lucidrains": Layout("lucidrains", _LUCIDRAINS, norm_eps=1e-5),
}

# Names that show that a file is of another architecture, and which.
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
            yield weight.removesuffix("weight") + "bias", layout.bias_of(name), ""


def _named(layout: Layout, names: Collection[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    for ours, theirs, pattern in _rows(layout, names):
        yield ours, (theirs, pattern)


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
            if re.search(pattern, name[:300]):  # no network's names are longer
                raise ValueError(
                    f"These are {what} weights ({listed([name])}), not an MLP-Mixer's: "
                    f"timm.create_model builds such models."
                )
    raise ValueError(
        f"These are not an MLP-Mixer's weights: no name is that of a token-mixing layer in the "
        f"layouts of {', '.join(x.owner for x in LAYOUTS.values())} (the first of their names: "
        f"{listed(list(names)[:3]) or 'none'})."
    )


def without_prefix(
    state: dict[str, Tensor],
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the one Mixer that is part of a larger model, and the names of the others.

    A state dict that is a Mixer's as it is, or has none in it, stays as it is.

    Raises:
        ValueError: there are several Mixers.
    """
    patterns = [
        _block_pattern(layout, "blocks.{i}.mlp_tokens.fc1.weight").pattern
        for layout in LAYOUTS.values()
    ]
    if any(re.fullmatch(pattern, name) for pattern in patterns for name in state):
        return state, []
    matches = (re.fullmatch(f"(.+?[./]){p}", name) for p in patterns for name in state)
    prefixes = sorted({match[1] for match in matches if match})
    # OpenMMLab's names already have a prefix.
    prefixes = [p for p in prefixes if not any(p != q and p.startswith(q) for q in prefixes)]
    if len(prefixes) > 1:
        raise ValueError(
            f"There are several Mixers here, under {listed(prefixes)}: save the state_dict() of "
            f"one of them."
        )
    if not prefixes:
        return state, []
    (prefix,) = prefixes
    inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return inside, [name for name in state if not name.startswith(prefix)]


def read_arguments(
    state: Mapping[str, Tensor],
    *,
    image_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
    in_channels: int | None = None,
) -> dict[str, Any]:
    """The arguments of :class:`MlpMixer` that fit weights in any layout, read off their shapes.

    No weight tells the shape of the patch grid, nor, where the stem is a matrix, the patch from
    the image's channels: unless given, the grid is taken to be square, and the channels to be
    three, or one, or else the only number that fits.

    Raises:
        ValueError: the weights are not a Mixer's, one that tells a size is missing, or the
            shapes fit no Mixer.
    """
    layout = recognise(state)
    shapes, head = _telling_shapes(state, layout)
    hidden_dim, channels, patch = _stem(state, layout, shapes, patch_size, in_channels)
    tokens_mlp_dim, num_tokens = shapes["blocks.0.mlp_tokens.fc1.weight"]
    if 2 * shapes["blocks.0.mlp_tokens.fc2.weight"][1] == tokens_mlp_dim:
        raise ValueError(
            "These are a gMixer's weights (its second token-mixing layers take half of what the "
            "first give), not an MLP-Mixer's: timm.create_model builds such models."
        )
    side = math.isqrt(num_tokens)
    grid = (image_size[0] // patch, image_size[1] // patch) if image_size else (side, side)
    if grid[0] * grid[1] != num_tokens:
        given = f"an image of {image_size}" if image_size else "a square grid"
        raise ValueError(
            f"{num_tokens} tokens of {channels * patch**2} values are not {given} in patches of "
            f"{patch} x {patch} pixels: {OVERRULE}."
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


OVERRULE = (
    "give what the file does not tell, load_checkpoint(path, image_size=(height, width), "
    "patch_size=, in_channels=)"
)


def _stem(
    state: Mapping[str, Tensor],
    layout: Layout,
    shapes: dict[str, tuple[int, ...]],
    patch_size: int | None,
    in_channels: int | None,
) -> tuple[int, int, int]:
    # hidden_dim, channels, patch size.
    if len(shapes["stem.weight"]) == 4:
        theirs, pattern = next(row for ours, row in _named(layout, state) if ours == "stem.weight")
        axis = parse_shape(state[theirs], pattern.split(" -> ")[0])
        hidden_dim, pixels = axis["d"], axis["c"] * axis["p"] * axis["q"]
        fits = [(axis["c"], axis["p"])] if axis["p"] == axis["q"] else []
    else:
        hidden_dim, pixels = shapes["stem.weight"]
        fits = [(c, math.isqrt(pixels // c)) for c in range(1, 17)]
        fits = [(c, p) for c, p in fits if c * p * p == pixels and p > 1]
        if patch_size and pixels % patch_size**2 == 0:  # any number of channels
            fits = [(pixels // patch_size**2, patch_size)]
        elif in_channels:
            p = math.isqrt(pixels // in_channels)
            fits = [(in_channels, p)] if in_channels * p * p == pixels else []
    fits = [(c, p) for c, p in fits if patch_size in (None, p) and in_channels in (None, c)]
    usual = [(c, p) for c, p in fits if c == 3] or [(c, p) for c, p in fits if c == 1] or fits
    if len(usual) != 1:
        raise ValueError(
            f"Patches of {pixels} values are not square ones of three channels or of one: "
            f"{OVERRULE}."
        )
    return hidden_dim, *usual[0]


def _telling_shapes(
    state: Mapping[str, Tensor], layout: Layout
) -> tuple[dict[str, tuple[int, ...]], bool]:
    # Our shapes of the weights that tell sizes, and whether there is a head.
    rows = dict(_named(layout, state))
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
    return shapes, head


def _axes(pattern: str) -> int:
    # Axes of their array; it is a matrix where it is the same as ours.
    left = re.sub(r"\(.*?\)", "x", pattern.split(" -> ")[0])
    return len(left.split()) if pattern else 2


def _misfit(layout: Layout, **faults: list[str]) -> ValueError:
    told = "; ".join(f"{kind} {listed(found)}" for kind, found in faults.items() if found)
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
    # einops needs the sizes of axes that it cannot work out, and no others.
    composed = re.search(r"\((.*?)\)", pattern.split(" -> ")[0])
    return rearrange(tensor, pattern, **({"p": patch_size, "q": patch_size} if composed else {}))


def meta_model(**arguments: Any) -> MlpMixer:
    """A Mixer of these sizes without memory for weights: they are to be assigned."""
    with torch.device("meta"):
        return MlpMixer(**arguments)
