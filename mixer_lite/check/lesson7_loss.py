"""The check of the learner's own loss: mean cross-entropy, its gradient, and large logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixer_lite.check.engine.exercise import EXERCISES, Row, exercise
from mixer_lite.check.engine.trial import Trial
from mixer_lite.check.lesson7 import HARMLESS, logarithm, one_hot

LARGE = 1000.0  # logits at which exp overflows, and a probability of zero has no logarithm


def _of(log_p: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    # The mean over images of what stands for the log-probability of their classes.
    return lambda x, y: -log_p(x)[torch.arange(len(y)), y].mean()


LOSSES: tuple[Row, ...] = (
    ("softmax twice", lambda x, y: F.cross_entropy(x.softmax(1), y)),
    ("sum for mean", lambda x, y: F.cross_entropy(x, y, reduction="sum")),
    ("not reduced", lambda x, y: F.cross_entropy(x, y, reduction="none")),
    ("mean over classes", lambda x, y: F.cross_entropy(x, y) / x.shape[1]),
    ("no softmax", F.nll_loss),
    ("no logarithm", _of(lambda x: x.softmax(1))),
    ("no logarithm: 1 - p", lambda x, y: 1 - x.softmax(1)[torch.arange(len(y)), y].mean()),
    ("softmax over images", _of(lambda x: x.log_softmax(0))),
    ("softmax over everything", _of(lambda x: x.flatten().log_softmax(0).reshape(x.shape))),
    ("logarithm to base 2", lambda x, y: F.cross_entropy(x, y) / math.log(2)),
    ("logarithm to base 10", lambda x, y: F.cross_entropy(x, y) / math.log(10)),
    ("every class counts", lambda x, y: -x.log_softmax(1).sum(1).mean()),
    ("every class counts: mean", lambda x, y: -x.log_softmax(1).mean()),
    ("sigmoid for softmax", _of(F.logsigmoid)),
    ("binary cross-entropy", lambda x, y: F.binary_cross_entropy_with_logits(x, one_hot(x, y))),
    ("best class for label", lambda x, y: F.cross_entropy(x, x.argmax(1))),
    ("squared error", lambda x, y: F.mse_loss(x.softmax(1), one_hot(x, y))),
    ("label smoothing", lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)),
    ("logarithm of the mean", lambda x, y: -x.softmax(1)[torch.arange(len(y)), y].mean().log()),
    ("first image only", lambda x, y: F.cross_entropy(x[:1], y[:1])),
    *(("small number inside the logarithm", partial(logarithm, 10.0**-n)) for n in range(2, 6)),
)


def _draw(t: Trial, scale: float) -> tuple[Tensor, Tensor]:
    b, k = t.choose(2, 3, 8)
    x = t.randn(b, k)
    labels = torch.randint(k, (b,), generator=t.generator)
    labels[0] = (int(x[0].argmax()) + 1) % k  # not every best class is right
    t.sizes = dict(b=b, k=k)
    return scale * x / x.abs().max(), labels


def _judge(t: Trial, answer: Any) -> None:
    torch.set_default_dtype(torch.float64)
    one = EXERCISES["cross_entropy"]
    for _ in range(t.rounds):
        x, y = _draw(t, scale=3.0)
        want, got = one.right(x, y), t.call(answer, x.clone(), y)
        if isinstance(got, float):
            t.fail("a number for a tensor")
        value = t.tensor(got)
        near = value.reshape(want.shape) if value.numel() == 1 else value  # (1,) serves as well
        if near.shape != want.shape or not abs(float(near - want)) <= HARMLESS * float(want):
            t.same(value, want, one.foreseen((x, y)), *t.told())
        _gradient(t, answer, x, y)
    x, y = _draw(t, LARGE)
    got, want = t.tensor(t.call(answer, x, y)), one.right(x, y)
    if not torch.allclose(got, want, rtol=HARMLESS):
        t.remarks.append(t.line("large", want=float(want), got=got.flatten()[0].item()))


def _gradient(t: Trial, answer: Any, x: Tensor, y: Tensor) -> None:
    x = x.clone().requires_grad_()
    got = t.call(answer, x, y)
    if not got.requires_grad:
        t.fail("no gradient", *t.told())
    (theirs,), (ours,) = (torch.autograd.grad(v.sum(), x) for v in (got, F.cross_entropy(x, y)))
    if not torch.allclose(theirs, ours, atol=HARMLESS):
        t.fail("wrong gradient", *t.told(), expected=ours.numpy(), yours=theirs.numpy())


@exercise("lesson7", None, LOSSES, judge=_judge)
def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``cross_entropy(logits (b, K), labels (b,)) -> one number``, a tensor with a gradient.

    The mean over the images of minus the log-probability of their class. What it gives for logits
    as large as 1000 is remarked on.
    """
    return F.cross_entropy(logits, labels)
