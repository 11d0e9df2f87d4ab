"""Checks of lesson 1: images as tokens."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange

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
                    "colours apart",
                    lambda cut=cut: cut("b c (gh p1) (gw p2) -> b (c gh gw) (p1 p2)"),
                    "You made a token of every colour of every patch; a token holds all colours of "
                    "its patch.",
                ),
            ],
            f"images {tuple(x.shape)}, patch_size {p}: a grid of {gh} rows and {gw} columns",
        )
