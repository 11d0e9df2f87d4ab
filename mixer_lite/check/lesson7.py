"""The check of one step of training: two steps, compared with ours and with foreseen mistakes."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_lite.check.engine.exercise import EXERCISES, exercise
from mixer_lite.check.engine.trial import Trial, Wrong, nearly_equal
from mixer_lite.check.engine.weights import small_mixer
from mixer_lite.model import MlpMixer

HARMLESS = 5e-6  # of the step's size: what a tiny number inside the logarithm changes


class _HalfOn(nn.Module):
    # A dropout that is not random: in training mode every second feature is zero, the rest doubled.
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * 2 * (torch.arange(x.shape[-1]) % 2)


# Steps: (model, optimizer, images, labels) -> the loss

Loss = Callable[[Tensor, Tensor], Tensor]
StepFunction = Callable[..., Any]


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss = F.cross_entropy,
    order: str = "zero loss backward step",
    training: bool = True,
    returns: Callable[[Tensor, Callable[[], Tensor]], Any] = lambda loss, again: loss.item(),
) -> Any:
    model.train(training)
    value = images.sum()  # stands for the loss until it is computed
    for what in order.split():
        if what == "zero":
            optimizer.zero_grad()
        if what == "loss":
            value = loss(model(images), labels)
        if what == "backward":
            value.backward()
        if what == "step":
            optimizer.step()
    return returns(value, lambda: loss(model(images), labels))


def _twice(*job: Any) -> Any:
    _step(*job)
    return _step(*job)


def _new_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, *batch: Tensor) -> Any:
    optimizer.state.clear()
    return _step(model, optimizer, *batch)


def _one_by_one(model: nn.Module, optimizer: Any, images: Tensor, labels: Tensor) -> float:
    pairs = zip(images, labels, strict=True)
    losses = [_step(model, optimizer, image[None], label[None]) for image, label in pairs]
    return sum(losses) / len(losses)


def _after_in_eval(model: nn.Module, optimizer: Any, images: Tensor, labels: Tensor) -> float:
    _step(model, optimizer, images, labels)
    return F.cross_entropy(model.eval()(images), labels).item()


def _accuracy(model: nn.Module, optimizer: Any, images: Tensor, labels: Tensor) -> float:
    hits = model.train()(images).argmax(1) == labels
    _step(model, optimizer, images, labels)
    return float(hits.double().mean())


def _per_image(times: int, model: nn.Module, optimizer: Any, images: Tensor, labels: Tensor) -> Any:
    return _step(model, optimizer, images, labels) * len(images) ** times


def one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels ``(b,)`` as rows of 0 and 1, ``(b, K)``."""
    return F.one_hot(labels, logits.shape[1]).to(logits.dtype)


