"""Whatever an answer gives back, a check of lessons 5 and 6 says in one finding what is wrong."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mixer_lite import check
from tests.check import answers_figure, answers_reading, answers_why  # noqa: F401
from tests.check.zoo import ANSWERS

ODD = {
    "nothing": lambda: None,
    "text": lambda: "42",
    "list": lambda: [[1.0, 2.0], [3.0, 4.0]],
    "ragged list": lambda: [[1], [2, 3]],
    "tuple": lambda: (torch.ones(2), torch.ones(2)),
    "dict": lambda: {"W1": torch.ones(2)},
    "array": lambda: np.ones((2, 3)),
    "empty": lambda: torch.empty(0),
    "scalar": lambda: torch.tensor(1.5),
    "whole numbers": lambda: torch.arange(3),
    "large whole numbers": lambda: torch.full((5,), 2**62),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "not a number": lambda: torch.full((2, 3), torch.nan),
    "one number": lambda: 3.5,
    "truth": lambda: True,
    "module": lambda: torch.nn.Linear(2, 3),
    "half": lambda: torch.ones(2, 3, dtype=torch.float16),
    "empty figure": lambda: plt.figure(),
}

CHECKS = (
    "fold_filters", "fold_outputs", "order_filters", "pair_filters", "smoothness", "filter_figure",
    "patch_evidence", "depth_lens", "shuffle_patches", "reparametrise",
)  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_results_are_named(name, odd):
    report = getattr(check, name)(lambda *args: ODD[odd](), seed=0)
    assert report.finding is not None
    assert report.finding.mistake != "not understood", str(report)
    assert str(report)
    plt.close("all")


@pytest.mark.parametrize("name", CHECKS)
def test_reports_draw_what_is_wrong(name):
    one = next(a for a in ANSWERS if a.check == name and a.mistake is not None)
    shown = getattr(check, name)(one.answer, seed=0)._repr_html_()
    assert one.mistake in shown and name in shown


TENSORS = [n for n in CHECKS if n not in ("order_filters", "pair_filters", "filter_figure")][:-1]


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("spoil", [torch.nan, torch.inf, 1e30])
def test_one_bad_number_is_seen(name, spoil):
    good = next(a.answer for a in ANSWERS if a.check == name and a.mistake is None)

    def spoilt(*args):
        out = good(*args).detach().clone()
        out.view(-1)[-1] = spoil
        return out

    assert getattr(check, name)(spoilt, seed=0).finding.mistake in ("not finite", "wrong values")


def draw_pictures(*pictures, norm=None):
    def draw(filters):
        figure, axes = plt.subplots(3, 3)
        shown = [make(filters) for make in pictures] * len(filters)
        for ax, picture in zip(axes.flat, shown, strict=False):
            ax.imshow(picture, cmap="RdBu", norm=norm)
        return figure

    return draw


@pytest.mark.parametrize(
    "draw",
    [
        draw_pictures(lambda f: torch.full(f.shape[1:], torch.nan)),
        draw_pictures(lambda f: torch.zeros(f.shape[1:])),
        draw_pictures(lambda f: torch.zeros(1, 1)),
        draw_pictures(lambda f: f[0], norm="log"),
        draw_pictures(lambda f: f[0] > 0),
        draw_pictures(lambda f: np.zeros((4, 4, 3))),
        draw_pictures(lambda f: np.ma.masked_all(f.shape[1:])),
    ],
)
def test_odd_pictures_are_named(draw):
    report = check.filter_figure(draw, seed=0)
    assert report.finding is not None
    assert report.finding.mistake not in ("not understood", "raises"), str(report)


def test_the_figure_check_leaves_no_figure_behind():
    mine = plt.figure()
    plt.plot([0, 1])
    one = next(a.answer for a in ANSWERS if a.name == "draw_one_large_image")
    assert check.filter_figure(one, seed=0)
    assert check.filter_figure(lambda filters: plt.imshow(filters[0]) and None, seed=0).finding
    assert plt.get_fignums() == [mine.number] and plt.gcf() is mine and len(mine.axes) == 1
    plt.close(mine)
