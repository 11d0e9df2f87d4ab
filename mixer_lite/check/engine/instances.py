"""Modules as learners have them: a class with arguments of its own, or a finished instance.

A check calls a class with the course's names. For other names it says the line that makes them
fit, from the table in ``words/names.toml``. A finished module is copied, and its sizes are read off
its matrices, in the order in which a forward pass uses them.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixer_lite.check.engine.trial import Trial, Wrong
from mixer_lite.check.engine.weights import watch
from mixer_lite.check.engine.words import of

Sizes = dict[str, Any]


ReadSizes = Callable[[Trial, nn.Module], Sizes]


def made(t: Trial, answer: Any, sizes: Sizes, read: ReadSizes) -> tuple[nn.Module, Sizes]:
    """The learner's module and its sizes, or the end of the check.

    Args:
        answer: what makes modules of these sizes, or a finished one.
        sizes: to make it of.
        read: finds the sizes of a finished one.
    """
    if isinstance(answer, nn.Module):
        return _copied(t, answer, read)
    if t.like:
        t.fail("sizes of a class")
    _arguments_fit(t, answer, sizes)
    module = t.call(answer, **sizes)
    if not isinstance(module, nn.Module):
        t.fail("not a module", kind=type(module).__name__)
    forward = inspect.getattr_static(type(module), "forward", None)
    if (getattr(forward, "__module__", None) or "").split(".")[0] == "mixer_lite":
        t.fail("not your own")
    return module, sizes


def _arguments_fit(t: Trial, answer: Any, sizes: Sizes) -> None:
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):
        return  # a built-in: the call itself will show it
    try:
        signature.bind(**sizes)
        return
    except TypeError:
        pass
    assert t.exercise is not None
    kind = getattr(answer, "__name__", "Yours")
    wanted = ", ".join(sizes)
    fitted = one_line(t.exercise.name, kind, signature, sizes)
    line = t.line("fits", line=fitted)
    t.fail("arguments do not fit", line, kind=kind, takes=str(signature), wanted=wanted)


def one_line(check: str, kind: str, signature: inspect.Signature, sizes: Sizes) -> str:
    """``check.NAME(lambda **s: Kind(dim=s["hidden_dim"], ...))``, which fits the course's names.

    Args:
        check: name of the check.
        kind: name of the class.
        signature: its arguments; one whose name says nothing gets an ellipsis, unless it has a
            default.
        sizes: what a check calls with.
    """
    known = of("names")[check]
    given, left = [], set(sizes)
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = next((v for v, names in known.items() if name.lower() in names.split()), None)
        value = name if name in sizes else value
        if value is None and parameter.default is not parameter.empty:
            continue
        used = {size for size in sizes if value is not None and size in value}
        left -= used
        text = "..." if value is None else f's["{value}"]' if value in sizes else value
        given.append(f"{name}={text}")
    return f"check.{check}(lambda **s: {kind}({', '.join(given)}))"


# Finished modules


def _copied(t: Trial, answer: nn.Module, read: ReadSizes) -> tuple[nn.Module, Sizes]:
    # A copy of the learner's module, and its sizes: those of t.like, the others read off it.
    assert t.exercise is not None
    module, t.rounds = copy.deepcopy(answer).eval(), 1
    names = [name for name in of("names")[t.exercise.name] if name.isidentifier()]
    strange = [name for name in t.like if name not in names]
    if strange:
        t.fail("unknown size", name=strange[0], known=", ".join(names))
    try:
        found = read(t, module) | t.like
    except (Wrong, StopIteration, ValueError, IndexError, RuntimeError):
        found = dict(t.like)
    t.stopped = ""
    missing = [name for name in names if name not in found]
    if missing:
        form = f"check.{t.exercise.name}(module, like=dict({'=..., '.join(names)}=...))"
        t.fail("sizes not found", missing=", ".join(missing), form=form)
    told = ", ".join(f"{name} = {found[name]}" for name in names)
    t.remarks.append(t.line("instance", told=told))
    numbers = [found[name] for name in names if name != "num_blocks"]
    if len(set(numbers)) < len(numbers):
        t.remarks.append(t.line("sizes alike"))
    return module, found


def read_mlp(t: Trial, module: nn.Module) -> Sizes:
    """``dim`` and ``hidden_dim`` of an MLP."""
    dim = next(n for n in _sizes(module) if _fits(t, module, (2, 3, n), (2, 3, n)))
    (matrix, *_), _ = _matrices(module, (2, 3, dim))
    return dict(dim=dim, hidden_dim=_other(matrix, dim))


def read_block(t: Trial, module: nn.Module) -> Sizes:
    """The four sizes of a block."""
    s, c = t.like.get("num_tokens"), t.like.get("hidden_dim")
    known = _sizes(module)
    vectors = [n for p in module.parameters() if p.ndim == 1 for n in p.shape]
    tries = [
        (a, b)
        for b in sorted({c} if c else known, key=lambda n: -vectors.count(n))
        for a in sorted({s} if s else known, key=lambda n: n == b)
    ]
    s, c = next((a, b) for a, b in tries if _fits(t, module, (2, a, b), (2, a, b)))
    matrices, _ = _matrices(module, (2, s, c))
    return dict(num_tokens=s, hidden_dim=c) | _widths(matrices, s, c)


def read_mixer(t: Trial, module: nn.Module) -> Sizes:
    """The seven sizes of a Mixer; of its image too, where that is square."""
    stem = next(p for p in module.parameters() if p.ndim > 1)
    patch = t.like.get("patch_size") or _patch(stem)
    sides = [t.like["image_size"]] if "image_size" in t.like else range(patch, 65 * patch, patch)
    images = [(n, n) if isinstance(n, int) else tuple(n) for n in sides]
    h, w = next(i for i in images if _fits(t, module, (2, 3, *i), None))
    (first, *matrices, _), out = _matrices(module, (2, 3, h, w))
    s = h // patch * (w // patch)
    k = out.shape[-1]
    c = next(n for n in first if n not in (3 * patch**2, 3, patch))
    rows = [m for m in module.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    same = [len(m) for m in rows if len(set(m)) < len(m) // 2 + 1 and len(m) > 1]  # [block] * n
    blocks = max([1, len(matrices) // 4, *same])
    given = dict(image_size=(h, w), patch_size=patch, num_classes=k, num_blocks=blocks)
    return given | dict(hidden_dim=c) | _widths(matrices, s, c)


def _patch(stem: Tensor) -> int:
    # The side of a patch, from a kernel (C, 3, P, P) or a matrix of C and 3 P P.
    if stem.ndim == 4:
        return max(n for n in stem.shape if list(stem.shape).count(n) == 2)
    sides = [math.isqrt(n // 3) for n in stem.shape if n % 3 == 0]
    return next(p for p in reversed(sides) if 3 * p * p in stem.shape)


def _widths(matrices: Sequence[Sequence[int]], s: int, c: int) -> Sizes:
    tokens, channels = matrices[0], matrices[2]
    d_s = _other(tokens, s) if s in tokens else _other(tokens, c)
    d_c = _other(channels, c) if c in channels else _other(channels, s)
    return dict(tokens_mlp_dim=d_s, channels_mlp_dim=d_c)


def _other(matrix: Sequence[int], size: int) -> int:
    left = list(matrix)
    left.remove(size)
    return left[0]


def _sizes(module: nn.Module) -> list[int]:
    return sorted({n for p in module.parameters() for n in p.shape if n > 1})


def _matrices(module: nn.Module, shape: Sequence[int]) -> tuple[list[list[int]], Tensor]:
    # The sizes of all matrices, in the order of use, and the result.
    x = torch.zeros(*shape).to(next(module.parameters()).dtype)
    outs: list[Tensor] = []
    used, _ = watch(module, lambda: outs.append(module(x)), x)
    shapes = [[n for n in module.get_parameter(name).shape if n > 1] for name in used]
    return [shape for shape in shapes if len(shape) > 1], outs[0]


def _fits(t: Trial, module: nn.Module, shape: Sequence[int], out: Any) -> bool:
    x = torch.zeros(*shape).to(next(module.parameters()).dtype)
    try:
        with torch.no_grad():
            got = t.call(module, x)
    except Wrong:
        return False
    return isinstance(got, Tensor) and (out is None or tuple(got.shape) == tuple(out))
