"""Checks of lesson 1: images as tokens."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mixer_lite.checks.deviations import Deviation, call_or_name, suspects
from mixer_lite.checks.trial import Suspect, Trial, exercise

LESSON = "1 Images as tokens"


@exercise(
    lesson=LESSON,
    takes="patchify(images, patch_size)",
    hints=(
        "Name the axes first. The height is made of `gh` groups of `p1` rows, the width of `gw` "
        "groups of `p2` columns: how does einops write that?",
        "On the right of the arrow stand three axes: the images, the patches, the numbers of one "
        "patch. In a bracket the last letter counts fastest. Which letter of the grid counts "
        "fastest when one reads a page?",
        "A patch is written colour by colour: all rows of red, then of green, then of blue. So "
        "the last bracket begins with `c`.",
    ),
)
def patchify(t: Trial, answer: Any) -> None:
    """``patchify(images (b, c, h, w), patch_size) -> (b, S, c P P)``.

    Patches in reading order, each written colour by colour, then row by row: ``(c p1 p2)``.
    """
    for trial in range(t.rounds):
        b, c, gh, gw, p = t.sizes(5, 2, 6)
        x = t.randn(b, c, gh * p, gw * p)
        if trial == 0:  # numbered pixels make the better picture of where they went
            x = torch.arange(x.numel()).reshape(x.shape).to(x)

        def cut(pattern: str, x: Any = x, p: int = p) -> Any:
            return rearrange(x, pattern, p1=p, p2=p)

        image = "b c (gh p1) (gw p2)"
        t.same(
            t.call(answer, x, p),
            cut(f"{image} -> b (gh gw) (c p1 p2)"),
            "the patches",
            "(b, S, c·P·P)",
            [
                Suspect(
                    "column-major tokens",
                    lambda cut=cut: cut("b c (gh p1) (gw p2) -> b (gw gh) (c p1 p2)"),
                    "Your tokens run down the columns of the grid; they should run along its rows, "
                    "as one reads a page: in (gh gw) the letter gw counts fastest.",
                ),
                Suspect(
                    "pixel by pixel",
                    lambda cut=cut: cut("b c (gh p1) (gw p2) -> b (gh gw) (p1 p2 c)"),
                    "You write a patch pixel by pixel, (p1 p2 c); the course, timm and PyTorch's "
                    "convolutions write it colour by colour, (c p1 p2).",
                ),
                Suspect(
                    "patches transposed",
                    lambda cut=cut: cut("b c (gh p1) (gw p2) -> b (gh gw) (c p2 p1)"),
                    "The patches are in the right order, but each is transposed: its columns come "
                    "before its rows. Read it (c p1 p2).",
                ),
                Suspect(
                    "woven patches",
                    lambda cut=cut: cut("b c (p1 gh) (p2 gw) -> b (gh gw) (c p1 p2)"),
                    "Your patches take every gh-th row and every gw-th column, like threads of a "
                    "cloth, in place of neighbouring pixels: write (gh p1), not (p1 gh).",
                ),
                Suspect(
                    "reshape for rearrange",
                    lambda x=x, b=b, n=gh * gw: x.reshape(b, n, -1),
                    "You cut the list of numbers into pieces of the right shape without moving any "
                    "number. A patch's rows are not neighbours in memory: split height and width "
                    "into two axes each, and move them.",
                ),
                Suspect(
                    "axes swapped",
                    lambda cut=cut: cut("b c (gh p1) (gw p2) -> b (c p1 p2) (gh gw)"),
                    "Rows and columns of your table are exchanged: a row should be a patch.",
                ),
                Suspect(
                    "grid kept",
                    lambda cut=cut: cut("b c (gh p1) (gw p2) -> b gh gw (c p1 p2)"),
                    "Your patches still stand in rows and columns, (b, gh, gw, c·P·P); glue gh and "
                    "gw to one axis of S patches.",
                ),
                *(
                    Suspect(
                        "overlapping patches",
                        lambda x=x, p=p, step=step: F.unfold(x, p, stride=step).mT,
                        "Your patches overlap: from one patch to the next it is P pixels.",
                    )
                    for step in (1, max(1, p // 2))
                ),
                Suspect(
                    "colours apart",
                    lambda cut=cut: cut("b c (gh p1) (gw p2) -> b (c gh gw) (p1 p2)"),
                    "You made a token of every colour of every patch; a token holds all colours of "
                    "its patch.",
                ),
            ],
            f"images {tuple(x.shape)}, patch_size {p}: a grid of {gh} rows and {gw} columns",
        )


# What can go wrong with einops patterns between an image and its patches: letters out of order.
COLUMN_MAJOR = Deviation(
    "column-major tokens",
    dict(tokens="gw gh"),
    "Your tokens run down the columns of the grid; they should run along its rows, as one reads "
    "a page: in (gh gw) the letter gw counts fastest.",
)


def _unpatchify(
    patches: Tensor,
    grid: tuple[int, int],
    p: int,
    tokens: str = "gh gw",
    values: str = "c p1 p2",
    image: str = "c (gh p1) (gw p2)",
    glue: str = "",
) -> Tensor:
    b, gh, gw = len(patches), *grid
    c = patches.shape[2] // p**2
    sizes = dict(gh=gh, gw=gw, c=c, p1=p, p2=p)
    if glue:  # the numbers in this order, then cut into an image without moving any
        flat = rearrange(patches, f"b ({tokens}) ({values}) -> b ({glue})", **sizes)
        return flat.reshape(b, c, gh * p, gw * p)
    return rearrange(patches, f"b ({tokens}) ({values}) -> b {image}", **sizes)


UNPATCHIFY = (
    COLUMN_MAJOR,
    Deviation(
        "height and width exchanged",
        dict(tokens="gw gh", image="c (gw p1) (gh p2)"),
        "You take the grid as (columns, rows); it is (gh, gw), rows first, as in the shape of an "
        "image.",
    ),
    Deviation(
        "image transposed",
        dict(image="c (gw p2) (gh p1)"),
        "Your image lies on its side: rows and columns of pixels are exchanged. The height is "
        "made of gh and p1, the width of gw and p2.",
    ),
    Deviation(
        "patches transposed",
        dict(values="c p2 p1"),
        "Every patch is in its place, but transposed: its numbers come row by row, (c p1 p2), and "
        "you read them column by column.",
    ),
    Deviation(
        "pixel by pixel",
        dict(values="p1 p2 c"),
        "You read a patch pixel by pixel, (p1 p2 c); it was written colour by colour, (c p1 p2). "
        "Three values of one colour become one coloured pixel.",
    ),
    Deviation(
        "woven patches",
        dict(image="c (p1 gh) (p2 gw)"),
        "You weave the patches into each other like threads of a cloth: in the height the row in "
        "the patch counts fastest, (gh p1), not (p1 gh).",
    ),
    Deviation(
        "reshape for rearrange",
        dict(glue="gh gw c p1 p2"),
        "You cut the list of numbers into an image of the right shape without moving any number. "
        "A row of the image runs through gw patches: axes must be exchanged, not only counted.",
    ),
    Deviation(
        "axes not exchanged",
        dict(glue="c gh gw p1 p2"),
        "You put the colours first, but glue gh with gw and p1 with p2: each patch is still "
        "written out whole before the next begins. A row of the image takes row p1 of all gw "
        "patches: move p1 before gw, then glue.",
    ),
    Deviation(
        "channels last",
        dict(image="(gh p1) (gw p2) c"),
        "Your image has its colours last, (b, h, w, c); in PyTorch they come first: (b, c, h, w).",
    ),
    Deviation(
        "one row of patches",
        dict(image="c p1 (gh gw p2)"),
        "All your patches stand in one long row; after gw of them begins the next row of the grid.",
    ),
    Deviation(
        "one column of patches",
        dict(image="c (gh gw p1) p2"),
        "All your patches stand in one long column; gw of them stand side by side in the image.",
    ),
    Deviation(
        "patches not put together",
        dict(image="gh gw c p1 p2"),
        "You unfold the patches to the grid but leave the axes apart: glue gh with p1 to the "
        "height, and gw with p2 to the width.",
    ),
)


@exercise(
    lesson=LESSON,
    takes="unpatchify(patches, patch_size, grid)",
    hints=(
        "It is `patchify` read from right to left: the pattern's two sides change places.",
        "einops cannot guess how S splits into rows and columns, nor how a patch splits into "
        "colours and pixels. Which of `gh`, `gw`, `c`, `p1`, `p2` must you tell it?",
        "The number of colours is not given: it is the length of a patch divided by P².",
        "Without einops: split into six axes (b, gh, gw, c, P, P), then permute until gh stands "
        "before the first P and gw before the second, then glue.",
    ),
)
def unpatchify(t: Trial, answer: Any) -> None:
    """``unpatchify(patches (b, S, c P P), patch_size, grid) -> (b, c, h, w)``, grid = (gh, gw).

    The way back from :func:`patchify`: tokens in reading order, each ``(c p1 p2)``.
    """
    for trial in range(t.rounds):
        b, c, gh, gw, p = t.sizes(5, 2, 6)
        if trial == 0 and c == 3:  # the number of colours is for the answer to find out
            c, b = b, c
        x = t.randn(b, gh * gw, c * p * p)
        if trial == 0:  # numbered values make the better picture of where they went
            x = torch.arange(x.numel()).reshape(x.shape).to(x)
        compute = functools.partial(_unpatchify, x, (gh, gw), p)
        t.same(
            t.call(answer, x, p, (gh, gw)),
            compute(),
            "the image",
            "(b, c, gh·P, gw·P)",
            suspects(compute, UNPATCHIFY),
            f"patches {tuple(x.shape)}, patch_size {p}, grid {(gh, gw)}: {c} colours",
        )


def _embed(
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    p: int,
    tokens: str = "gh gw",
    values: str = "c p1 p2",
    image: str = "c (gh p1) (gw p2)",
    glue: str = "",
    step: str = "",
    transposed: str = "",
    flipped: bool = False,
    add: float = 1.0,
    crosswise: bool = False,
    out: str = "s k",
) -> Tensor:
    if glue:  # no number moved: the image's list of numbers cut into rows
        x = images.reshape(len(images), -1, images.shape[1] * p * p)
    elif step:
        x = F.unfold(images, p, stride=1 if step == "pixel" else max(1, p // 2)).mT
    else:
        x = rearrange(images, f"b {image} -> b ({tokens}) ({values})", p1=p, p2=p)
    if transposed:  # (C, cPP) -> (cPP, C), once by cutting anew, once by not turning at all
        weight = weight.reshape(-1, len(weight)).T if transposed == "reshape" else weight.T
    if flipped:
        weight = rearrange(
            rearrange(weight, "k (c p1 p2) -> k c p1 p2", p1=p, p2=p).flip(2, 3),
            "k c p1 p2 -> k (c p1 p2)",
        )
    y = x @ weight.T + add * (bias[:, None] if crosswise else bias)  # (b, S, C)
    sizes = dict(gh=images.shape[2] // p)
    layouts = {
        "k s": lambda: rearrange(y, "b s k -> b k s"),
        "k gh gw": lambda: rearrange(y, "b (gh gw) k -> b k gh gw", **sizes),
        "gh gw k": lambda: rearrange(y, "b (gh gw) k -> b gh gw k", **sizes),
        "reshape": lambda: rearrange(y, "b s k -> b k s").reshape(y.shape),
        "mean": lambda: y.mean(1),
    }
    return layouts[out]() if out in layouts else y


EMBEDDING = (
    Deviation(
        "bias missing",
        dict(add=0.0),
        "The bias is not added: every channel has one number of its own, for all tokens.",
    ),
    Deviation(
        "bias twice",
        dict(add=2.0),
        "The bias is added twice: does the layer that you call add it as well?",
    ),
    Deviation(
        "bias along the wrong axis",
        dict(crosswise=True),
        "The bias is laid along the tokens; it has one number for each channel, so it lies along "
        "the last axis, (b, S, C) + (C,).",
    ),
    COLUMN_MAJOR,
    Deviation(
        "pixel by pixel",
        dict(values="p1 p2 c"),
        "Patches and weights do not speak of the same pixels: one is written pixel by pixel, "
        "(p1 p2 c), and the other colour by colour, (c p1 p2).",
    ),
    Deviation(
        "patches transposed",
        dict(values="c p2 p1"),
        "Rows and columns inside a patch are exchanged against the weights, which are written "
        "(c p1 p2).",
    ),
    Deviation(
        "woven patches",
        dict(image="c (p1 gh) (p2 gw)"),
        "Your patches take every gh-th row and every gw-th column in place of neighbouring "
        "pixels: write (gh p1), not (p1 gh).",
    ),
    Deviation(
        "reshape for rearrange",
        dict(glue="b s n"),
        "You cut the image's list of numbers into patches without moving any number. The rows of "
        "a patch are not neighbours in memory: rearrange first.",
    ),
    Deviation(
        "axes swapped",
        dict(out="k s"),
        "Rows and columns of your table are exchanged: a row should be a token, (b, S, C). What a "
        "convolution gives has its channels first.",
    ),
    Deviation(
        "grid kept",
        dict(out="k gh gw"),
        "Your result is still laid out as a picture, (b, C, gh, gw); the table has one row for "
        "each token: (b, S, C).",
    ),
    Deviation(
        "grid kept",
        dict(out="gh gw k"),
        "Your result is still laid out as a picture, (b, gh, gw, C): glue gh and gw to one axis "
        "of S tokens.",
    ),
    Deviation(
        "reshape for transpose",
        dict(out="reshape"),
        "Your result has the shape (b, S, C), but it was reached by cutting a (b, C, S) table "
        "anew. A reshape moves no number: use transpose, permute or rearrange.",
    ),
    Deviation(
        "weights transposed",
        dict(transposed="none"),
        "You multiply by the weights the wrong way round: a row of `weight` belongs to a channel "
        "and meets a row of patches, so it is patches @ weight.T.",
    ),
    Deviation(
        "reshape for transpose",
        dict(transposed="reshape"),
        "You cut the weights anew into (c·P·P, C): a reshape moves no number, so the weights of "
        "different channels are mixed up. Use weight.T.",
    ),
    Deviation(
        "flipped kernels",
        dict(flipped=True),
        "Your kernels are turned upside down, as in the convolution of mathematics; the embedding "
        "(and PyTorch's conv2d) multiplies pixel and weight in place.",
    ),
    *(
        Deviation(
            "overlapping patches",
            dict(step=step),
            "Your patches overlap: from one patch to the next it is P pixels, in a convolution "
            "stride=P.",
        )
        for step in ("pixel", "half")
    ),
    Deviation(
        "pooled",
        dict(out="mean"),
        "You take the mean over the tokens: each patch keeps a row of its own.",
    ),
)


@exercise(
    lesson=LESSON,
    takes="patch_embedding(images, weight, bias, patch_size)",
    hints=(
        "Two steps: cut the images into patches, then apply one linear layer to every patch, the "
        "same for all.",
        "A channel of a token is the sum of the patch's values, each times its weight, plus the "
        "channel's bias. Rows against rows is a matrix product: with which matrix transposed?",
        "If you use a convolution instead: its weights are (C, c, P, P), its stride is P, and its "
        "result has channels first and the grid unglued.",
    ),
)
def patch_embedding(t: Trial, answer: Any) -> None:
    """``patch_embedding(images (b, c, h, w), weight (C, c P P), bias (C,), patch_size)``.

    Gives ``(b, S, C)``: tokens in reading order, patches written ``(c p1 p2)`` as in
    :func:`patchify`.
    """
    for _ in range(t.rounds):
        c, gh, gw, p = t.sizes(4, 2, 5)
        b, k = t.sizes(2, 6, 7)
        if k == gh * gw:  # S != C
            b, k = k, b
        x = t.randn(b, c, gh * p, gw * p)
        weight, bias = t.randn(k, c * p * p) / p, t.randn(k)
        args = (x, weight, bias, p)
        # c P P = C = S, so that what is laid the wrong way fits.
        equal = (t.randn(3, 1, 4, 4), t.randn(4, 4), t.randn(4), 2)
        sizes = (
            f"images {tuple(x.shape)}, weight {tuple(weight.shape)}, bias ({k},), patch_size {p}: "
            f"a grid of {gh} rows and {gw} columns"
        )
        compute = functools.partial(_embed, *args)
        t.same(
            call_or_name(t, answer, args, equal, _embed, EMBEDDING, sizes),
            compute(),
            "the table of tokens",
            "(b, S, C)",
            suspects(compute, EMBEDDING),
            sizes,
        )


def _kernel(
    weight: Tensor,
    p: int,
    values: str = "c p1 p2",
    out: str = "k c p1 p2",
    turned: bool = False,
    flip: tuple[int, ...] = (),
    colours: str = "all",
) -> Tensor:
    c = weight.shape[1] // p**2
    if turned:
        weight = weight.T.reshape(weight.shape)
    kernel = rearrange(weight, f"k ({values}) -> k c p1 p2", c=c, p1=p, p2=p).flip(flip)
    if colours == "first":
        kernel = kernel[:, :1]
    if colours == "mean":
        kernel = kernel.mean(1, keepdim=True)
    return rearrange(kernel, f"k c p1 p2 -> {out}")


KERNEL = (
    Deviation(
        "pixel by pixel",
        dict(values="p1 p2 c"),
        "You read a row of the weights pixel by pixel, (p1 p2 c); it is written colour by colour, "
        "(c p1 p2): first all weights of red.",
    ),
    Deviation(
        "kernels transposed",
        dict(values="c p2 p1"),
        "Each kernel is transposed: a row of the weights holds the patch row by row, (c p1 p2).",
    ),
    Deviation(
        "kernels transposed",
        dict(values="p2 p1 c"),
        "You read a row of the weights column by column and pixel by pixel; it is written "
        "(c p1 p2).",
    ),
    Deviation(
        "reshape for transpose",
        dict(turned=True),
        "You transpose the weights and then cut them anew: a kernel now holds weights of several "
        "channels. A row of `weight` is one kernel already; nothing has to be transposed.",
    ),
    Deviation(
        "channels last",
        dict(out="k p1 p2 c"),
        "Your kernels have their colours last, (C, P, P, c); conv2d wants (C, c, P, P).",
    ),
    Deviation(
        "kernels last",
        dict(out="p1 p2 c k"),
        "Your kernels are in the order of TensorFlow and JAX, (P, P, c, C); PyTorch's conv2d wants "
        "(C, c, P, P).",
    ),
    Deviation(
        "colours first",
        dict(out="c k p1 p2"),
        "Colours and channels are exchanged: (c, C, P, P) in place of (C, c, P, P).",
    ),
    Deviation(
        "not folded",
        dict(out="k (c p1 p2)"),
        "The weights are as they were, one row for each channel: unfold the row to (c, P, P).",
    ),
    Deviation(
        "pixels not folded",
        dict(out="k c (p1 p2)"),
        "The P·P pixels are still one axis: unfold them to P rows of P.",
    ),
    Deviation(
        "flipped kernels",
        dict(flip=(2, 3)),
        "You turn the kernels upside down, as in the convolution of mathematics. PyTorch's conv2d "
        "does not flip: pixel and weight meet in place.",
    ),
    Deviation(
        "upside down",
        dict(flip=(2,)),
        "Your kernels stand on their heads: row 0 of the patch is row 0 of the kernel.",
    ),
    Deviation(
        "colours reversed",
        dict(flip=(1,)),
        "The order of the colours is reversed: the first weights of a row belong to the first "
        "colour.",
    ),
    Deviation(
        "one colour only",
        dict(colours="first"),
        "Your kernels have the first colour alone; the weights of the others are lost.",
    ),
    Deviation(
        "colours averaged",
        dict(colours="mean"),
        "You average over the colours; a kernel keeps a slice of its own for each of them.",
    ),
    Deviation(
        "no axis for colours",
        dict(out="(k c) p1 p2"),
        "Channels and colours share an axis, (C·c, P, P); keep them apart: (C, c, P, P).",
    ),
)


@exercise(
    lesson=LESSON,
    takes="embedding_kernel(weight, patch_size)",
    hints=(
        "A row of `weight` is a patch of weights, written in the same order as a patch of pixels.",
        "So it is unfolded as a patch would be: which three axes does the second axis of `weight` "
        "consist of, and which of them counts fastest?",
        "The number of colours is what is left when c·P·P is divided by P². To test yourself: "
        "`F.conv2d(images, kernel, bias, stride=P)` must give the numbers of your "
        "`patch_embedding`.",
    ),
)
def embedding_kernel(t: Trial, answer: Any) -> None:
    """``embedding_kernel(weight (C, c P P), patch_size) -> (C, c, P, P)``.

    The kernels with which a convolution of stride P computes the patch embedding.
    """
    for trial in range(t.rounds):
        k, c, p, b, g = t.sizes(5, 2, 6)
        if trial == 0 and c == 3:  # the number of colours is for the answer to find out
            c, b = b, c
        weight = t.randn(k, c * p * p)
        compute = functools.partial(_kernel, weight, p)
        got, want = t.tensor(t.call(answer, weight, p), "the stack of kernels"), compute()
        evidence = [f"weight {tuple(weight.shape)}, patch_size {p}: {k} channels, {c} colours"]
        if got.shape == want.shape:
            # What it is for: the convolution's numbers beside the embedding's.
            x = t.randn(b, c, g * p, p)
            by_hand = _embed(x, weight, weight.new_zeros(k), p)
            conv = F.conv2d(x.double(), got.double(), stride=p)
            evidence.append(
                f"token 0, channel 0 of an image: the embedding gives "
                f"{float(by_hand[0, 0, 0]):.4g}, a convolution with your kernels "
                f"{float(conv[0, 0, 0, 0]):.4g}"
            )
        t.same(
            got, want, "the stack of kernels", "(C, c, P, P)", suspects(compute, KERNEL), *evidence
        )
