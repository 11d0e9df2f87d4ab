"""Calibration against loops written out, and a temperature that is known."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from mixer_lite.training.calibration import best_temperature, reliability


@pytest.fixture(scope="module")
def answers():
    """Logits of 1,003 images, and labels drawn by their own probabilities."""
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1003, 7, generator=g)
    labels = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    return logits, labels


def test_groups_hold_as_many_answers_and_are_counted_one_by_one(answers):
    logits, labels = answers
    found = reliability(2 * logits, labels, bins=10)
    assert found.answers.tolist() == [101] * 3 + [100] * 7
    sure = []
    for row, label in zip(2 * logits.double().numpy(), labels.tolist(), strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        sure.append((p.max(), float(p.argmax() == label)))
    sure.sort()
    first, error = 0, 0.0
    for i, count in enumerate(found.answers.tolist()):
        group = sure[first : first + count]
        confidence, right = (sum(v) / count for v in zip(*group, strict=True))
        assert found.confidence[i].item() == pytest.approx(confidence)
        assert found.accuracy[i].item() == pytest.approx(right)
        error += abs(confidence - right) * count / 1003
        first += count
    assert found.error == pytest.approx(error) and error > 0.02


def test_temperature_is_the_one_that_the_logits_were_multiplied_by(answers):
    logits, labels = answers
    true = best_temperature(logits, labels)
    assert true == pytest.approx(1, abs=0.15)  # the labels were drawn so
    for factor in (0.2, 1.7, 8.0):
        assert best_temperature(factor * logits, labels) == pytest.approx(factor * true, rel=2e-3)
    # A grid of temperatures, a thousandth apart.
    grid = torch.linspace(-0.3, 0.3, 601)
    losses = [cross_entropy(logits.double() / math.exp(t), labels) for t in grid.tolist()]
    assert math.log(true) == pytest.approx(grid[torch.stack(losses).argmin()].item(), abs=2e-3)
    assert reliability(logits / true, labels).error < reliability(3 * logits, labels).error / 2


def test_bad_calls_get_one_clear_sentence(answers):
    with pytest.raises(ValueError, match="bins must be from 1 to the number of answers, 3, not 4"):
        reliability(answers[0][:3], answers[1][:3], bins=4)
