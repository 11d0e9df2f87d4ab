"""Checks of lesson 1: images as tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mixer_lite.check.engine.exercise import Inputs, Look, exercise
from mixer_lite.check.engine.trial import Trial


def _numbered(t: Trial, *shape: int) -> Tensor:
    # In the first round numbered values make the better picture of where they went.
    x = t.randn(*shape)
    return torch.arange(x.numel()).reshape(shape).to(x) if t.round == 0 else x


def _draw_images(t: Trial) -> Inputs:
    b, c, gh, gw, p = t.choose(5, 2, 6)
    gh, gw = t.sides(gh, gw)
    x = _numbered(t, b, c, gh * p, gw * p)
    return (x, p), dict(shape=tuple(x.shape), p=p, gh=gh, gw=gw)


def _unfolded(x: Tensor, p: int) -> Tensor:
    return F.unfold(x, p, stride=p)  # (b, c P P, S)


def _of_channels_last(x: Tensor, p: int) -> Tensor:
    # For an image (b, h, w, c); the one given has its colours first.
    return rearrange(x, "b (gh p1) (gw p2) c -> b (gh gw) (p1 p2 c)", p1=p, p2=p)


PATCHIFY = (
    ("column-major tokens", dict(tokens="gw gh")),
    ("pixel by pixel", dict(values="p1 p2 c")),
    ("patches transposed", dict(values="c p2 p1")),
    ("woven patches", dict(image="c (p1 gh) (p2 gw)")),
    ("reshape for rearrange", lambda x, p: x.reshape(len(x), _unfolded(x, p).shape[2], -1)),
    (
        "reshape for transpose",
        lambda x, p: _unfolded(x, p).reshape(len(x), -1, x.shape[1] * p * p),
    ),
    ("axes swapped", dict(out="({values}) ({tokens})")),
    ("grid kept", dict(out="{tokens} ({values})")),
    ("overlapping patches", lambda x, p: F.unfold(x, p).mT),
    ("overlapping patches", lambda x, p: F.unfold(x, p, stride=max(1, p // 2)).mT),
    ("colours apart", dict(out="(c {tokens}) (p1 p2)")),
    ("colours apart: beside each other", dict(out="({tokens} c) (p1 p2)")),
    ("channels last", _of_channels_last),
)


@exercise(
    "lesson1",
    _draw_images,
    PATCHIFY,
    equal=lambda t: ((t.randn(4, 4, 4, 4), 2), {}),
    squares=("pair",),
)
def patchify(
    images: Tensor,
    p: int,
    *,
    tokens: str = "gh gw",
    values: str = "c p1 p2",
    image: str = "c (gh p1) (gw p2)",
    out: str = "({tokens}) ({values})",
) -> Tensor:
    """``patchify(images (b, c, h, w), patch_size) -> (b, S, c P P)``.

    Patches in reading order, each written colour by colour, then row by row: ``(c p1 p2)``.
    """
    right = out.format(tokens=tokens, values=values)
    return rearrange(images, f"b {image} -> b {right}", p1=p, p2=p)


def _draw_patches(t: Trial) -> Inputs:
    b, c, gh, gw, p = t.choose(5, 2, 6)
    if t.round == 0 and c == 3:  # the number of colours is for the answer to find out
        c, b = b, c
    gh, gw = t.sides(gh, gw)
    x = _numbered(t, b, gh * gw, c * p * p)
    return (x, p, (gh, gw)), dict(shape=tuple(x.shape), p=p, grid=(gh, gw), c=c)


UNPATCHIFY = (
    ("column-major tokens", dict(tokens="gw gh")),
    ("height and width exchanged", dict(tokens="gw gh", image="c (gw p1) (gh p2)")),
    ("image transposed", dict(image="c (gw p2) (gh p1)")),
    ("patches transposed", dict(values="c p2 p1")),
    ("pixel by pixel", dict(values="p1 p2 c")),
    ("woven patches", dict(image="c (p1 gh) (p2 gw)")),
    ("reshape for rearrange", dict(glue="gh gw c p1 p2")),
    ("axes not exchanged", dict(glue="c gh gw p1 p2")),
    ("channels last", dict(image="(gh p1) (gw p2) c")),
    ("one row of patches", dict(image="c p1 (gh gw p2)")),
    ("one column of patches", dict(image="c (gh gw p1) p2")),
    ("patches not put together", dict(image="gh gw c p1 p2")),
)


@exercise(
    "lesson1",
    _draw_patches,
    UNPATCHIFY,
    equal=lambda t: ((t.randn(2, 20, 12), 2, (4, 5)), {}),  # three colours
    only="three colours assumed",
    squares=("pair",),
)
def unpatchify(
    patches: Tensor,
    p: int,
    grid: tuple[int, int],
    *,
    tokens: str = "gh gw",
    values: str = "c p1 p2",
    image: str = "c (gh p1) (gw p2)",
    glue: str = "",
) -> Tensor:
    """``unpatchify(patches (b, S, c P P), patch_size, grid) -> (b, c, h, w)``, grid = (gh, gw).

    The way back from :func:`patchify`: tokens in reading order, each ``(c p1 p2)``.
    """
    b, gh, gw = len(patches), *grid
    c = patches.shape[2] // p**2
    sizes = dict(gh=gh, gw=gw, c=c, p1=p, p2=p)
    if glue:  # the numbers in this order, then cut into an image without moving any
        flat = rearrange(patches, f"b ({tokens}) ({values}) -> b ({glue})", **sizes)
        return flat.reshape(b, c, gh * p, gw * p)
    return rearrange(patches, f"b ({tokens}) ({values}) -> b {image}", **sizes)


def _draw_embedding(t: Trial) -> Inputs:
    c, gh, gw, p = t.choose(4, 2, 5)
    gh, gw = t.sides(gh, gw)
    b, k = t.choose(2, 6, 7)
    if k == gh * gw:  # S != C
        b, k = k, b
    x = t.randn(b, c, gh * p, gw * p)
    weight, bias = t.randn(k, c * p * p) / p, t.randn(k)
    shapes = dict(shape=tuple(x.shape), weight=tuple(weight.shape), k=k)
    return (x, weight, bias, p), dict(p=p, gh=gh, gw=gw, **shapes)


def _look_at_embedding(t: Trial, answer: Any, got: Any, args: Any, want: Tensor) -> Look:
    # A layer made inside has new weights in each call.
    got, again = t.tensor(got), t.tensor(t.call(answer, *args))
    if got.shape == again.shape and not torch.allclose(got, again, equal_nan=True):
        t.fail("weights of its own", *t.told())
    return Look()


EMBEDDING = (
    ("bias missing", dict(add=0.0)),
    ("bias twice", dict(add=2.0)),
    ("bias along the wrong axis", dict(crosswise=True)),
    ("column-major tokens", dict(tokens="gw gh")),
    ("pixel by pixel", dict(values="p1 p2 c")),
    ("patches transposed", dict(values="c p2 p1")),
    ("woven patches", dict(image="c (p1 gh) (p2 gw)")),
    ("reshape for rearrange", dict(cut="reshape")),
    ("axes swapped", dict(out="k (gh gw)")),
    ("grid kept", dict(out="k gh gw")),
    ("grid kept: channels last", dict(out="gh gw k")),
    ("reshape for transpose", dict(then=lambda y: y.mT.reshape(y.shape))),
    ("weights transposed", dict(weights=lambda w: w.T)),
    ("reshape for transpose: weights", dict(weights=lambda w: w.reshape(-1, len(w)).T)),
    ("flipped kernels", dict(flip=(2, 3))),
    ("overlapping patches", dict(cut="stride 1")),
    ("overlapping patches", dict(cut="stride P / 2")),
    ("pooled", dict(then=lambda y: y.mean(1))),
)


@exercise(
    "lesson1",
    _draw_embedding,
    EMBEDDING,
    # c P P = C = S, so that a wrong axis fits
    equal=lambda t: ((t.randn(3, 1, 4, 4), t.randn(4, 4), t.randn(4), 2), {}),
    look=_look_at_embedding,
    squares=("pair",),
)
def patch_embedding(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    p: int,
    *,
    tokens: str = "gh gw",
    values: str = "c p1 p2",
    image: str = "c (gh p1) (gw p2)",
    cut: str = "rearrange",
    weights: Any = lambda w: w,
    flip: tuple[int, ...] = (),
    add: float = 1.0,
    crosswise: bool = False,
    out: str = "(gh gw) k",
) -> Tensor:
    """``patch_embedding(images (b, c, h, w), weight (C, c P P), bias (C,), patch_size)``.

    Gives ``(b, S, C)``: tokens in reading order, patches written ``(c p1 p2)`` as in
    :func:`patchify`.
    """
    cuts = {
        "rearrange": lambda: rearrange(images, f"b {image} -> b ({tokens}) ({values})", p1=p, p2=p),
        "reshape": lambda: images.reshape(len(images), -1, images.shape[1] * p * p),
        "stride 1": lambda: F.unfold(images, p).mT,
        "stride P / 2": lambda: F.unfold(images, p, stride=max(1, p // 2)).mT,
    }
    kernel = rearrange(weights(weight), "k (c p1 p2) -> k c p1 p2", p1=p, p2=p).flip(flip)
    x = cuts[cut]()  # (b, S, c P P)
    y = x @ rearrange(kernel, "k c p1 p2 -> (c p1 p2) k")  # (b, S, C)
    y = y + add * (bias[:, None] if crosswise else bias)
    if out == "(gh gw) k":
        return y
    return rearrange(y, f"b (gh gw) k -> b {out}", gh=images.shape[2] // p)


def _draw_weight(t: Trial) -> Inputs:
    k, c, p, b, _ = t.choose(5, 2, 6)
    if t.round == 0 and c == 3:  # the number of colours is for the answer to find out
        c, b = b, c
    weight = t.randn(k, c * p * p)
    return (weight, p), dict(shape=tuple(weight.shape), p=p, k=k, c=c)


def _look_at_kernel(t: Trial, answer: Any, got: Any, args: Any, want: Tensor) -> Look:
    # What kernels are for: the convolution's numbers beside the embedding's.
    if t.tensor(got).shape != want.shape:
        return Look()
    x = torch.randn(1, *want.shape[1:], generator=t.generator, dtype=torch.float64)  # one patch
    by_hand, conv = (float(F.conv2d(x, k.detach().double())[0, 0, 0, 0]) for k in (want, got))
    return Look(lines=[t.line("conv", by_hand=by_hand, conv=conv)])


KERNEL = (
    ("pixel by pixel", dict(values="p1 p2 c")),
    ("kernels transposed", dict(values="c p2 p1")),
    ("kernels transposed: pixels", dict(values="p2 p1 c")),
    ("reshape for transpose", dict(weights=lambda w: w.T.reshape(w.shape))),
    ("channels last", dict(out="k p1 p2 c")),
    ("kernels last", dict(out="p1 p2 c k")),
    ("colours first", dict(out="c k p1 p2")),
    ("not folded", dict(out="k (c p1 p2)")),
    ("pixels not folded", dict(out="k c (p1 p2)")),
    ("flipped kernels", dict(then=lambda k: k.flip(2, 3))),
    ("upside down", dict(then=lambda k: k.flip(2))),
    ("colours reversed", dict(then=lambda k: k.flip(1))),
    ("one colour only", dict(then=lambda k: k[:, :1])),
    ("colours averaged", dict(then=lambda k: k.mean(1, keepdim=True))),
    ("no axis for colours", dict(out="(k c) p1 p2")),
)


@exercise("lesson1", _draw_weight, KERNEL, look=_look_at_kernel)
def embedding_kernel(
    weight: Tensor,
    p: int,
    *,
    values: str = "c p1 p2",
    out: str = "k c p1 p2",
    weights: Any = lambda w: w,
) -> Tensor:
    """``embedding_kernel(weight (C, c P P), patch_size) -> (C, c, P, P)``.

    The kernels with which a convolution of stride P computes the patch embedding.
    """
    c = weight.shape[1] // p**2
    return rearrange(weights(weight), f"k ({values}) -> {out}", c=c, p1=p, p2=p)
