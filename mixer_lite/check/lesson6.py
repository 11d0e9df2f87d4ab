"""Checks of lesson 6: why this prediction."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from mixer_lite import explain
from mixer_lite.check.engine.exercise import EXERCISES, Inputs, Look, exercise
from mixer_lite.check.engine.trial import Foreseen, Trial, Wrong, nearly_equal
from mixer_lite.model import MlpMixer, mixer_blocks


@torch.no_grad()
def _mixer(t: Trial) -> tuple[MlpMixer, dict[str, Any]]:
    # A small model with every parameter random and no two sizes alike.
    gh, gw, p, c = t.random.choice([(2, 3, 4, 5), (3, 2, 5, 4), (2, 4, 3, 5), (4, 2, 3, 7)])
    gh, gw = t.sides(gh, gw)
    wide = t.random.sample([n for n in range(9, 16) if n != gh * gw], 3)
    model = MlpMixer(
        image_size=(gh * p, gw * p),
        patch_size=p,
        num_classes=wide[0],
        num_blocks=t.random.choice((2, 3)),
        hidden_dim=c,
        tokens_mlp_dim=wide[1],
        channels_mlp_dim=wide[2],
        in_channels=2,
    )
    for name, value in model.named_parameters():
        scale = value.shape[1] ** -0.5 if value.ndim == 2 else 0.5
        value.copy_(t.randn(*value.shape) * scale + (".norm" in f".{name}" and "weight" in name))
    blocks = model.num_blocks
    return model.eval(), dict(blocks=blocks, depths=blocks + 1, gh=gh, gw=gw, c=c, k=wide[0])


def _image(t: Trial, model: MlpMixer, count: int = 1) -> Tensor:
    return t.randn(count, model.in_channels, *model.image_size)


def _draw_model_and_image(t: Trial) -> Inputs:
    model, sizes = _mixer(t)
    return (model, _image(t, model)), sizes


def _head(model: MlpMixer) -> nn.Linear:
    return cast(nn.Linear, model.head)


def _stem(model: MlpMixer, image: Tensor) -> Tensor:
    return model.stem(model.patchify(image))  # (1, S, C)


# Evidence


def _by_gradient(model: MlpMixer, image: Tensor) -> Tensor:
    x = image.clone().requires_grad_()
    with torch.enable_grad():
        rows = [torch.autograd.grad(v, x, retain_graph=True)[0] * x for v in model(x)[0]]
    p = model.patch_size
    return reduce(torch.cat(rows).detach(), "k c (gh a) (gw b) -> k gh gw", "sum", a=p, b=p)


def _by_occlusion(model: MlpMixer, image: Tensor) -> Tensor:
    return torch.stack([explain.occlusion(model, image, k) for k in range(model.num_classes)])


def _of_mean(e: Tensor) -> Tensor:
    return e.mean(dim=(1, 2), keepdim=True).expand_as(e)


EVIDENCE = (
    ("bias in every patch", dict(bias=True)),
    ("sum for mean", dict(then=lambda e: e / e[0].numel())),
    ("sum for mean: with bias", dict(bias=True, then=lambda e: e / e[0].numel())),
    ("final norm forgotten", dict(norms=0)),
    ("final norm forgotten: with bias", dict(norms=0, bias=True)),
    ("pooled first", dict(then=_of_mean)),
    ("pooled first: logits", dict(bias=True, then=_of_mean)),
    ("column-major folding", dict(tokens="gw gh")),
    ("maps transposed", dict(then=lambda e: e.transpose(1, 2))),
    ("classes last", dict(out="gh gw k")),
    ("not folded", dict(out="k (gh gw)")),
    ("not folded: tokens first", dict(out="(gh gw) k")),
    ("reshape for rearrange", dict(then=lambda e: e.flatten(1).T.reshape(e.shape))),
    (
        "one class only",
        lambda model, image: patch_evidence_of(model, image)[model(image)[0].argmax()],
    ),
    ("softmax over classes", dict(then=lambda e: e.softmax(dim=0))),
    ("softmax over classes: with bias", dict(bias=True, then=lambda e: e.softmax(dim=0))),
    ("softmax over patches", dict(then=lambda e: e.flatten(1).softmax(dim=1).view_as(e))),
    ("only what speaks for it", dict(then=lambda e: e.clamp_min(0))),
    ("rescaled", dict(then=lambda e: e / e.abs().amax(dim=(1, 2), keepdim=True))),
    ("mean taken away", dict(then=lambda e: e - _of_mean(e))),
    ("blocks left out", dict(blocks=slice(0))),
    ("last block left out", dict(blocks=slice(-1))),
    ("normed twice", dict(norms=2)),
    ("gradient times input", _by_gradient),
    ("occlusion", _by_occlusion),
)


def _look_at_evidence(t: Trial, answer: Any, got: Any, args: Any, want: Tensor) -> Look:
    if not isinstance(got, Tensor) or got.shape != want.shape or not got.is_floating_point():
        return Look()
    model, image = args
    whole = float(got.detach()[0].mean() + _head(model).bias[0])
    return Look(lines=[t.line("sum", whole=whole, logit=float(model(image)[0, 0]))])


def patch_evidence_of(
    model: MlpMixer,
    image: Tensor,
    *,
    blocks: slice = slice(None),
    norms: int = 1,
    bias: bool = False,
    tokens: str = "gh gw",
    out: str = "k gh gw",
) -> Tensor:
    """The right evidence, with an argument for everything that can go wrong."""
    x = nn.Sequential(*mixer_blocks(model)[blocks])(_stem(model, image))  # (1, S, C)
    for _ in range(norms):
        x = model.norm(x)
    e = F.linear(x, _head(model).weight, _head(model).bias if bias else None)  # (1, S, K)
    return rearrange(e, f"1 ({tokens}) k -> {out}", gh=model.grid_size[0])


@exercise("lesson6", _draw_model_and_image, EVIDENCE, look=_look_at_evidence, squares=("pair",))
def patch_evidence(model: MlpMixer, image: Tensor, **how: Any) -> Tensor:
    """``patch_evidence(model, image (1, c, h, w)) -> (K, gh, gw)``.

    What each patch says for each class: the mean of a class's map plus its bias is its logit.
    """
    return patch_evidence_of(model, image, **how)


# Depth

Tables = list[Tensor]  # of tokens, (1, S, C) each


def _tables(model: MlpMixer, image: Tensor) -> Tables:
    tables = [_stem(model, image)]
    for block in mixer_blocks(model):
        tables.append(block(tables[-1]))
    return tables


def _norm_handed_on(model: MlpMixer, image: Tensor) -> Tables:
    found = [_stem(model, image)]
    for block in mixer_blocks(model):
        found.append(block(model.norm(found[-1])))
    return found


def _not_chained(model: MlpMixer, image: Tensor) -> Tables:
    stem = _stem(model, image)
    return [stem, *(block(stem) for block in mixer_blocks(model))]


def _remaining(model: MlpMixer, image: Tensor) -> Tables:
    stem, blocks = _stem(model, image), list(mixer_blocks(model))
    return [nn.Sequential(*blocks[k:])(stem) for k in range(len(blocks) + 1)]


def _backwards(model: MlpMixer, image: Tensor) -> Tables:
    tables = [_stem(model, image)]
    for block in mixer_blocks(model)[::-1]:
        tables.append(block(tables[-1]))
    return tables


def _read(model: MlpMixer, x: Tensor) -> Tensor:
    return model.head(model.norm(x).mean(dim=1))  # (1, S, C) -> (1, K)


DEPTHS = (
    ("first row missing", dict(then=lambda rows: rows[1:])),
    ("last row missing", dict(then=lambda rows: rows[:-1])),
    ("last row only", dict(then=lambda rows: rows[-1:])),
    ("final norm forgotten", dict(read=lambda m, x: m.head(x.mean(1)))),
    ("norm after the mean", dict(read=lambda m, x: m.head(m.norm(x.mean(1))))),
    ("norm handed on", dict(tables=_norm_handed_on)),
    ("blocks not chained", dict(tables=_not_chained)),
    ("remaining blocks", dict(tables=_remaining)),
    ("blocks backwards", dict(tables=_backwards)),
    ("rows backwards", dict(then=lambda rows: rows.flip(0))),
    ("all rows the same", dict(then=lambda rows: rows[-1:].expand_as(rows))),
    ("first token only", dict(read=lambda m, x: m.head(m.norm(x)[:, 0]))),
    ("last token only", dict(read=lambda m, x: m.head(m.norm(x)[:, -1]))),
    ("largest for mean", dict(read=lambda m, x: m.head(m.norm(x).amax(1)))),
    ("sum for mean", dict(read=lambda m, x: m.head(m.norm(x).sum(1)))),
    ("probabilities, not logits", dict(then=lambda rows: rows.softmax(1))),
    ("probabilities, not logits: logarithms", dict(then=lambda rows: rows.log_softmax(1))),
    ("bias forgotten", dict(read=lambda m, x: _read(m, x) - m.head.bias)),
    ("axes swapped", dict(then=lambda rows: rows.T)),
    ("one class only", dict(then=lambda rows: rows[:, rows[-1].argmax()])),
    ("mean over channels", dict(read=lambda m, x: m.norm(x).mean(2))),
)


def _look_at_depths(t: Trial, answer: Any, got: Any, args: Any, want: Tensor) -> Look:
    if not isinstance(got, Tensor) or got.shape != want.shape or not got.is_floating_point():
        return Look()
    gaps = (got.detach().double() - want.double()).abs().amax(dim=1)
    wrong = (~(gaps <= 1e-4 * float(want.abs().max()))).nonzero().flatten().tolist()
    return Look(lines=[t.line("rows", rows=", ".join(map(str, wrong)))])


@exercise("lesson6", _draw_model_and_image, DEPTHS, look=_look_at_depths)
def depth_lens(
    model: MlpMixer,
    image: Tensor,
    *,
    tables: Callable[[MlpMixer, Tensor], Tables] = _tables,
    read: Callable[[MlpMixer, Tensor], Tensor] = _read,
) -> Tensor:
    """``depth_lens(model, image (1, c, h, w)) -> (num_blocks + 1, K)``.

    Row n: final norm, mean over tokens and head, right after n blocks; the last row is the
    model's own logits.
    """
    return torch.cat([read(model, x) for x in tables(model, image)])


# Shuffles


def _orders(t: Trial, n: int) -> Tensor:
    # A permutation that is not its own inverse, so that the two can be told apart.
    while True:
        order = torch.tensor(t.random.sample(range(n), n))
        if int((order.argsort() != order).sum()) > 2:
            return order


def _draw_shuffle(t: Trial) -> Inputs:
    b, c, gh, gw, p = t.choose(5, 2, 6)
    if t.round == 0:  # S = P·P: pixels of a patch may be taken for patches
        gh, gw, p = t.random.choice([(2, 8, 4), (8, 2, 4), (3, 12, 6), (12, 3, 6)])
    images, order = t.randn(b, c, gh * p, gw * p), _orders(t, gh * gw)
    while order[order < b].tolist() == list(range(b)):  # images taken for patches would stay
        order = _orders(t, gh * gw)
    return (images, order, p), dict(shape=tuple(images.shape), p=p, gh=gh, gw=gw)


CUT, WHOLE = "(gh gw) c p1 p2", "c (gh p1) (gw p2)"


def _inside(x: Tensor, order: Tensor, p: int) -> Tensor:
    cut = rearrange(x, f"b {WHOLE} -> b (gh gw) c (p1 p2)", p1=p, p2=p)
    moved = cut[..., order[order < p * p]]
    return rearrange(moved, f"b (gh gw) c (p1 p2) -> b {WHOLE}", gh=x.shape[2] // p, p1=p, p2=p)


SHUFFLES = (
    ("inverse order", dict(orders=lambda order: order.argsort())),
    ("nothing moved", dict(orders=lambda order: torch.arange(len(order)))),
    ("column-major tokens", dict(cut="(gw gh) c p1 p2", glue="(gw gh) c p1 p2")),
    ("glued down the columns", dict(glue="(gw gh) c p1 p2")),
    ("left in pieces", dict(whole="(gh gw) (c p1 p2)")),
    ("left in pieces", dict(whole=CUT)),
    ("patches transposed", dict(glue="(gh gw) c p2 p1")),
    ("woven patches", dict(whole="c (p1 gh) (p2 gw)")),
    ("pixels, not patches", _inside),
    ("reshape for rearrange", lambda x, o, p: _cut(x, p)[:, o].reshape(x.shape)),
    (
        "reshape for rearrange: twice",
        lambda x, o, p: x.reshape(len(x), len(o), -1)[:, o].reshape(x.shape),
    ),
    ("images shuffled", lambda x, o, p: x[o[o < len(x)]]),
)


def _cut(images: Tensor, p: int) -> Tensor:
    return rearrange(images, f"b {WHOLE} -> b {CUT}", p1=p, p2=p)


def _look_at_shuffle(t: Trial, answer: Any, got: Any, args: Any, want: Tensor) -> Look:
    # Which patch stands where, if the result is made of whole patches of its own image.
    images, order, p = args
    if not isinstance(got, Tensor) or got.shape != want.shape or not got.is_floating_point():
        return Look()
    theirs, source = (_cut(x.detach().double(), p).flatten(2) for x in (got, images))
    distance, place = torch.cdist(theirs, source).min(dim=2)  # (b, S) each
    if not float(distance.max()) <= 1e-3:  # NaN too
        return Look()
    rows, wanted = place.tolist(), order.tolist()
    k = next((k for k, j in enumerate(rows[0]) if j != wanted[k]), 0)
    mistake = "another order"
    if any(row != rows[0] for row in rows):
        mistake = "each image its own order"
    elif sorted(rows[0]) != list(range(len(wanted))):
        mistake = "patches lost"
    line = t.line("place", k=k, got=rows[0][k], want=wanted[k])
    return Look([Foreseen((mistake,), got)], [line])


@exercise("lesson6", _draw_shuffle, SHUFFLES, look=_look_at_shuffle)
def shuffle_patches(
    images: Tensor,
    order: Tensor,
    p: int,
    *,
    cut: str = CUT,
    glue: str = CUT,
    whole: str = WHOLE,
    orders: Callable[[Tensor], Tensor] = lambda order: order,
) -> Tensor:
    """``shuffle_patches(images (b, c, h, w), order (S,), patch_size) -> (b, c, h, w)``.

    Place k of each result gets patch order[k] of the original, places in reading order.
    """
    x = rearrange(images, f"b {WHOLE} -> b {cut}", p1=p, p2=p)[:, orders(order)]
    return rearrange(x, f"b {glue} -> b {whole}", gh=images.shape[2] // p, p1=p, p2=p)


# The twin

PARTS = {"W1": ("fc1.weight", 1), "W2": ("fc2.weight", 0), "bias": ("fc2.bias", 0)}
_back, _left = (lambda order: order.argsort()), (lambda order: torch.arange(len(order)))

TWINS = (
    ("nothing moved", dict(W1=_left, W2=_left, bias=_left)),
    ("inverse order", dict(W1=_back, W2=_back, bias=_back)),
    ("not in every block", dict(blocks=slice(1))),
    ("not in every block", dict(blocks=slice(-1))),
    ("not in every block", dict(blocks=slice(1, None))),
    ("not in every block", dict(blocks=slice(-1, None))),
    ("only W1 moved", dict(W2=_left, bias=_left)),
    ("W1 forgotten", dict(W1=_left)),
    ("W2 forgotten", dict(W2=_left)),
    ("bias forgotten", dict(bias=_left)),
    ("W1 moved the other way", dict(W1=_back)),
    ("W2 moved the other way", dict(W2=_back)),
    ("bias moved the other way", dict(bias=_back)),
)


def _judge_twin(t: Trial, answer: Any) -> None:
    for number in range(t.rounds):
        t.round = number
        model, t.sizes = _mixer(t)
        order = _orders(t, model.num_tokens)
        before = copy.deepcopy(model)
        new = t.call(answer, model, order, may_change=(model,))
        kept = before.state_dict()
        touched = [n for n, v in model.state_dict().items() if not torch.equal(v, kept[n])]
        if touched:
            t.fail("changed the original", name=touched[0])
        if new is None:
            t.fail("returns nothing", what="a new model")
        if isinstance(new, dict):
            t.fail("not a model: weights")
        if not isinstance(new, MlpMixer):
            t.fail("not a model", kind=type(new).__name__)
        images = _image(t, model, 3)
        moved = EXERCISES["shuffle_patches"].right(images, order, model.patch_size)
        with torch.no_grad():
            want, got = model(images), t.call(new, moved)
            # The norms hide some of the truth: they remove what a bias of W2 adds to all channels
            # of a token alike. The tokens after the last block show it.
            tokens = model.blocks(_stem(model, images))[:, order]  # (b, S, C)
            after = new.blocks(_stem(new, moved))
            if not isinstance(got, Tensor) or not all(
                nearly_equal(*pair) for pair in ((got, want), (after, tokens))
            ):
                _name_weights(t, before, new, order)
            t.same(got, want, (), *t.told(), part="logits")
            t.same(after, tokens, (), *t.told(), part="tokens")


def _weights(model: MlpMixer) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def _name_weights(t: Trial, old: MlpMixer, new: MlpMixer, order: Tensor) -> None:
    one = EXERCISES["reparametrise"]
    now, was, right = (m.state_dict() for m in (new, old, one.right(old, order)))
    if {n: v.shape for n, v in now.items()} != {n: v.shape for n, v in was.items()}:
        t.fail("another model")
    ends = tuple(f"mlp_tokens.{end}" for end, _ in PARTS.values())
    lines = _parts_told(t, now, was, order, old.num_blocks)
    for name, value in was.items():
        if not name.endswith(ends) and not nearly_equal(now[name], value):
            t.fail("moved what knows no places", *lines, name=name)
    for mistake in one.foreseen((old, order)):
        value = mistake.computed()
        if value is not None and nearly_equal(_weights(new), _weights(value)):
            raise Wrong(t.finding(mistake.keys, *lines))
    for part, (end, _) in PARTS.items():
        for name, value in right.items():
            if name.endswith(f"mlp_tokens.{end}") and not nearly_equal(now[name], value):
                t.fail("other weights", *lines, What="The bias of W2" if part == "bias" else part)


def _parts_told(
    t: Trial, now: dict[str, Tensor], was: dict[str, Tensor], order: Tensor, blocks: int
) -> Sequence[str]:
    # What was done to each part, block by block.
    lines = []
    for part, (end, axis) in PARTS.items():
        words = []
        for b in range(blocks):
            name = f"blocks.{b}.mlp_tokens.{end}"
            ways = {"right": order, "back": order.argsort(), "left": torch.arange(len(order))}
            same = (
                way
                for way, places in ways.items()
                if nearly_equal(now[name], was[name].index_select(axis, places))
            )
            words.append(t.line(next(same, "other"), b=b))
        what = "the bias of W2" if part == "bias" else part
        lines.append(t.line("part", part=what, blocks=", ".join(words)))
    return lines


@exercise("lesson6", None, TWINS, judge=_judge_twin)
def reparametrise(
    model: MlpMixer,
    order: Tensor,
    *,
    blocks: slice = slice(None),
    **orders: Callable[[Tensor], Tensor],
) -> MlpMixer:
    """``reparametrise(model, order (S,)) -> a new model``.

    ``new(shuffle_patches(images, order, patch_size))`` equals ``model(images)``, where place k of
    a shuffled image has patch order[k]. So do the tokens after the last block, in the new order.
    The model given stays as it is.
    """
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for block, (part, (end, axis)) in itertools.product(
            list(mixer_blocks(twin))[blocks], PARTS.items()
        ):
            weight = block.mlp_tokens.get_parameter(end)
            places = orders[part](order) if part in orders else order
            weight.copy_(weight.index_select(axis, places))
    return twin
