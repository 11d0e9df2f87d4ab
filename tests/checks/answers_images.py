"""Lesson 1."""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from tests.checks.zoo import right, wrong


@right("patchify")
def patchify_with_loops(images, patch_size):
    b, c, h, w = images.shape
    tokens = []
    for y in range(0, h, patch_size):
        for x in range(0, w, patch_size):
            patch = images[:, :, y : y + patch_size, x : x + patch_size]
            tokens.append(patch.reshape(b, c * patch_size * patch_size))
    return torch.stack(tokens, dim=1)


@right("patchify")
def patchify_with_einops(images, patch_size):
    p = patch_size
    return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (c p1 p2)", p1=p, p2=p)


@right("patchify")
def patchify_with_unfold(images, patch_size):
    return F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


@right("patchify")
def patchify_with_views(images, patch_size):
    b, c, h, w = images.shape
    gh, gw = h // patch_size, w // patch_size
    x = images.view(b, c, gh, patch_size, gw, patch_size)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, gh * gw, -1)


@right("patchify")
def patchify_in_float64(images, patch_size):
    p = patch_size
    x = images.double().unfold(2, p, p).unfold(3, p, p)
    return rearrange(x, "b c gh gw p1 p2 -> b (gh gw) (c p1 p2)")


@wrong("patchify", "column-major tokens", "columns of the grid", "gw")
def patchify_down_the_columns(images, patch_size):
    tokens = []
    for x in range(0, images.shape[3], patch_size):
        for y in range(0, images.shape[2], patch_size):
            patch = images[:, :, y : y + patch_size, x : x + patch_size]
            tokens.append(patch.flatten(1))
    return torch.stack(tokens, dim=1)


@wrong("patchify", "pixel by pixel", "(p1 p2 c)")
def patchify_channels_last(images, patch_size):
    p = patch_size
    return rearrange(images, "b c (y p) (x q) -> b (y x) (p q c)", p=p, q=p)


@wrong("patchify", "reshape for rearrange", "without moving")
def patchify_by_reshape(images, patch_size):
    b, c, h, w = images.shape
    return images.reshape(b, (h // patch_size) * (w // patch_size), c * patch_size**2)


@wrong("patchify", "patches transposed", "columns come before its rows")
def patchify_transposed(images, patch_size):
    p = patch_size
    x = images.unfold(3, p, p).unfold(2, p, p)  # (b, c, gh, gw, p2, p1)
    return rearrange(x, "b c gh gw p2 p1 -> b (gh gw) (c p2 p1)")


@wrong("patchify", "woven patches", "(gh p1)")
def patchify_woven(images, patch_size):
    p = patch_size
    return rearrange(images, "b c (p1 gh) (p2 gw) -> b (gh gw) (c p1 p2)", p1=p, p2=p)


@wrong("patchify", "axes swapped", "a row should be a patch")
def patchify_as_unfold_gives_it(images, patch_size):
    return F.unfold(images, patch_size, stride=patch_size)


@wrong("patchify", "colours apart", "all colours")
def patchify_each_colour(images, patch_size):
    p = patch_size
    x = images.unfold(2, p, p).unfold(3, p, p)
    return x.reshape(len(images), -1, p * p)


@wrong("patchify", "wrong shape", "(b, S, c·P·P)")
def patchify_keeps_the_grid(images, patch_size):
    p = patch_size
    return rearrange(images, "b c (gh p1) (gw p2) -> b gh gw (c p1 p2)", p1=p, p2=p)


@wrong("patchify", "wrong shape")
def patchify_with_overlap(images, patch_size):
    return F.unfold(images, patch_size, stride=max(1, patch_size // 2)).transpose(1, 2)


@wrong("patchify", "raises", "patchify_for_squares_only(", "line")
def patchify_for_squares_only(images, patch_size):
    p = patch_size
    g = images.shape[2] // p
    return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (c p1 p2)", gh=g, gw=g, p1=p, p2=p)


@wrong("patchify", "not a tensor", "ndarray")
def patchify_in_numpy(images, patch_size):
    p = patch_size
    return np.asarray(rearrange(images, "b c (gh a) (gw d) -> b (gh gw) (c a d)", a=p, d=p))


@wrong("patchify", "scale", "0.5 times")
def patchify_halved(images, patch_size):
    return patchify_with_einops(images, patch_size) / 2
