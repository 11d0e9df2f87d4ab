"""Activations as reasons: evidence by patch, depth, influence, importance of units, occlusion.

Pure functions of a model and preprocessed images, on the model's device and in its precision.
``image`` is always one image as ``images.preprocess`` returns it: ``(c, h, w)`` or
``(1, c, h, w)``. Letters in shapes are those of :mod:`mixer_lite.model`, and K is the number of
classes. The shuffles and edits of :mod:`mixer_lite.interventions` are here under the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.func import vjp, vmap

from mixer_lite.filters import block_at
from mixer_lite.interventions import edit as edit
from mixer_lite.interventions import independent as independent
from mixer_lite.interventions import reparametrise as reparametrise
from mixer_lite.interventions import shuffle_patches as shuffle_patches
from mixer_lite.interventions import shuffle_pixels as shuffle_pixels
from mixer_lite.model import MixerBlock, MlpMixer, mixer_blocks


def _stem(model: MlpMixer, image: Tensor) -> Tensor:
    # One image -> its tokens before the first block: (1, S, C). patchify checks the sizes.
    if isinstance(image, Tensor) and image.ndim == 3:
        image = image[None]  # (c, h, w) -> (1, c, h, w)
    patches = model.patchify(image)  # (b, S, c*P*P)
    if len(patches) != 1:
        raise ValueError(f"This takes one image, not {len(patches)}: pass images[i].")
    return model.stem(patches)


def _logits(model: MlpMixer, tokens: Tensor, start: int) -> Tensor:
    # What blocks `start` and later, norm, mean and head make of tokens: (b, S, C) -> (b, K).
    for block in mixer_blocks(model)[start:]:
        tokens = block(tokens)
    return model.head(reduce(model.norm(tokens), "b s c -> b c", "mean"))


def _check_class(model: MlpMixer, index: int | None) -> None:
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it predicts nothing.")
    if index is not None and not 0 <= index < model.num_classes:
        raise ValueError(f"class_index must be from 0 to {model.num_classes - 1}, not {index}.")


def _per_batch(model: MlpMixer) -> int:
    # Images or vectors at once, so that the widest activation is about 16 MB in float32:
    # larger batches are no faster.
    return max(1, 2**22 // (model.num_tokens * max(model.hidden_dim, model.channels_mlp_dim)))


@torch.no_grad()
def patch_evidence(model: MlpMixer, image: Tensor, class_index: int | None = None) -> Tensor:
    """What each patch says for a class: ``(gh, gw)``, or ``(K, gh, gw)`` for all K classes.

    The head is linear and sees the mean over tokens, so the mean of this map plus the class's
    bias *is* the logit: nothing is estimated. By the last block every token has heard of the
    others, so a patch's evidence is what is said at that place, not what its own pixels caused.

    Raises:
        ValueError: not one image of the model's size, no head, or no such class.
    """
    _check_class(model, class_index)
    tokens = model.norm(model.blocks(_stem(model, image)))  # (1, S, C)
    evidence = tokens[0] @ model.head.weight.T  # (S, C) @ (C, K) -> (S, K)
    maps = rearrange(evidence, "(gh gw) k -> k gh gw", gh=model.grid_size[0])
    return maps if class_index is None else maps[class_index]


@torch.no_grad()
def prediction_by_depth(model: MlpMixer, image: Tensor) -> Tensor:
    """Logits if the network ended early: ``(num_blocks + 1, K)``.

    Row 0 puts the final norm, the mean and the head right after the stem, row n after n blocks;
    the last row is the model's own answer. The head was trained for that one only.

    Raises:
        ValueError: not one image of the model's size, or no head.
    """
    _check_class(model, None)
    tokens = _stem(model, image)
    rows = [_logits(model, tokens, model.num_blocks)]
    for block in mixer_blocks(model):
        tokens = block(tokens)
        rows.append(_logits(model, tokens, model.num_blocks))
    return torch.cat(rows)


@torch.no_grad()
def influence(
    model: MlpMixer,
    image: Tensor,
    block: int | None = None,
    *,
    tokens: Sequence[int] | None = None,
    probes: int | None = None,
) -> Tensor:
    """How strongly output token i listens to input token j: entry (i, j) of ``(S, S)``.

    The Frobenius norm, over channels, of the Jacobian of token i after a block with respect to
    token j before it, at this image; skip connections included. A block that did nothing would
    have ``sqrt(C)`` on the diagonal and 0 elsewhere.

    Args:
        model, image: whose tokens.
        block: one block, exact, from the known structure of its Jacobian; or ``None``: from the
            stem's output through all blocks (the final norm, within tokens, is left out).
        tokens: rows wanted, for ``(len(tokens), S)`` at that share of the cost; ``None``: all.
        probes: for all blocks only. ``None``: exact where ``S * C`` is at most 10,000, by a
            backward pass for each row and channel, else 2. A number: an estimate from so many
            random sign vectors w for each row, since the mean of ``|w J|^2`` is the squared norm,
            by a backward pass for each. The vectors are the same in every call. On a small
            trained model entries were off by 23 % with 2, 12 % with 8 (root mean square).

    Raises:
        ValueError: not one image of the model's size, no such block or token, or no probes.
    """
    x = _stem(model, image)  # (1, S, C)
    s, c = model.num_tokens, model.hidden_dim
    rows = list(range(s) if tokens is None else tokens)
    if not rows or not all(0 <= row < s for row in rows):
        raise ValueError(f"tokens must be one or more numbers from 0 to {s - 1}, not {rows}.")
    if probes is not None and probes < 1:
        raise ValueError(f"probes must be 1 or more, or None, not {probes}.")
    if block is not None:
        target = block_at(model, block)
        before = mixer_blocks(model)[: block % model.num_blocks]
        return _block_influence(target, nn.Sequential(*before)(x)[0], rows)
    if probes is None and s * c <= 10_000:
        vectors = torch.eye(c).repeat(len(rows), 1)  # (rows C, C): each channel of each row
    else:
        n, dice = probes or 2, torch.Generator().manual_seed(0)
        signs = 2 * torch.randint(2, (s, n, c), generator=dice) - 1
        vectors = (signs[rows] / n**0.5).flatten(0, 1)  # (rows n, C)
    pull_back = vjp(model.blocks, x)[1]
    each, step = len(vectors) // len(rows), _per_batch(model)
    owner = torch.arange(len(rows), device=x.device).repeat_interleave(each).split(step)
    place = torch.tensor(rows, device=x.device).repeat_interleave(each).split(step)
    squared = x.new_zeros(len(rows), s)
    for row, token, vector in zip(owner, place, vectors.to(x).split(step), strict=True):
        seeds = x.new_zeros(len(row), 1, s, c)
        seeds[torch.arange(len(row)), 0, token] = vector  # at its own token, zero elsewhere
        (back,) = vmap(pull_back)(seeds)  # (n, 1, S, C)
        squared.index_add_(0, row, reduce(back.square(), "n 1 s c -> n s", "sum"))
    return squared.sqrt()


@torch.no_grad()
def unit_responses(model: MlpMixer, image: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """What the token-mixing units of a block see in an image, and how each answers.

    Returns:
        The channels as the units read them, after the first norm: ``(C, gh, gw)``; and each
        unit's activation, after GELU, for each channel: ``(C, D_S)``.

    Raises:
        ValueError: not one image of the model's size, or no such block.
    """
    target, x = block_at(model, block), _stem(model, image)
    for before in mixer_blocks(model)[: block % model.num_blocks]:
        x = before(x)
    read = target.norm1(x)[0].T  # (1, S, C) -> (C, S)
    mlp = target.mlp_tokens
    gh, gw = model.grid_size
    return rearrange(read, "c (gh gw) -> c gh gw", gh=gh, gw=gw), mlp.act(mlp.fc1(read))


def _slope(act: nn.Module, x: Tensor) -> Tensor:
    return vjp(act, x)[1](torch.ones_like(x))[0]  # derivative, entry by entry


def _norm_jacobian(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, correction=0)
    std = (variance + norm.eps).sqrt()
    z = (x - mean) / std  # (C,)
    projection = torch.eye(len(x)).to(x) - 1 / len(x) - z.outer(z) / len(x)  # (C, C)
    return (norm.weight / std)[:, None] * projection


def _block_influence(block: MixerBlock, x: Tensor, rows: Sequence[int]) -> Tensor:
    # Token j reaches token i through J = A_i (I [i = j] + diag(d_ij) N_j), all (C, C): N_j the
    # first norm, d_ij the token-mixing MLP, channel by channel, A_i the channel-mixing sublayer.
    # N = diag(gamma) P / std with P = I - 1 1'/C - z z'/C, so with G = A'A and e = d gamma / std
    # |A diag(d) N|^2 = sum_c G_cc e_c^2 - e'Ge / C - (2 - z'z / C) (ez)'G(ez) / C.
    tokens_mlp, channels_mlp, norm = block.mlp_tokens, block.mlp_channels, block.norm1
    hidden = tokens_mlp.fc1(norm(x).T)  # (S, C) -> (C, S) -> (C, D_S)
    u = x + tokens_mlp.fc2(tokens_mlp.act(hidden)).T  # (C, D_S) -> (C, S) -> (S, C)
    wide = _slope(channels_mlp.act, channels_mlp.fc1(block.norm2(u)))  # (S, D_C)
    narrow = _slope(tokens_mlp.act, hidden)  # (C, D_S)
    s, c = x.shape
    variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)  # (S, 1) each
    z = (x - mean) / (variance + norm.eps).sqrt()  # (S, C)
    gain = norm.weight / (variance + norm.eps).sqrt()  # (S, C)
    eye = torch.eye(c).to(x)
    squared = x.new_zeros(len(rows), s)
    for row, i in enumerate(rows):
        a = (channels_mlp.fc2.weight * wide[i]) @ channels_mlp.fc1.weight  # (C, D_C) -> (C, C)
        a = eye + a @ _norm_jacobian(block.norm2, u[i])
        g = a.T @ a  # (C, C)
        d = ((tokens_mlp.fc2.weight[i] * narrow) @ tokens_mlp.fc1.weight).T  # (C, S) -> (S, C)
        e = d * gain
        ez = e * z
        squared[row] = (
            e.square() @ g.diagonal()  # (S, C) @ (C,) -> (S,)
            - ((e @ g) * e).sum(dim=1) / c
            - ((ez @ g) * ez).sum(dim=1) * (2 - z.square().mean(dim=1)) / c
        )
        squared[row, i] = (a + (a * d[i]) @ _norm_jacobian(norm, x[i])).square().sum()
    return squared.clamp_min(0).sqrt()


class UnitImportance(NamedTuple):
    """What the removal of each token-mixing unit of one block does, ``(D_S,)`` each."""

    loss: Tensor  # rise of the mean cross-entropy, in nats; below 0: better without the unit
    accuracy: Tensor  # rise of the share of right answers; below 0: worse without the unit
    changed: Tensor  # share of images whose most probable class changes


@torch.no_grad()
def unit_importance(model: MlpMixer, images: Tensor, labels: Tensor, block: int) -> UnitImportance:
    """Remove the units of a block, one at a time, and see what breaks.

    Costs ``D_S`` times the network from this block on, for all images.

    Args:
        model: restored afterwards.
        images: ``(n, c, h, w)``, preprocessed.
        labels: ``(n,)`` class indices.
        block: from 0.

    Raises:
        ValueError: no head, no such block, or not one label for each image.
    """
    _check_class(model, None)
    block_at(model, block)
    if len(labels) != len(images) or not len(images):
        raise ValueError(f"{len(images)} images need as many labels, not {len(labels)}.")
    start = block % model.num_blocks
    parts = images.split(_per_batch(model))
    tokens = [
        nn.Sequential(*mixer_blocks(model)[:start])(model.stem(model.patchify(part)))
        for part in parts
    ]  # (n, S, C) before the block, in parts

    def outcome() -> tuple[Tensor, Tensor]:
        logits = torch.cat([_logits(model, part, start) for part in tokens])  # (n, K)
        return nn.functional.cross_entropy(logits, labels), logits.argmax(dim=1)

    loss, said = outcome()
    rows = []
    for unit in range(model.tokens_mlp_dim):
        with edit(model) as units:
            units.remove(block, unit)
            new_loss, new = outcome()
        right = (new == labels).double().mean() - (said == labels).double().mean()
        rows.append(torch.stack([new_loss - loss, right, (new != said).double().mean()]))
    return UnitImportance(*torch.stack(rows, dim=1))


@torch.no_grad()
def occlusion(model: MlpMixer, image: Tensor, class_index: int, *, fill: float = 0.0) -> Tensor:
    """How much a logit falls when one patch is covered: ``(gh, gw)``; below 0: it rises.

    What a patch's own pixels cause, all else left alone. :func:`patch_evidence` over S is on the
    same scale, but answers another question, so the two need not agree.

    Args:
        model, image, class_index: whose logit.
        fill: value of the covered pixels, after preprocessing: 0 is the mean colour.

    Raises:
        ValueError: not one image of the model's size, no head, or no such class.
    """
    _check_class(model, class_index)
    tokens = _stem(model, image)  # (1, S, C)
    whole = _logits(model, tokens, 0)[0, class_index]
    # Before the first block only the covered patch's token differs.
    blank = model.stem(tokens.new_full((model.stem.in_features,), fill))  # (c*P*P,) -> (C,)
    logits = []
    for part in torch.arange(model.num_tokens).split(_per_batch(model)):
        covered = tokens.repeat(len(part), 1, 1)  # (n, S, C)
        covered[torch.arange(len(part)), part] = blank
        logits.append(_logits(model, covered, 0)[:, class_index])
    return rearrange(whole - torch.cat(logits), "(gh gw) -> gh gw", gh=model.grid_size[0])
