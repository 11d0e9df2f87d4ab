"""The check of one step of training: two steps, compared with ours and with foreseen mistakes."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_lite.checks.models import small_mixer
from mixer_lite.checks.trial import Trial, Wrong, exercise, fail, nearly_equal
from mixer_lite.model import MlpMixer


class _HalfOn(nn.Module):
    # A dropout without chance: in training mode every second feature is zero, the rest doubled.
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * 2 * (torch.arange(x.shape[-1]) % 2)


@dataclass
class _Job:
    # What a training step is given.
    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor
    labels: Tensor
    steps: list[bool] = field(default_factory=list)  # of the optimizer: were there gradients?

    def loss(self, **how: Any) -> Tensor:
        return F.cross_entropy(self.model(self.images), self.labels, **how)

    def descend(self, loss: Tensor) -> float:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


Step = Callable[[_Job], float]


def _right_step(job: _Job) -> float:
    job.model.train()
    return job.descend(job.loss())


def _no_zero_grad(job: _Job) -> float:
    job.model.train()
    loss = job.loss()
    loss.backward()
    job.optimizer.step()
    return loss.item()


def _step_first(job: _Job) -> float:
    job.model.train()
    job.optimizer.step()
    return _no_step(job)


def _no_step(job: _Job) -> float:
    job.model.train()
    job.optimizer.zero_grad()
    loss = job.loss()
    loss.backward()
    return loss.item()


def _in_eval_mode(job: _Job) -> float:
    job.model.eval()
    return job.descend(job.loss())


def _twice(job: _Job) -> float:
    _right_step(job)
    return _right_step(job)


def _new_optimizer(job: _Job) -> float:
    job.optimizer.state.clear()
    return _right_step(job)


def _one_by_one(job: _Job) -> float:
    losses = [
        _right_step(_Job(job.model, job.optimizer, image[None], label[None]))
        for image, label in zip(job.images, job.labels, strict=True)
    ]
    return sum(losses) / len(losses)


def _other_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
    def step(job: _Job) -> float:
        job.model.train()
        return job.descend(loss(job.model(job.images), job.labels))

    return step


def _one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return F.one_hot(labels, logits.shape[1]).to(logits.dtype)


EARLY = (
    "You call optimizer.step() before loss.backward(): each step uses the gradients of the step "
    "before, and the first uses none."
)

# (mistake, the step that makes it, says)
STEPS: list[tuple[str, Step, str]] = [
    (
        "zero_grad forgotten",
        _no_zero_grad,
        "The first step is right, the second is not: it used the sum of the old and the new "
        "gradients. Call optimizer.zero_grad() in each step, before backward.",
    ),
    (
        "step before backward",
        _step_first,
        EARLY,
    ),
    (
        "eval mode",
        _in_eval_mode,
        "The model was in eval mode, as the check gives it to you (after an evaluation), and its "
        "dropout was off. A training step begins with model.train().",
    ),
    (
        "softmax before the loss",
        _other_loss(lambda x, y: F.cross_entropy(x.softmax(1), y)),
        "You apply softmax before the cross-entropy, which applies it itself: give it the logits. "
        "Gradients of a double softmax are small and saturate.",
    ),
    (
        "sum for mean",
        _other_loss(lambda x, y: F.cross_entropy(x, y, reduction="sum")),
        "Your loss is the sum over the images; it should be their mean, or else a bigger batch "
        "takes bigger steps.",
    ),
    (
        "mean over classes",
        _other_loss(lambda x, y: F.cross_entropy(x, y) / x.shape[1]),
        "Your loss is divided by the number of classes as well: for each image only the "
        "log-probability of its own class counts. Take the mean over images alone.",
    ),
    (
        "loss without softmax",
        _other_loss(F.nll_loss),
        "nll_loss wants log-probabilities, and you give it logits: use cross_entropy.",
    ),
    (
        "squared error",
        _other_loss(lambda x, y: F.mse_loss(x, _one_hot(x, y))),
        "Your loss is the squared distance of the logits from one-hot labels; it should be the "
        "cross-entropy of logits and labels.",
    ),
    (
        "squared error",
        _other_loss(lambda x, y: F.mse_loss(x.softmax(1), _one_hot(x, y))),
        "Your loss is the squared distance of the probabilities from one-hot labels; it should be "
        "the cross-entropy of logits and labels.",
    ),
    (
        "binary cross-entropy",
        _other_loss(lambda x, y: F.binary_cross_entropy_with_logits(x, _one_hot(x, y))),
        "You use the binary cross-entropy, which judges each class by itself; the classes exclude "
        "each other: cross_entropy.",
    ),
    (
        "label smoothing",
        _other_loss(lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)),
        "You smooth the labels (label_smoothing=0.1); the exercise asks for the plain "
        "cross-entropy.",
    ),
    (
        "wrong direction",
        _other_loss(lambda x, y: -F.cross_entropy(x, y)),
        "Your step climbs: it makes the loss larger. Minimise the loss, without a minus sign.",
    ),
    (
        "two steps",
        _twice,
        "Your function takes two steps at once; it should take one.",
    ),
    (
        "a step per image",
        _one_by_one,
        "Your function takes a step for each image; it should take one step for the whole batch.",
    ),
    (
        "a new optimizer",
        _new_optimizer,
        "The first step is right, the second is not: the optimizer lost its momentum. Use the one "
        "you are given, and make no new one.",
    ),
]


@exercise(
    lesson="7 Train your own",
    takes="training_step(model, optimizer, images, labels) -> the loss, a float",
    hints=(
        "A step has four parts: forget the old gradients, compute the loss, compute its gradients, "
        "let the optimizer move the weights. In which order?",
        "The model may come from an evaluation, in eval mode. Which call says that training goes "
        "on?",
        "`F.cross_entropy` takes logits, and labels as whole numbers. It applies the softmax and "
        "the mean over the batch itself.",
        "Return a plain number: what does `.item()` do?",
    ),
)
def training_step(t: Trial, answer: Any) -> None:
    """``training_step(model, optimizer, images (b, 3, h, w), labels (b,)) -> float``.

    One step of training by the mean cross-entropy. The model has a dropout and comes in eval
    mode, as after an evaluation; the loss returned is that of the batch before the step.
    """
    torch.set_default_dtype(torch.float64)
    for _ in range(t.rounds):
        model = small_mixer(t, 1, before_head=_HalfOn())
        b = t.random.randint(3, 5)
        batches = [
            (t.randn(b, 3, *model.image_size), torch.randint(model.num_classes, (b,)))
            for _ in range(2)
        ]
        losses, weights, steps = _two_steps(t, model, batches, answer)
        right = _simulated(model, batches, _right_step)
        _right_training(model, batches, losses, weights, steps, right)


def _jobs(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Iterator[_Job]:
    # Two steps with one optimizer on a copy of the model, which is evaluated before each.
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, labels in batches:
        model.eval()
        job = _Job(model, optimizer, images, labels)

        def note(optimizer: torch.optim.Optimizer, *_: Any, job: _Job = job) -> None:
            job.steps.append(_has_gradients(optimizer))

        hook = optimizer.register_step_pre_hook(note)
        yield job
        hook.remove()


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return any(p.grad is not None and bool(p.grad.any()) for p in params)


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _simulated(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], step: Step
) -> tuple[list[float], list[Tensor]]:
    losses, weights = [], []
    for job in _jobs(model, batches):
        losses.append(step(job))
        weights.append(_flat(job.model))
    return losses, weights


def _two_steps(
    t: Trial, model: nn.Module, batches: list[tuple[Tensor, Tensor]], answer: Any
) -> tuple[list[float], list[Tensor], list[tuple[list[bool], bool]]]:
    losses, weights, steps = [], [], []
    for job in _jobs(model, batches):
        given = job.model, job.optimizer, job.images, job.labels
        try:
            got = t.call(answer, *given, may_change=given[:2])
        except Wrong as wrong:
            if any("modified by an inplace operation" in line for line in wrong.finding.evidence):
                fail("step before backward", EARLY, *wrong.finding.evidence[1:])
            raise
        if got is None:
            fail(
                "returns nothing", "Your step returned None; return the loss: is there a `return`?"
            )
        if isinstance(got, Tensor):
            graph = " Yours even holds on to the computation that made it." * got.requires_grad
            fail(
                "a tensor for a number",
                f"Your step returns a tensor; a plain number is asked for: loss.item().{graph}",
            )
        if not isinstance(got, numbers.Real) or isinstance(got, bool):
            fail(
                "not a number",
                f"Your step should return the loss, a number, not a {type(got).__name__}.",
            )
        losses.append(float(got))
        weights.append(_flat(job.model))
        steps.append((job.steps, _has_gradients(job.optimizer)))
    return losses, weights, steps


def _right_training(
    model: MlpMixer,
    batches: list[tuple[Tensor, Tensor]],
    losses: list[float],
    weights: list[Tensor],
    steps: list[tuple[list[bool], bool]],
    right: tuple[list[float], list[Tensor]],
) -> None:
    def equal(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(nearly_equal(x, y) for x, y in zip(a, b, strict=True))

    told = [f"losses of two steps: {_two(right[0])} expected, yours {_two(losses)}"]
    if equal(weights, right[1]):
        _right_loss(model, batches, losses, right[0], told)
        return
    off = [float((a - b).abs().max()) for a, b in zip(weights, right[1], strict=True)]
    told += [f"weights: off by up to {off[0]:.2g} after step 1, by up to {off[1]:.2g} after step 2"]
    start = _flat(model)
    if nearly_equal(weights[1], start):
        _why_nothing_learned(steps, told)
    for mistake, step, says in STEPS:
        if equal(weights, _simulated(model, batches, step)[1]):
            fail(mistake, says, *told)
    names = [(name, p.numel()) for name, p in model.named_parameters()]
    for i in range(2):
        if not nearly_equal(weights[i], right[1][i]):
            sizes = [n for _, n in names]
            parts = zip(weights[i].split(sizes), right[1][i].split(sizes), strict=True)
            differ = [
                n for (n, _), (a, b) in zip(names, parts, strict=True) if not nearly_equal(a, b)
            ]
            moved, due = (float((w - start).norm()) for w in (weights[i], right[1][i]))
            fail(
                "wrong step",
                f"After step {i + 1} the weights are not what one step of cross-entropy training "
                f"makes of them.",
                *told,
                f"{len(differ)} of {len(names)} parameters differ, the first is {differ[0]}",
                f"all weights together moved by {moved:.4g}; it should be {due:.4g}",
            )


def _why_nothing_learned(steps: list[tuple[list[bool], bool]], told: list[str]) -> NoReturn:
    stepped, left = steps[-1]
    nothing = "After two steps every weight is what it was: "
    if not stepped:
        fail("no step", f"{nothing}optimizer.step() is never called.", *told)
    if left:
        fail("step before backward", nothing + EARLY, *told)
    fail(
        "no gradients",
        f"{nothing}when optimizer.step() is called there are no gradients. Is there a "
        f"loss.backward() before it, and no zero_grad() between the two? Was the loss detached, or "
        f"made anew from a number?",
        *told,
    )


def _two(values: list[float]) -> str:
    return " and ".join(f"{v:.5g}" for v in values)


def _right_loss(
    model: MlpMixer,
    batches: list[tuple[Tensor, Tensor]],
    losses: list[float],
    right: list[float],
    told: list[str],
) -> None:
    def equal(values: list[float]) -> bool:
        return nearly_equal(torch.tensor(losses), torch.tensor(values))

    if equal(right):
        return
    b = len(batches[0][1])
    after, in_eval, accuracy = [], [], []
    for job in _jobs(model, batches):
        job.model.train()
        hits = job.model(job.images).argmax(1) == job.labels
        accuracy.append(float(hits.double().mean()))
        _right_step(job)
        after.append(job.loss().item())
        job.model.eval()
        in_eval.append(job.loss().item())
    for mistake, values, says in (
        (
            "loss after the step",
            after,
            "You return the loss after the step, computed once more; the loss that made the step "
            "is asked for, and is there already.",
        ),
        (
            "loss after the step",
            in_eval,
            "You return the loss after the step, in eval mode; the loss that made the step is "
            "asked for, and is there already.",
        ),
        (
            "sum for mean",
            [loss * b for loss in right],
            "The step is right, but the loss that you return is summed over the images; the mean "
            "is asked for.",
        ),
        (
            "divided once too often",
            [loss / b for loss in right],
            "The step is right, but the loss that you return was divided by the number of images "
            "once more: cross_entropy gives the mean already.",
        ),
        (
            "accuracy for loss",
            accuracy,
            "The step is right, but you return the accuracy; the loss is asked for.",
        ),
        (
            "sign",
            [-loss for loss in right],
            "The step is right, but the loss that you return has the wrong sign.",
        ),
    ):
        if equal(values):
            fail(mistake, says, *told)
    if all(abs(a - b) < 0.006 for a, b in zip(losses, right, strict=True)):
        fail("rounded", "You return a rounded loss: return all of its digits.", *told)
    fail("wrong loss", "The step is right, but the number that you return is not its loss.", *told)
