"""Activations as reasons: evidence by patch, depth, influence, importance of units, occlusion.

Pure functions of a model and preprocessed images, on the model's device and in its precision.
``image`` is always one image as ``images.preprocess`` returns it: ``(c, h, w)`` or
``(1, c, h, w)``. Letters in shapes are those of :mod:`mixer_lite.model`, and K is the number of
classes. The shuffles and edits of :mod:`mixer_lite.interventions` are here under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
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


def _check_class(model: MlpMixer, index: int | None, name: str = "class_index") -> None:
    if not model.num_classes:
        raise ValueError("This model has no head (num_classes=0), so it predicts nothing.")
    if index is not None and not 0 <= index < model.num_classes:
        raise ValueError(f"{name} must be from 0 to {model.num_classes - 1}, not {index}.")


def _per_batch(model: MlpMixer) -> int:
    # Images or vectors at once, so that the widest activation is about 16 MB in float32:
    # larger batches are no faster.
    return max(1, 2**22 // (model.num_tokens * max(model.hidden_dim, model.channels_mlp_dim)))


@torch.no_grad()
def patch_evidence(
    model: MlpMixer,
    image: Tensor,
    class_index: int | None = None,
    *,
    rather_than: int | None = None,
    centred: bool = False,
) -> Tensor:
    """What each patch says for a class: ``(gh, gw)``, or ``(K, gh, gw)`` for all K classes.

    The head is linear and sees the mean over tokens, so the mean of this map plus the class's
    bias *is* the logit: nothing is estimated. By the last block every token has heard of the
    others, so a patch's evidence is what is said at that place, not what its own pixels caused.

    Args:
        model, image, class_index: whose evidence, and for which class.
        rather_than: another class, whose evidence is taken away. The mean plus the difference of
            the biases is then the difference of the logits.
        centred: take each map's mean away: where more is said than elsewhere, and where less.

    Raises:
        ValueError: not one image of the model's size, no head, or no such class.
    """
    _check_class(model, class_index)
    _check_class(model, rather_than, "rather_than")
    tokens = model.norm(model.blocks(_stem(model, image)))  # (1, S, C)
    evidence = tokens[0] @ model.head.weight.T  # (S, C) @ (C, K) -> (S, K)
    if rather_than is not None:
        evidence = evidence - evidence[:, [rather_than]]
    if centred:
        evidence = evidence - evidence.mean(dim=0)
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
        n, generator = probes or 2, torch.Generator().manual_seed(0)
        signs = 2 * torch.randint(2, (s, n, c), generator=generator) - 1
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


class TopImages(NamedTuple):
    """The images that excite each token-mixing unit of one block most, ``(D_S, count)`` each."""

    image: Tensor  # index among the images given
    channel: Tensor  # the channel of that image that the unit answers to most
    activation: Tensor  # its answer, after GELU; the highest first


@torch.no_grad()
def top_images(model: MlpMixer, images: Tensor, block: int, count: int = 5) -> TopImages:
    """Which images, and which of their channels, excite each token-mixing unit of a block most.

    A unit answers to every channel of every image; of each image its highest answer counts.

    Args:
        model: whose units.
        images: ``(n, c, h, w)``, preprocessed.
        block: from 0.
        count: of images for each unit, at most n.

    Raises:
        ValueError: no images, none wanted, or no such block.
    """
    target = block_at(model, block)
    if not len(images) or count < 1:
        raise ValueError(f"Give images, and a count from 1, not {len(images)} and {count}.")
    before = nn.Sequential(*mixer_blocks(model)[: block % model.num_blocks])
    mlp, highest, channels = target.mlp_tokens, [], []
    for part in images.split(_per_batch(model)):
        read = target.norm1(before(model.stem(model.patchify(part))))  # (n, S, C)
        heard = mlp.act(mlp.fc1(rearrange(read, "n s c -> n c s")))  # (n, C, D_S)
        most = heard.max(dim=1)  # over channels: (n, D_S)
        highest.append(most.values)
        channels.append(most.indices)
    top = torch.cat(highest).topk(min(count, len(images)), dim=0)  # (count, D_S)
    channel = torch.cat(channels).gather(0, top.indices)
    return TopImages(top.indices.T, channel.T, top.values.T)


def average(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean of a function of one image over a set of images, for example of evidence.

    ``average(lambda image: patch_evidence(model, image, 3), images)`` is where class 3 is usually
    seen; ``average(lambda image: influence(model, image, block=3), images)`` is whom patches
    listen to, whatever the image.

    Args:
        function: of one image ``(c, h, w)``, always of the same shape.
        images: ``(n, c, h, w)``, preprocessed; they are taken one by one.

    Raises:
        ValueError: no images.
    """
    if not len(images):
        raise ValueError("There are no images to average over.")
    total = function(images[0])
    for image in images[1:]:
        total = total + function(image)
    return total / len(images)


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


