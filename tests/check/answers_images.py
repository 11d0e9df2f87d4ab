"""Lesson 1."""

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from einops.layers.torch import EinMix
from torch import nn

from tests.check.zoo import right, wrong


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
    return F.unfold(images, patch_size, stride=patch_size).mT


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


@wrong("patchify", "patches transposed", "columns come before its rows")
def patchify_transposed(images, patch_size):
    p = patch_size
    x = images.unfold(3, p, p).unfold(2, p, p)  # (b, c, gh, gw, p2, p1)
    return rearrange(x, "b c gh gw p2 p1 -> b (gh gw) (c p2 p1)")


@wrong("patchify", "colours apart", "all colours")
def patchify_each_colour(images, patch_size):
    p = patch_size
    x = images.unfold(2, p, p).unfold(3, p, p)
    return x.reshape(len(images), -1, p * p)


@right("patchify")  # with a remark
def patchify_for_squares_only(images, patch_size):
    p = patch_size
    g = images.shape[2] // p
    return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (c p1 p2)", gh=g, gw=g, p1=p, p2=p)


@wrong("patchify", "wrong shape", "(b, S, c·P·P)")
def patchify_without_the_last(images, patch_size):
    return patchify_with_loops(images, patch_size)[:, :-1]


@wrong("patchify", "not a tensor", "ndarray")
def patchify_in_numpy(images, patch_size):
    p = patch_size
    return np.asarray(rearrange(images, "b c (gh a) (gw d) -> b (gh gw) (c a d)", a=p, d=p))


@wrong("patchify", "scale", "0.5 times")
def patchify_halved(images, patch_size):
    return patchify_with_einops(images, patch_size) / 2


