"""Our own modules with switches: each way in which a forward pass may go wrong.

A row of a table of modules' mistakes is ``(name, what breaks our module, in place)``. What breaks
it is a :class:`Way`, a few switches of forward passes, which go together with any other; or a
function that changes its layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer

Breaks = Callable[[Any], object]


@dataclass(frozen=True)
class Way:
    """Switches for forward passes.

    Attributes:
        part: whose: ``"mlp"``, ``"mlp_tokens"``, ``"mlp_channels"``, ``"norm"``, ``"block"``,
            ``"mixer"``.
        how: the switches.
        reorders: whether parameters are used in another order.
    """

    part: str
    how: dict[str, Any]
    reorders: bool = False

    def __call__(self, module: nn.Module) -> None:
        """Set the switches; raises AttributeError where another forward pass has none."""
        for one in self._parts(module):
            if "way" not in one.__dict__:
                if "forward" in one.__dict__:
                    raise AttributeError("has its own forward pass")
                change(one, way={}, forward=MethodType(FORWARD[type(one)], one))
            one.__dict__["way"].update(self.how)

    def _parts(self, module: nn.Module) -> Iterator[nn.Module]:
        for name, one in module.named_modules():
            kind = KINDS[self.part.partition("_")[0]]
            if type(one) is kind and (kind is not MlpBlock or self.part in f"mlp {name}"):
                yield one


@contextlib.contextmanager
def switched(module: nn.Module, ways: Sequence[Way]) -> Iterator[None]:
    """Our module with these switches set, until the end of the block."""
    before = {one: dict(one.__dict__.get("way", {})) for one in module.modules()}
    try:
        for way in ways:
            way(module)
        yield
    finally:
        for one, kept in before.items():
            if "way" in one.__dict__:
                one.__dict__["way"] = kept


def change(module: nn.Module, **values: Any) -> nn.Module:
    """Set attributes of a module."""
    for name, value in values.items():
        setattr(module, name, value)
    return module


def runs(forward: Callable[[Any, Tensor], Tensor], name: str = "forward") -> Breaks:
    """A change of one of a module's methods."""
    return lambda module: setattr(module, name, MethodType(forward, module))


# Forward passes with switches


def _mlp(m: Any, x: Tensor) -> Tensor:
    way = m.way.get
    first, bend, last = way("first", _same), way("bend", m.act), way("last", _same)
    y = last(m.fc2(bend(m.fc1(first(x)))))
    return x + y if way("skip") else y


def _norm(m: Any, x: Tensor) -> Tensor:
    y = (
        m.way["formula"](x)
        if "formula" in m.way
        else F.layer_norm(x, m.normalized_shape, eps=m.eps)
    )
    y = y if m.weight is None else y * m.weight
    return y if m.bias is None else y + m.bias


def _block(b: Any, x: Tensor) -> Tensor:
    # Calculates only what the result needs: parameters are identified by their order of use.
    way, norm = b.way.get, b.way.get("norm", "before")
    mlps = [b.mlp_tokens, b.mlp_channels][:: -1 if way("channels first") else 1]

    def branch(half: int, normed: Tensor | None, y: Tensor) -> Tensor:
        axis = way("axes", "SC")[0 if mlps[half] is b.mlp_tokens else 1]
        y = y if normed is None else normed
        y = _over_tokens(b, mlps[half], y) if axis == "S" else mlps[half](y)
        y = y / way("keep", 1.0)
        return (b.norm1, b.norm2)[half](y) if norm == "after" else y

    y = u = x
    if way("half") != "second":
        n = b.norm1(x) if norm == "before" else None
        u = branch(0, n, x)
        skips: dict[str, Any] = {"x": x, "norm": n, "none": 0}
        y = skips[way("skip 1", "x")] + u
        y = b.norm1(y) if norm == "after both" else y
    if way("half") == "first":
        return y
    read = x if way("side") else y
    n = b.norm2(read) if norm == "before" else None
    v = branch(1, n, read)
    skips = {"y": y, "norm": n, "none": 0, "start": x, "u": u}
    z = skips[way("skip 2", "y")] + v
    return b.norm2(z) if norm == "after both" else z


def _over_tokens(b: Any, mlp: nn.Module, y: Tensor) -> Tensor:
    # (b, S, C) -> (b, S, C); a reshape in place of a transpose jumbles.
    batch, s, c = y.shape
    turned = mlp(y.reshape(batch, c, s) if b.way.get("into") else y.mT)  # (b, C, S)
    return turned.reshape(batch, s, c) if b.way.get("back") else turned.mT


def _mixer(m: Any, images: Tensor) -> Tensor:
    way = m.way.get
    x = way("after stem", _itself)(m, m.stem(way("patchify", type(m).patchify)(m, images)))
    if way("unchained"):
        x = [block(x) for block in m.blocks][-1]
    else:
        x = m.blocks(x)
    pool = way("pool", lambda x: x.mean(1))
    x = m.norm(pool(x)) if way("late norm") else pool(m.norm(x))
    return way("ends", _same)(m.head(way("before head", _same)(x)))


def _same(x: Tensor) -> Tensor:
    return x


def _itself(m: Any, x: Tensor) -> Tensor:
    return x


KINDS: dict[str, type[nn.Module]] = {
    "mlp": MlpBlock,
    "norm": nn.LayerNorm,
    "block": MixerBlock,
    "mixer": MlpMixer,
}
FORWARD: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    MlpBlock: _mlp,
    nn.LayerNorm: _norm,
    MixerBlock: _block,
    MlpMixer: _mixer,
}