def logarithm(eps: float, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with a small number added to each probability."""
    return F.nll_loss((x.softmax(1) + eps).log(), y)


def _bce(x: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, one_hot(x, y))


STEPS = (
    ("zero_grad forgotten", dict(order="loss backward step")),
    ("step before backward", dict(order="step zero loss backward")),
    ("eval mode", dict(training=False)),
    ("softmax before the loss", dict(loss=lambda x, y: F.cross_entropy(x.softmax(1), y))),
    ("sum for mean", dict(loss=lambda x, y: F.cross_entropy(x, y, reduction="sum"))),
    ("mean over classes", dict(loss=lambda x, y: F.cross_entropy(x, y) / x.shape[1])),
    ("loss without softmax", dict(loss=F.nll_loss)),
    ("squared error", dict(loss=lambda x, y: F.mse_loss(x, one_hot(x, y)))),
    (
        "squared error: probabilities",
        dict(loss=lambda x, y: F.mse_loss(x.softmax(1), one_hot(x, y))),
    ),
    ("binary cross-entropy", dict(loss=_bce)),
    ("label smoothing", dict(loss=lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1))),
    *(
        ("small number inside the logarithm", dict(loss=partial(logarithm, 10.0**-n)))
        for n in range(3, 8)
    ),
    ("wrong direction", dict(loss=lambda x, y: -F.cross_entropy(x, y))),
    ("two steps", _twice),
    ("a step per image", _one_by_one),
    ("a new optimizer", _new_optimizer),
    ("no step", dict(order="zero loss backward")),
    ("no gradients", dict(order="loss backward zero step")),
    ("step before backward: nothing", dict(order="zero step loss backward")),
    # where the step is right and the number returned is not
    ("loss after the step", dict(returns=lambda loss, again: again().item())),
    ("loss after the step: eval mode", _after_in_eval),
    ("sum for mean: returned", partial(_per_image, 1)),
    ("divided once too often", partial(_per_image, -1)),
    ("accuracy for loss", _accuracy),
    ("sign", dict(returns=lambda loss, again: -loss.item())),
    ("rounded", dict(returns=lambda loss, again: round(loss.item(), 2))),
    ("a tensor for a number", dict(returns=lambda loss, again: loss.detach())),
    ("a tensor for a number: graph", dict(returns=lambda loss, again: loss)),
)


# Two steps, and what they did


@dataclass
class _Done:
    # What two steps gave, and whether there were gradients when the optimizer stepped, and after.
    losses: list[Any] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    stepped: list[list[bool]] = field(default_factory=list)
    left: list[bool] = field(default_factory=list)


TwoBatches = list[tuple[Tensor, Tensor]]


def _two_steps(model: nn.Module, batches: TwoBatches, step: StepFunction) -> _Done:
    # With one optimizer on a copy of the model, which is evaluated before each.
    model, done = copy.deepcopy(model), _Done()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, labels in batches:
        model.eval()
        steps: list[bool] = []
        hook = optimizer.register_step_pre_hook(
            lambda optimizer, *_, steps=steps: steps.append(_has_gradients(optimizer))
        )
        done.losses.append(step(model, optimizer, images, labels))
        hook.remove()
        done.weights.append(_flat(model))
        done.stepped.append(steps)
        done.left.append(_has_gradients(optimizer))
    return done


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return any(p.grad is not None and bool(p.grad.any()) for p in params)


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _simulated(model: nn.Module, batches: TwoBatches) -> Iterator[tuple[str, Any, _Done]]:
    one = EXERCISES["training_step"]
    for key, does in one.mistakes:
        yield key, does, _two_steps(model, batches, lambda *job, does=does: one.does(does, job))


def _draw(t: Trial) -> tuple[MlpMixer, TwoBatches]:
    model = small_mixer(t, 1, before_head=_HalfOn())
    b = t.random.randint(3, 5)
    batches = []
    for _ in range(2):
        labels = torch.randint(model.num_classes, (b,), generator=t.generator)
        batches.append((t.randn(b, 3, *model.image_size), labels))
    with torch.no_grad():  # no class so improbable that a harmless 1e-9 would show
        logits = model.train()(torch.cat([images for images, _ in batches]))
        for p in model.head.parameters():
            p.mul_(3 / float(logits.max() - logits.min()))
    return model, batches


# Judging


def _judge(t: Trial, answer: Any) -> None:
    torch.set_default_dtype(torch.float64)
    for _ in range(t.rounds):
        model, batches = _draw(t)
        theirs = _two_steps(model, batches, partial(_asked, t, answer))
        right = _two_steps(model, batches, _step)
        start = _flat(model)
        step_size = float((right.weights[0] - start).abs().max())
        losses = dict(right=_two(t, right.losses), yours=_two(t, theirs.losses))
        told = [t.line("losses", **losses)]
        off = [
            float((a - b).abs().max()) for a, b in zip(theirs.weights, right.weights, strict=True)
        ]
        if max(off) <= HARMLESS * step_size:
            _right_loss(t, theirs, right, model, batches, told)
            continue
        told.append(t.line("weights", first=off[0], second=off[1]))
        if nearly_equal(theirs.weights[1], start):
            _why_nothing_learned(t, theirs, told)
        for key, does, done in _simulated(model, batches):
            if all(map(nearly_equal, theirs.weights, done.weights)):
                loss = does.get("loss") if isinstance(does, dict) else None
                eps = loss.args[0] if isinstance(loss, partial) else 0.0
                t.fail(key, *told, eps=eps)
        _wrong_step(t, theirs, right, model, told)


def _asked(t: Trial, answer: Any, *job: Any) -> float:
    try:
        got = t.call(answer, *job, may_change=job[:2])
    except Wrong as wrong:
        if any("modified by an inplace operation" in line for line in wrong.finding.evidence):
            t.fail("step before backward", *wrong.finding.evidence[1:])
        raise
    if got is None:
        t.fail("returns nothing")
    if isinstance(got, Tensor):
        t.fail("a tensor for a number" + ": graph" * got.requires_grad)
    if not isinstance(got, numbers.Real) or isinstance(got, bool):
        t.fail("not a number", kind=type(got).__name__)
    return float(got)


def _two(t: Trial, values: list[Any]) -> str:
    return t.line("and").format(*(f"{v:.5g}" for v in values))


def _why_nothing_learned(t: Trial, theirs: _Done, told: list[str]) -> NoReturn:
    if not theirs.stepped[-1]:
        t.fail("no step", *told)
    if theirs.left[-1]:
        t.fail("step before backward: nothing", *told)
    t.fail("no gradients", *told)


def _wrong_step(
    t: Trial, theirs: _Done, right: _Done, model: nn.Module, told: list[str]
) -> NoReturn:
    start, named = _flat(model), list(model.named_parameters())
    i = 0 if not nearly_equal(theirs.weights[0], right.weights[0]) else 1
    parts = [w[i].split([p.numel() for _, p in named]) for w in (theirs.weights, right.weights)]
    differ = [n for (n, _), a, b in zip(named, *parts, strict=True) if not nearly_equal(a, b)]
    moved, due = (float((w[i] - start).norm()) for w in (theirs.weights, right.weights))
    lines = [
        t.line("differ", n=len(differ), of=len(named), name=differ[0]),
        t.line("moved", moved=moved, due=due),
    ]
    t.fail("wrong step", *told, *lines, step=i + 1)


def _right_loss(
    t: Trial, theirs: _Done, right: _Done, model: nn.Module, batches: TwoBatches, told: list[str]
) -> None:
    def equal(values: list[Any], tolerance: float = 1e-9) -> bool:
        pairs = zip(theirs.losses, values, strict=True)
        return all(abs(a - float(b)) <= tolerance * max(1.0, abs(float(b))) for a, b in pairs)

    if equal(right.losses, HARMLESS):
        return
    for key, _, done in _simulated(model, batches):
        if all(map(nearly_equal, done.weights, right.weights)) and equal(done.losses):
            t.fail(key, *told)
    if any(equal([round(loss, n) for loss in right.losses]) for n in range(8)):
        t.fail("rounded", *told)
    t.fail("wrong loss", *told)


@exercise("lesson7", None, STEPS, judge=_judge)
def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, **how: Any
) -> Any:
    """``training_step(model, optimizer, images (b, 3, h, w), labels (b,)) -> float``.

    One step of training by the mean cross-entropy. The model has a dropout and comes in eval
    mode, as after an evaluation; the loss returned is that of the batch before the step.
    """
    return _step(model, optimizer, images, labels, **how)
