"""Covers by a ranking, and probes: against loops, against NumPy, and against lesson 06's own."""

import numpy as np
import pytest
import torch
from lessons import tool
from test_explain import small

import mixer_lite as ml
from mixer_lite import explain


@pytest.fixture
def model():
    return small()


@pytest.fixture
def images():
    return torch.randn(9, 3, 8, 12, generator=torch.Generator().manual_seed(4)).double()


def test_survivors_are_those_whose_answer_a_loop_finds_unchanged(model, images):
    ranking = torch.rand(9, 6, generator=torch.Generator().manual_seed(5))
    found = []
    for count in range(7):
        covered = images.clone()
        for n in range(9):
            for s in sorted(range(6), key=lambda s: -ranking[n, s])[:count]:
                row, column = divmod(s, 3)
                covered[n, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0.7
        wanted = model(covered).argmax(1) == model(images).argmax(1)
        got = explain.survives(model, images, ranking, count, fill=0.7)
        assert got.tolist() == wanted.tolist()
        found.append(got.sum().item())
    assert found[0] == 9 and found[-1] < 9, "an image that is covered whole has one answer"
    assert torch.equal(explain.survives(model, images, ranking, 6, fill=0.7), wanted)


def test_wrong_rankings_are_told(model, images):
    with pytest.raises(ValueError, match=r"must be \(images, patches\), \(9, 6\), not \(9, 5\)"):
        explain.survives(model, images, torch.rand(9, 5), 2)
    with pytest.raises(ValueError, match="from 0 to 6 patches, not 7"):
        explain.survives(model, images, torch.rand(9, 6), 7)


def test_pooled_tokens_are_what_the_head_reads_at_each_depth(model, images):
    pooled = explain.pooled_by_depth(model, images)
    assert pooled.shape == (4, 9, 7)
    for n in range(9):
        assert torch.allclose(
            model.head(pooled[:, n]), explain.prediction_by_depth(model, images[n]), atol=1e-12
        )


def test_a_probe_is_ridge_regression_on_the_other_half():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 40)
    features = rng.normal(size=(40, 6)) + np.eye(4, 6)[labels]
    right = 0
    for odd in (0, 1):
        fit, test = np.arange(40) % 2 == odd, np.arange(40) % 2 != odd
        middle = features[fit].mean(axis=0)
        f, wanted = features[fit] - middle, np.eye(4)[labels[fit]] - 0.25
        # The penalty as six more equations, which say that the weights are 0.
        pull = np.sqrt(0.3 * 20 * f.var(ddof=1)) * np.eye(6)
        rows, sides = np.vstack([f, pull]), np.vstack([wanted, np.zeros((6, 4))])
        head = np.linalg.lstsq(rows, sides, rcond=None)[0]
        right += (((features[test] - middle) @ head).argmax(1) == labels[test]).sum()
    got = explain.probe_accuracy(torch.tensor(features), torch.tensor(labels), ridge=0.3)
    assert got == right / 40 and 0.3 < got < 1
    mixed = torch.tensor(features[rng.permutation(40)])
    assert explain.probe_accuracy(mixed, torch.tensor(labels)) < got, "labels of other items"


def test_wrong_features_are_told():
    with pytest.raises(ValueError, match=r"four items or more, not \(3, 2\) and \(3,\)"):
        explain.probe_accuracy(torch.rand(3, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"not \(8, 2\) and \(7,\)"):
        explain.probe_accuracy(torch.rand(8, 2), torch.zeros(7, dtype=torch.int64))


def defined(name):
    """The cell of lesson 06 that defines a function."""
    (path,) = tool.find(["06"])
    (cell,) = [c for c in tool.read(path).cells if f"\ndef {name}(" in f"\n{c.source}"]
    return cell.source


@torch.no_grad()
def test_lesson_06_writes_the_same_by_hand():
    model = ml.load_pretrained("mixer_nano_cifar10")
    images, labels = ml.datasets.cifar10_sample()
    x = ml.images.preprocess(images, model.config)
    answers = model(x).argmax(dim=1)
    right = torch.nonzero(answers == labels)[:, 0]
    here = dict(vars(__import__("einops")), torch=torch, model=model, x=x, labels=labels,
                answers=answers, right=right, dice=torch.Generator().manual_seed(1))  # fmt: skip
    exec(defined("without"), here)
    exec(defined("survive"), here)
    many = here["many"]
    said = [explain.patch_evidence(model, x[k], int(answers[k])).flatten() for k in many]
    said = torch.stack(said)  # (200, S)
    for count in (2, 16):
        ours = explain.survives(model, x[many], said, count)
        assert torch.equal(ours, here["survive"](said, count).bool()) and not ours.all()
    exec(defined("probe"), here)
    for features in explain.pooled_by_depth(model, x)[[0, 4, 8]]:
        assert explain.probe_accuracy(features, labels) == pytest.approx(
            here["probe"](features).item(), abs=0.003
        )