@right("unpatchify")
def unpatchify_with_loops(patches, patch_size, grid):
    p, (gh, gw) = patch_size, grid
    b, _, n = patches.shape
    image = patches.new_zeros(b, n // p**2, gh * p, gw * p)
    for s in range(gh * gw):
        y, x = s // gw * p, s % gw * p
        image[:, :, y : y + p, x : x + p] = patches[:, s].reshape(b, -1, p, p)
    return image


@right("unpatchify")
def unpatchify_with_einops(patches, patch_size, grid):
    p, (gh, gw) = patch_size, grid
    pattern = "b (gh gw) (c p1 p2) -> b c (gh p1) (gw p2)"
    return rearrange(patches, pattern, gh=gh, gw=gw, p1=p, p2=p)


@right("unpatchify")
def unpatchify_with_fold(patches, patch_size, grid):
    size = (grid[0] * patch_size, grid[1] * patch_size)
    return F.fold(patches.mT, size, patch_size, stride=patch_size)


@right("unpatchify")
def unpatchify_with_views(patches, patch_size, grid):
    b, _, n = patches.shape
    p, (gh, gw) = patch_size, grid
    x = patches.view(b, gh, gw, n // p**2, p, p).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, -1, gh * p, gw * p)


@right("unpatchify")
def unpatchify_in_float64_by_rows(patches, patch_size, grid):
    p, (gh, gw) = patch_size, grid
    x = patches.double().unflatten(2, (-1, p, p)).unflatten(1, (gh, gw))
    rows = [torch.cat(list(x[:, i].unbind(1)), dim=-1) for i in range(gh)]  # (b, c, p, gw p)
    return torch.cat(rows, 2)


@wrong("unpatchify", "column-major tokens", "gw counts fastest")
def unpatchify_down_the_columns(patches, patch_size, grid):
    p, (gh, gw) = patch_size, grid
    image = torch.empty(len(patches), patches.shape[2] // p**2, gh * p, gw * p)
    s = 0
    for j in range(gw):
        for i in range(gh):
            patch = patches[:, s].reshape(len(patches), -1, p, p)
            image[:, :, i * p : (i + 1) * p, j * p : (j + 1) * p] = patch
            s += 1
    return image


@wrong("unpatchify", "patches transposed", "column by column")
def unpatchify_each_patch_turned(patches, patch_size, grid):
    p, (gh, gw) = patch_size, grid
    x = patches.reshape(len(patches), gh, gw, -1, p, p)
    return x.permute(0, 3, 1, 5, 2, 4).flatten(4).flatten(2, 3)


@wrong("unpatchify", "axes not exchanged", "move p1 before gw")
def unpatchify_forgets_one_permutation(patches, patch_size, grid):
    b, _, n = patches.shape
    p, (gh, gw) = patch_size, grid
    x = patches.view(b, gh, gw, n // p**2, p, p).permute(0, 3, 1, 2, 4, 5)
    return x.reshape(b, n // p**2, gh * p, gw * p)


@wrong("unpatchify", "column-major tokens", "Besides (", "pixel by pixel")
def unpatchify_with_two_mistakes(patches, patch_size, grid):
    p, (gh, gw) = patch_size, grid
    return rearrange(patches, "b (w h) (p q c) -> b c (h p) (w q)", h=gh, w=gw, p=p, q=p)


@wrong("unpatchify", "three colours assumed", "their number divided by P²")
def unpatchify_three_colours(patches, patch_size, grid):
    p, (gh, gw) = patch_size, grid
    sizes = dict(gh=gh, gw=gw, c=3, p1=p, p2=p)
    return rearrange(patches, "b (gh gw) (c p1 p2) -> b c (gh p1) (gw p2)", **sizes)


@right("patch_embedding")
def embed_with_loops(images, weight, bias, patch_size):
    tokens = patchify_with_loops(images, patch_size)
    out = tokens.new_zeros(*tokens.shape[:2], len(weight))
    for k in range(len(weight)):
        out[:, :, k] = (tokens * weight[k]).sum(-1) + bias[k]
    return out


@right("patch_embedding")
def embed_with_linear(images, weight, bias, patch_size):
    return F.linear(patchify_with_einops(images, patch_size), weight, bias)


@right("patch_embedding")
def embed_with_a_convolution(images, weight, bias, patch_size):
    c = images.shape[1]
    conv = nn.Conv2d(c, len(weight), patch_size, stride=patch_size)
    with torch.no_grad():
        conv.weight.copy_(weight.view_as(conv.weight))
        conv.bias.copy_(bias)
    return conv(images).flatten(2).mT


@right("patch_embedding")
def embed_with_einmix(images, weight, bias, patch_size):
    p, c = patch_size, images.shape[1]
    mix = EinMix(
        "b c (gh p1) (gw p2) -> b (gh gw) k",
        weight_shape="c p1 p2 k",
        bias_shape="k",
        **dict(c=c, p1=p, p2=p, k=len(weight)),
    )
    with torch.no_grad():
        folded = rearrange(weight, "k (c p1 p2) -> c p1 p2 k", p1=p, p2=p)
        mix.weight.copy_(folded.reshape(mix.weight.shape))
        mix.bias.copy_(bias.reshape(mix.bias.shape))
    return mix(images)


@right("patch_embedding")
def embed_with_einsum_in_float64(images, weight, bias, patch_size):
    x = patchify_with_unfold(images, patch_size).double()
    return einsum(x, weight.double(), "b s n, k n -> b s k") + bias.double()


@right("patch_embedding")
def embed_with_timm(images, weight, bias, patch_size):
    from timm.layers import PatchEmbed

    size = tuple(images.shape[2:])
    embed = PatchEmbed(size, patch_size, in_chans=images.shape[1], embed_dim=len(weight))
    folded = weight.reshape(embed.proj.weight.shape)
    embed.proj.load_state_dict({"weight": folded, "bias": bias})
    return embed(images)


@wrong("patch_embedding", "bias missing", "not added")
def embed_without_bias(images, weight, bias, patch_size):
    return patchify_with_unfold(images, patch_size) @ weight.T


@wrong("patch_embedding", "axes swapped", "a row should be a token")
def embed_channels_first(images, weight, bias, patch_size):
    c = images.shape[1]
    kernel = weight.reshape(-1, c, patch_size, patch_size)
    return F.conv2d(images, kernel, bias, stride=patch_size).flatten(2)


@wrong("patch_embedding", "reshape for transpose", "A reshape moves no number")
def embed_and_reshape(images, weight, bias, patch_size):
    kernel = weight.reshape(-1, images.shape[1], patch_size, patch_size)
    y = F.conv2d(images, kernel, bias, stride=patch_size)
    return y.reshape(y.shape[0], -1, y.shape[1])


@wrong("patch_embedding", "weights of its own", "that are given")
def embed_with_a_fresh_layer(images, weight, bias, patch_size):
    return nn.Linear(weight.shape[1], len(weight))(patchify_with_unfold(images, patch_size))


@wrong("patch_embedding", "wrong values", "other numbers")
def embed_and_bend(images, weight, bias, patch_size):
    return F.gelu(embed_with_linear(images, weight, bias, patch_size))


@right("embedding_kernel")
def kernel_with_einops(weight, patch_size):
    return rearrange(weight, "k (c p1 p2) -> k c p1 p2", p1=patch_size, p2=patch_size)


@right("embedding_kernel")
def kernel_with_view(weight, patch_size):
    return weight.view(weight.size(0), -1, patch_size, patch_size)


@right("embedding_kernel")
def kernel_in_float64(weight, patch_size):
    return weight.double().unflatten(1, (-1, patch_size, patch_size))


@right("embedding_kernel")
def kernel_with_loops(weight, patch_size):
    p = patch_size
    c = weight.shape[1] // (p * p)
    kernel = weight.new_zeros(len(weight), c, p, p)
    for n in range(weight.shape[1]):
        kernel[:, n // p**2, n // p % p, n % p] = weight[:, n]
    return kernel


@right("embedding_kernel")
def kernel_in_a_convolution(weight, patch_size):
    c = weight.shape[1] // patch_size**2
    conv = nn.Conv2d(c, len(weight), patch_size)
    conv.weight = nn.Parameter(weight.reshape(conv.weight.shape).clone())
    return conv.weight


@wrong("embedding_kernel", "pixel by pixel", "first all weights of red")
def kernel_pixel_by_pixel(weight, patch_size):
    return weight.reshape(len(weight), patch_size, patch_size, -1).permute(0, 3, 1, 2)


@wrong("embedding_kernel", "raises", "kernel_for_three_colours(")
def kernel_for_three_colours(weight, patch_size):
    return weight.reshape(len(weight), 3, patch_size, patch_size)


@wrong("embedding_kernel", "scale")
def kernel_of_a_mean(weight, patch_size):
    return kernel_with_view(weight, patch_size) / patch_size**2
