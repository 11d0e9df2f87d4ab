"""The figures of counts and of a model's answers: what is drawn equals what was given."""

import numpy as np
import pytest
import torch

from mixer_lite import figures
from mixer_lite.prediction import Prediction

PHOTO = np.zeros((8, 12, 3), np.uint8)


def test_bars_of_counts_stack_up_to_their_sum():
    counts = {"one": {"stem": 3, "token mixing": 5, "total": 8}, "two": {"token mixing": 1}}
    (axes,) = figures.show_counts(counts, "numbers").axes
    # (left end, width) of each bar, part by part; "total" is no part.
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [(0, 3), (0, 0), (3, 5), (0, 1)]
    assert [text.get_text() for text in axes.texts] == ["8", "1"]


def test_equal_sums_are_not_written():
    shares = {"one": {"stem": 30, "head": 70}, "two": {"stem": 60, "head": 40}}
    (axes,) = figures.show_counts(shares, "per cent").axes
    assert not axes.texts


def test_predictions_stand_beside_their_images():
    answers = [[Prediction("cat", 0.75, 3), Prediction("dog", 0.25, 5)]] * 2
    picture = figures.show_predictions([PHOTO, PHOTO], answers, ["dog", None])
    assert len(picture.axes) == 4
    for axes in (picture.axes[1], picture.axes[3]):
        assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]
        assert [text.get_text() for text in axes.texts] == ["cat 75%", "dog 25%"]
    known, unknown = ([bar.get_facecolor() for bar in picture.axes[k].patches] for k in (1, 3))
    assert known[0] != known[1]  # the right answer's bar stands out
    assert unknown[0] == unknown[1]
    assert "cat 75%" in picture.alt


def test_an_odd_number_of_predictions_leaves_a_place_empty():
    answers = [[Prediction("cat", 1.0, 3)]] * 3
    picture = figures.show_predictions([PHOTO] * 3, answers)
    assert [bool(axes.patches) for axes in picture.axes[1::2]] == [True, True, True, False]


def test_confusion_colours_mistakes_only():
    matrix = torch.tensor([[7, 2, 0], [0, 9, 1], [4, 0, 5]])
    picture = figures.show_confusion(matrix, ["ant", "bee", "cow"])
    shades = picture.axes[0].images[0].get_array()
    assert shades.filled(0).tolist() == [[0, 2, 0], [0, 0, 1], [4, 0, 0]]
    written = {text.get_position(): text.get_text() for text in picture.axes[0].texts}
    # (column, row): what the model said, what the image shows
    assert written == {(0, 0): "7", (1, 0): "2", (1, 1): "9", (2, 1): "1", (0, 2): "4", (2, 2): "5"}
    assert "21 of 28 right" in picture.alt and "cow called ant, 4 times" in picture.alt


# Newcombe 1998 (Statistics in Medicine 17:857), Table I, method 3: Wilson's 95 % intervals.
@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_reliability_intervals_are_wilsons(right, n, low, high):
    correct = torch.arange(n) < right
    picture = figures.show_reliability(torch.full((n,), 0.4), correct, bins=1)
    ((x, bottom), (_, top)) = picture.axes[0].collections[0].get_segments()[0]
    assert (x, bottom, top) == pytest.approx((0.4, low, high), abs=6e-5)


def test_reliability_groups_by_confidence():
    confidence = torch.tensor([0.9, 0.1, 0.8, 0.2])
    correct = torch.tensor([True, False, True, True])
    picture = figures.show_reliability(confidence, correct, bins=2)
    points = next(line for line in picture.axes[0].lines if line.get_marker() == "o")
    assert points.get_xydata() == pytest.approx(np.array([[0.15, 0.5], [0.85, 1.0]]))