@torch.no_grad()
def survives(
    model: MlpMixer, images: Tensor, ranking: Tensor, count: int, *, fill: float = 0.0
) -> Tensor:
    """Which answers stay when the patches that rank highest are covered: ``(n,)``, true or false.

    A ranking that knows what an answer rests on makes answers fall early: one point of a deletion
    curve (Petsiuk et al. 2018, "RISE"). Compare it with random rankings of the same images.

    Args:
        model: in evaluation mode.
        images: ``(n, c, h, w)``, preprocessed.
        ranking: ``(n, S)``, the higher the sooner covered, for example each image's
            :func:`patch_evidence` for its answer.
        count: patches to cover, from 0 to S.
        fill: what covers them; 0 is the mean colour after preprocessing.

    Raises:
        ValueError: a row for each image and a number for each patch are not there, or ``count``
            is no number of patches.
    """
    if tuple(ranking.shape) != (len(images), model.num_tokens):
        raise ValueError(
            f"ranking must be (images, patches), ({len(images)}, {model.num_tokens}), "
            f"not {tuple(ranking.shape)}."
        )
    if not 0 <= count <= model.num_tokens:
        raise ValueError(f"count must be from 0 to {model.num_tokens} patches, not {count}.")
    gone = torch.zeros_like(ranking, dtype=torch.bool)
    gone.scatter_(1, ranking.topk(count, dim=1).indices, True)  # (n, S)
    gh, p = model.grid_size[0], model.patch_size
    mask = repeat(gone, "n (gh gw) -> n 1 (gh p1) (gw p2)", gh=gh, p1=p, p2=p)
    same = [
        model(whole).argmax(1) == model(whole.masked_fill(cover, fill)).argmax(1)
        for whole, cover in zip(
            images.split(_per_batch(model)), mask.split(_per_batch(model)), strict=True
        )
    ]
    return torch.cat(same)


@torch.no_grad()
def pooled_by_depth(model: MlpMixer, images: Tensor) -> Tensor:
    """The mean token, after the last norm, behind the stem and each block: ``(L + 1, n, C)``.

    What :func:`probe_accuracy` reads; the last of them is what the head reads.

    Args:
        model: in evaluation mode.
        images: ``(n, c, h, w)``, preprocessed.
    """
    parts = []
    for part in images.split(_per_batch(model)):
        x, means = model.stem(model.patchify(part)), []  # (b, S, C)
        for block in [nn.Identity(), *mixer_blocks(model)]:
            x = block(x)
            means.append(reduce(model.norm(x), "b s c -> b c", "mean"))
        parts.append(torch.stack(means))  # (L + 1, b, C)
    return torch.cat(parts, dim=1)


def probe_accuracy(features: Tensor, labels: Tensor, *, ridge: float = 0.1) -> float:
    """How many classes a linear head of its own can read from features: a share.

    Such a head is called a linear probe (Alain and Bengio 2016). It is fitted by least squares on
    every second item and tested on the others, and the other way round.

    Args:
        features: ``(n, C)``.
        labels: classes ``(n,)``, counted from 0.
        ridge: penalty on the head's weights, in variances of the features for each fitted item.

    Raises:
        ValueError: there are fewer than four items, or not a label for each.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(features) < 4:
        raise ValueError(
            f"features must be (n, C) and labels (n,), four items or more, "
            f"not {tuple(features.shape)} and {tuple(labels.shape)}."
        )
    x, classes, right = features.double(), int(labels.max()) + 1, 0
    targets = nn.functional.one_hot(labels, classes).double() - 1 / classes  # (n, K)
    for fit, test in (
        (slice(0, None, 2), slice(1, None, 2)),
        (slice(1, None, 2), slice(0, None, 2)),
    ):
        f = x - x[fit].mean(dim=0)
        penalty = ridge * len(f[fit]) * f[fit].var() * torch.eye(f.shape[1]).to(f)
        head = torch.linalg.solve(f[fit].T @ f[fit] + penalty, f[fit].T @ targets[fit])  # (C, K)
        right += int(((f[test] @ head).argmax(dim=1) == labels[test]).sum())
    return right / len(labels)
