"""Figures of training: what is drawn is what was given."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mixer_lite.figures import plot_curves, plot_filter_rows, plot_results

SEEN = [100, 200, 300]
ONE = np.array([[0.1, 0.3, 0.5], [0.2, 0.5, 0.6]])


def test_curves_are_means_with_a_band_from_least_to_most():
    figure = plot_curves({"one": (SEEN, ONE), "two": (SEEN, [0.3, 0.2, 0.1])})
    (axes,) = figure.axes
    first, second = axes.lines
    assert first.get_xydata() == pytest.approx(np.array([[100, 0.15], [200, 0.4], [300, 0.55]]))
    assert second.get_ydata() == pytest.approx([0.3, 0.2, 0.1])
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.1) and band[:, 1].max() == pytest.approx(0.6)
    assert {tuple(point) for point in band.round(6)} >= {(200, 0.3), (200, 0.5)}
    assert to_rgb(first.get_color()) != to_rgb(second.get_color())
    assert first.get_linestyle() != second.get_linestyle()
    five = plot_curves({name: (SEEN, [1, 2, 3]) for name in "abcde"}).axes[0].lines
    assert len({str((line._dash_pattern, to_rgb(line.get_color()))) for line in five}) == 5
    assert len({str(line._dash_pattern) for line in five}) == 5  # without colour, too
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    assert figure.alt == "2 lines of accuracy against images learned from; at the end: " + (
        "one 55%; two 10%."
    )
    axes.set_ylim(0, 1)
    assert axes.yaxis.get_major_formatter()(0.25, 0) == "25%"
    many = plot_curves({"one": ([0, 20_000], [1, 2])}).axes[0]
    assert many.xaxis.get_major_formatter()(20_000, 0) == "20,000"
    assert plot_curves({"one": ([1, 9], [1, 2])}, log=True).axes[0].get_xscale() == "log"


def test_other_numbers_are_not_shares():
    figure = plot_curves({"a": ([1, 2], [2.5, 1.25])}, x="step", y="loss")
    assert figure.alt == "One line of loss against step; at the end: a 1.25."
    assert figure.axes[0].get_ylabel() == "loss"


@pytest.mark.parametrize("values", [[0.1, 0.2], [[0.1, 0.2]], np.zeros((2, 3, 1))])
def test_curves_need_a_value_for_every_place(values):
    with pytest.raises(ValueError, match="'one' has 3 places and values of shape"):
        plot_curves({"one": (SEEN, values)})


def test_results_have_a_dot_a_seed_and_a_stroke_for_the_mean():
    figure = plot_results({"a": [0.5, 0.7], "b": [0.4]}, guesses={"a": 0.9, "b": None, "c": 0.1})
    (axes,) = figure.axes
    stroke, dots, guess, other_stroke, other_dot = axes.lines
    assert stroke.get_xdata() == pytest.approx([0.6, 0.6])
    assert dots.get_xydata() == pytest.approx(np.array([[0.5, 0], [0.7, 0]]))
    assert guess.get_xydata() == pytest.approx(np.array([[0.9, 0]])) and guess.get_marker() == "D"
    assert other_dot.get_xydata() == pytest.approx(np.array([[0.4, 1]]))
    assert other_stroke.get_xdata() == pytest.approx([0.4, 0.4])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert {text.get_text() for text in axes.texts} == {"60.0%", "40.0%"}
    assert "your guess" in axes.get_xlabel()
    assert "a 60.0% (50.0% to 70.0%); b 40.0%." in figure.alt
    assert "guess" not in plot_results({"a": [0.5]}, guesses={"a": None}).axes[0].get_xlabel()


@pytest.mark.parametrize("a, b", [(0.67, 0.671), (0.66, 0.695), (0.457, 0.71), (0.5, 0.5001)])
def test_ticks_say_where_they_are_and_stand_apart(a, b):
    figure = plot_results({"a name that takes much of the width": [a], "b": [b]})
    (axes,) = figure.axes
    figure.canvas.draw()
    low, high = axes.get_xlim()
    every = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    ticks = [(x, text) for x, text in every if low <= x <= high]
    assert 3 <= len(ticks) <= 8
    for x, text in ticks:
        assert float(text.get_text().removesuffix("%")) == pytest.approx(100 * x, abs=1e-6)
    boxes = [text.get_window_extent() for _, text in ticks]
    gap = boxes[0].height / 2
    assert all(left.x1 + gap < right.x0 for left, right in itertools.pairwise(boxes))


def test_results_beside_others_and_what_the_marks_mean():
    one = plot_results({"a": [0.5], "b": [0.4]}, beside=("before", {"a": 0.45, "b": 0.45}))
    assert one.alt.endswith("a 50.0%; b 40.0%. Before: 45.0%.")
    others = {"a": 0.55, "c": 0.2}
    figure = plot_results({"a": [0.5, 0.7], "b": [0.4]}, beside=("before", others))
    (axes,) = figure.axes
    grey = axes.lines[2]
    assert grey.get_xdata() == pytest.approx([0.55, 0.55]) and np.mean(grey.get_ydata()) == 0
    assert len(axes.lines) == 5  # of "b" no stroke more
    key = axes.get_xlabel().split("\n")[1]
    assert key == "(dots: seeds, strokes: their mean; grey: before)"
    assert figure.alt.endswith("a 60.0% (50.0% to 70.0%), before 55.0%; b 40.0%.")
    assert "\n" not in plot_results({"a": [0.5]}).axes[0].get_xlabel()  # nothing to explain


def test_filters_of_several_runs_stand_in_rows_each_on_its_own_scale():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5))
    maps[1] *= 100
    figure = plot_filter_rows({"first": maps, "second": -maps})
    for axes, name, sign in zip(figure.axes, ("first", "second"), (1, -1), strict=True):
        assert axes.get_title(loc="left") == name
        (image,) = axes.images
        assert axes.get_aspect() == 1  # a square patch grid looks square
        drawn = image.get_array()
        assert image.get_clim() == (-1, 1) and image.get_cmap().name == "RdBu_r"
        for n in range(3):
            part = drawn[:, 6 * n : 6 * n + 5]
            assert np.allclose(part, sign * maps[n] / np.abs(maps[n]).max())
            assert np.ma.getmaskarray(np.ma.masked_invalid(drawn))[:, 6 * n + 5].all()
    assert "first, second" in figure.alt
