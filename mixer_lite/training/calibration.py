"""Whether "90 %" means it: reliability of probabilities, and the temperature that corrects it.

After Guo et al. 2017, "On calibration of modern neural networks". A model's answer to an image is
its most probable class; its confidence is that class's probability.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Reliability(NamedTuple):
    """Answers in groups of rising confidence: three tensors ``(bins,)``.

    Attributes:
        confidence: mean confidence of a group.
        accuracy: share of its answers that are right.
        answers: how many it holds.
    """

    confidence: Tensor
    accuracy: Tensor
    answers: Tensor

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of accuracy and confidence, by answers."""
        distance = (self.accuracy - self.confidence).abs()
        return float((distance * self.answers).sum() / self.answers.sum())


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """How often answers are right, by confidence; all groups hold equally many answers.

    Groups of equal width would leave some with a handful of answers, whose accuracy is chance.

    Args:
        logits: ``(n, num_classes)``.
        labels: the right classes ``(n,)``.
        bins: groups, at most ``n``; the first ``n % bins`` hold one answer more.

    Raises:
        ValueError: there are fewer answers than groups.
    """
    if not 1 <= bins <= len(logits):
        raise ValueError(
            f"bins must be from 1 to the number of answers, {len(logits)}, not {bins}."
        )
    confidence, answer = logits.double().softmax(dim=1).max(dim=1)  # (n, num_classes) -> (n,)
    order = confidence.argsort()
    right = (answer == labels).double()
    groups = list(zip(*(v[order].tensor_split(bins) for v in (confidence, right)), strict=True))
    return Reliability(
        torch.stack([c.mean() for c, _ in groups]),
        torch.stack([r.mean() for _, r in groups]),
        torch.tensor([len(c) for c, _ in groups]),
    )


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which logits ``(n, num_classes)`` make labels ``(n,)`` most likely.

    It is looked for from 0.05 to 20, to a thousandth of itself; take images that took no part in
    the training, because a model is surer of those that it has learned.
    """
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        # It has a single minimum in 1 / temperature, and so in the logarithm.
        return float(F.cross_entropy(logits / math.exp(log_temperature), labels))

    low, high = -3.0, 3.0
    golden = (5**0.5 - 1) / 2
    while high - low > 1e-3:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)
