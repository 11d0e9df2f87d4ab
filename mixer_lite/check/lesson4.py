"""Checks of lesson 4: converting weights, predicting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from mixer_lite.check.engine.compare import shape_text
from mixer_lite.check.engine.exercise import EXERCISES, exercise
from mixer_lite.check.engine.trial import Foreseen, Trial, nearly_equal
from mixer_lite.check.engine.weights import small_mixer
from mixer_lite.weights.layouts import LAYOUTS, to_layout

# Converting

Arrays = dict[str, np.ndarray]
State = dict[str, Tensor]

NAMES = {  # Google's words -> the course's
    "MixerBlock_": "blocks.",
    "LayerNorm_0": "norm1",
    "LayerNorm_1": "norm2",
    "token_mixing": "mlp_tokens",
    "channel_mixing": "mlp_channels",
    "Dense_0": "fc1",
    "Dense_1": "fc2",
    "pre_head_layer_norm": "norm",
    "kernel": "weight",
    "scale": "weight",
    "/": ".",
}


def _exchanged(one: str, other: str, turn: Callable[[Tensor], Tensor] = lambda w: w) -> Any:
    # A right state in which two kinds of names have changed places.
    def then(state: State) -> State:
        swap = {one: other, other: one}
        return {
            re.sub(f"{one}|{other}", lambda m: swap[m[0]], name): (
                turn(value) if value.ndim == 2 and (one in name or other in name) else value
            )
            for name, value in state.items()
        }

    return then


def _norms_exchanged(state: State) -> State:
    out = dict(state)
    for name in [n for n in state if "norm" in n and n.endswith("weight")]:
        bias = name.replace("weight", "bias")
        out[name], out[bias] = state[bias], state[name]
    return out


def _alphabetical(state: State) -> State:
    numbers = sorted({name.split(".")[1] for name in state if name.startswith("blocks.")})
    place = {number: str(i) for i, number in enumerate(numbers)}
    return {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{place[m[1]]}", name): value
        for name, value in state.items()
    }


def _only(test: Callable[[str], Any]) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if test(name)}


CONVERT = (
    ("stem left as a kernel", dict(stem="d c p q")),
    ("stem left as a kernel", dict(stem="p q c d")),
    ("stem's pixels in another order", dict(stem="d (p q c)")),
    ("stem's pixels in another order", dict(stem="d (c q p)")),
    ("stem's pixels in another order", dict(stem="d (q p c)")),
    ("stem's pixels in another order", dict(stem="d (p c q)")),
    ("stem not transposed", dict(stem="(p q c) d")),
    ("reshape for transpose: stem", dict(stem="cut")),
    ("transposed kernels", dict(dense=lambda k: k)),
    ("reshape for transpose", dict(dense=lambda k: k.reshape(k.T.shape))),
    ("LayerNorms exchanged", dict(then=_exchanged("norm1", "norm2"))),
    ("scale and shift exchanged", dict(then=_norms_exchanged)),
    ("blocks in another order", dict(then=_alphabetical)),
    ("layers exchanged", dict(then=_exchanged("fc1", "fc2", lambda w: w.T))),
    ("biases missing", dict(then=_only(lambda name: not name.endswith("bias")))),
    ("blocks missing", dict(then=_only(lambda name: not re.match(r"blocks\.(\d\d|[1-9])", name)))),
    ("names not translated", lambda arrays: {n: torch.from_numpy(a) for n, a in arrays.items()}),
    ("wrong names", dict(then=lambda s: {n.replace("stem", "embed"): v for n, v in s.items()})),
    ("not a tensor: array", dict(then=lambda s: {n: v.numpy() for n, v in s.items()})),
    ("wrong type: float64", dict(then=lambda s: {n: v.double() for n, v in s.items()})),
)


def _judge_conversion(t: Trial, answer: Any) -> None:
    one = EXERCISES["convert_google"]
    for num_blocks in (2, 3, 12)[: t.rounds]:
        model = small_mixer(t, num_blocks)
        want = {name: p.detach().float() for name, p in model.named_parameters()}
        theirs = to_layout(want, LAYOUTS["google"], model.patch_size)
        arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in theirs.items()}
        got = t.call(answer, arrays)
        _right_names(t, got, want, arrays, num_blocks)
        alone = [s for s in one.foreseen((arrays,)) if len(s.keys) == 1]
        for name in want:
            t.sizes = dict(name=name)
            if isinstance(got[name], np.ndarray):
                t.fail("not a tensor: array")
            value = t.tensor(got[name])
            if not nearly_equal(value, want[name]):
                known = _of_weight(name, value, want, [(s.keys, s.computed()) for s in alone])
                t.same(value, want[name], known, part="matrix" if value.ndim == 2 else "vector")
            if value.dtype == torch.float64:
                t.fail("wrong type: float64")


def _of_weight(
    name: str, got: Tensor, want: State, states: list[tuple[tuple[str, ...], Any]]
) -> Iterator[Foreseen]:
    # What each mistake makes of this weight; then other weights in its place.
    other = next(
        (n for n, w in want.items() if n != name and any(nearly_equal(got, v) for v in (w, w.T))),
        "",
    )
    for keys, state in states:
        if isinstance(state, Mapping) and isinstance(state.get(name), Tensor):
            yield Foreseen(keys, state[name], dict(other=other))
    if other:
        yield Foreseen(("another layer's weights",), got, dict(other=other))


def _right_names(t: Trial, got: Any, want: State, arrays: Arrays, num_blocks: int) -> None:
    if isinstance(got, nn.Module):
        t.fail("not a dict: model")
    if not isinstance(got, Mapping):
        t.fail("not a dict", what="nothing" if got is None else f"a {type(got).__name__}")
    missing, more = [n for n in want if n not in got], [str(n) for n in got if n not in want]
    if not missing and not more:
        return
    lines = [t.line("blocks", blocks=num_blocks)]
    for key, names in (("missing", missing), ("unknown", more)):
        if names:
            lines.append(t.line(key, n=len(names), names=", ".join(names[:4])))
    if more and all(n in arrays for n in more):
        t.fail("names not translated", *lines)
    if not more and all(n.endswith(".bias") for n in missing):
        t.fail("biases missing", *lines)
    if not more and all(n.startswith("blocks.") for n in missing):
        found = {n.split(".")[1] for n in got if str(n).startswith("blocks.")}
        if len(found) < num_blocks and all(n.split(".")[1] not in found for n in missing):
            told = ", ".join(sorted(found, key=int)) or "none"
            t.fail("blocks missing", *lines, blocks=num_blocks, found=told)
    t.fail("wrong names", *lines)


@exercise("lesson4", None, CONVERT, judge=_judge_conversion)
def convert_google(
    arrays: Arrays,
    *,
    dense: Callable[[Tensor], Tensor] = lambda k: k.T,
    stem: str = "d (c p q)",
) -> State:
    """``convert_google(arrays) -> state``: Google's names and shapes to the course's.

    ``arrays`` has entries such as ``"MixerBlock_0/token_mixing/Dense_0/kernel" (S, D_S)`` and
    ``"stem/kernel" (P, P, 3, C)``; ``state`` those of ``ml.MlpMixer(...).state_dict()``, such as
    ``"blocks.0.mlp_tokens.fc1.weight" (D_S, S)`` and ``"stem.weight" (C, 3 P P)``, in float32.
    """
    state = {}
    for google, array in arrays.items():
        value, name = torch.from_numpy(array.copy()), google
        if value.ndim == 4:  # (p, q, c, d)
            cut = stem == "cut"
            value = (
                value.reshape(value.shape[-1], -1)
                if cut
                else rearrange(value, f"p q c d -> {stem}")
            )
        elif value.ndim == 2:
            value = dense(value)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = value.contiguous()
    return state


# Predicting


class _Spied(nn.Module):
    # A dropout that records its mode.
    def __init__(self, p: float = 0.4):
        super().__init__()
        self.drop = nn.Dropout(p)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.drop(x)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(1)


def _best(p: Tensor, k: int) -> Tensor:
    return p.topk(k, dim=1).indices


def _worst(p: Tensor, k: int) -> Tensor:
    return p.topk(k, dim=1, largest=False).indices


def _ranks(p: Tensor, k: int) -> Tensor:
    return p.argsort(1, descending=True).argsort(1)[:, :k]


def _first(p: Tensor, k: int) -> Tensor:
    return torch.arange(k).expand(len(p), k)


PREDICT = (
    # where the indices alone are wrong
    ("ascending order: indices", dict(named=lambda p, k: _best(p, k).flip(1))),
    ("places for indices", dict(named=_first)),
    ("ranks for indices", dict(named=_ranks)),
    ("counted from 1", dict(named=lambda p, k: _best(p, k) + 1)),
    ("the least probable: indices", dict(named=_worst)),
    # where the probabilities are wrong, too
    ("softmax over the images", dict(turn=lambda logits: logits.softmax(0))),
    ("softmax over the images: gathered", dict(turn=lambda z: z.softmax(0), rank=lambda z: z)),
    ("logits for probabilities", dict(turn=lambda logits: logits)),
    ("log-probabilities", dict(turn=lambda logits: logits.log_softmax(1))),
    ("sigmoid for softmax", dict(turn=torch.sigmoid)),
    ("renormalised: top first", dict(turn=lambda logits: logits, values=_softmax)),
    ("renormalised", dict(values=lambda v: v / v.sum(1, keepdim=True))),
    ("softmax twice", dict(turn=lambda logits: logits.softmax(1).softmax(1))),
    ("ascending order", dict(pick=lambda p, k: _best(p, k).flip(1))),
    ("the least probable", dict(pick=_worst)),
    ("the first k classes", dict(pick=_first)),
    # what shows in other ways
    ("pair exchanged", dict(then=lambda pair: pair[::-1])),
    ("not a pair", dict(then=lambda pair: pair[0])),
    ("eval forgotten", dict(training=True)),
    ("gradients kept", dict(no_grad=False)),
)


def _judge_prediction(t: Trial, answer: Any) -> None:
    torch.set_default_dtype(torch.float64)
    one = EXERCISES["predict"]
    for _ in range(t.rounds):
        spy = _Spied()
        model = small_mixer(t, 1, before_head=spy)
        b, k = t.choose(2, 2, 4)
        images = t.randn(b, 3, *model.image_size)
        want = one.right(model, images, k)
        model.train()
        spy.modes.clear()
        t.sizes = dict(b=b, k=k, classes=model.num_classes)
        got = t.call(answer, model, images, k)
        _is_pair(t, got)
        if any(spy.modes):
            t.fail("eval forgotten")
        if any(isinstance(g, Tensor) and g.requires_grad for g in got):
            t.fail("gradients kept")
        for part, i in (("values", 1), ("indices", 0)):
            known = (
                Foreseen(s.keys, lambda s=s, i=i: s.computed()[i])
                for s in one.foreseen((model, images, k))
            )
            t.same(got[i], want[i], known, *t.told(), part=part)


def _is_pair(t: Trial, got: Any) -> None:
    if got is None:
        t.fail("returns nothing", what=t.text("what", "pair"))
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        several = isinstance(got, (tuple, list))
        t.fail("not a pair", what=f"{len(got)} things" if several else shape_text(got))
    first, second = got
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.is_floating_point() and not second.is_floating_point():
            t.fail("pair exchanged")


@exercise("lesson4", None, PREDICT, judge=_judge_prediction)
def predict(
    model: nn.Module,
    images: Tensor,
    k: int,
    *,
    training: bool = False,
    no_grad: bool = True,
    turn: Callable[[Tensor], Tensor] = _softmax,
    rank: Callable[[Tensor], Tensor] | None = None,
    pick: Callable[[Tensor, int], Tensor] = _best,
    named: Callable[[Tensor, int], Tensor] | None = None,
    values: Callable[[Tensor], Tensor] = lambda v: v,
) -> tuple[Tensor, Tensor]:
    """``predict(model, images (b, 3, h, w), k) -> (indices (b, k), probabilities (b, k))``.

    The k most probable classes of each image, most probable first. The model comes in training
    mode and has a dropout; in which mode it is left does not matter. No gradients are kept.
    """
    with torch.set_grad_enabled(not no_grad):
        logits = model.train(training)(images)
        p = turn(logits)
        ranked = (rank or turn)(logits)
        found = pick(ranked, k)
        return (named or pick)(ranked, k), values(p.gather(1, found))
