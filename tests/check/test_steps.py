"""Help in steps: the symptom, the name, the cure."""

import numpy as np
import pytest
from einops import rearrange

from mixer_lite import check
from mixer_lite.check import CheckFailed, Finding, Report
from mixer_lite.check.engine.exercise import EXERCISES

NAME, CURE = "column-major tokens", "along its rows"


def down(images, p):
    return rearrange(images, "b c (gh p1) (gw p2) -> b (gw gh) (c p1 p2)", p1=p, p2=p)


def by_pixel(images, p):
    return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (p1 p2 c)", p1=p, p2=p)


@pytest.fixture(autouse=True)
def in_steps():
    check.help_level(0)
    one = EXERCISES["patchify"]
    one.steps.clear()
    one.last, one.given = None, 0


def test_three_reports_go_from_symptom_to_cure():
    first, second, third = (check.patchify(down, seed=0) for _ in range(3))
    text = str(first)
    assert NAME not in text and CURE not in text and "not right yet" in text
    assert "first difference at" in text and "<img" in first._repr_html_()
    assert str(first) == text and NAME not in first._repr_html_()  # shown twice, told once
    assert NAME in str(second) and CURE not in str(second)
    assert NAME in third._repr_html_() and CURE in str(third)


def test_another_mistake_begins_again():
    for _ in range(3):
        str(check.patchify(down, seed=0))
    assert "pixel by pixel" not in str(check.patchify(by_pixel, seed=0))
    assert CURE in str(check.patchify(down, seed=0))


def test_a_report_that_nobody_saw_is_no_step():
    assert not check.patchify(down, seed=0)
    assert not check.patchify(down, seed=0)
    assert NAME not in str(check.patchify(down, seed=0))


def test_a_hint_goes_a_step_further():
    str(check.patchify(down, seed=0))
    assert NAME in str(check.hint("patchify"))
    assert CURE in str(check.hint("patchify"))
    assert str(check.hint("patchify")).startswith("Hint 1 of")
    assert CURE in str(check.patchify(down, seed=0))


def test_graders_see_everything():
    report = check.patchify(down, seed=0)
    with pytest.raises(CheckFailed, match=CURE):
        report.require()
    assert report.finding.mistake == NAME and CURE in report.finding.says


@pytest.mark.parametrize(("level", "named", "cured"), [(1, 0, 0), (2, 1, 0), (3, 1, 1)])
def test_a_teacher_sets_the_level(level, named, cured):
    assert check.help_level(level) == check.help_level() == level
    for _ in range(4):
        text = str(check.patchify(down, seed=0))
        assert (NAME in text, CURE in text) == (named, cured)
    assert str(check.hint("patchify")).startswith("Hint 1 of")
    with pytest.raises(ValueError, match="0, 1, 2 or 3"):
        check.help_level(4)


def test_what_gives_nothing_away_is_said_at_once():
    assert "stopped with an error" in str(check.patchify(lambda images, p: images @ p))
    assert "(b, S, c·P·P)" in str(check.patchify(lambda images, p: images[0]))


def test_pictures_name_their_axes_and_know_magnitudes(monkeypatch):
    from mixer_lite import figures

    seen = []
    for name in ("show_signed", "show_table"):
        draw = getattr(figures, name)
        monkeypatch.setattr(
            figures, name, lambda *a, n=name, f=draw, **k: seen.append((n, k)) or f(*a, **k)
        )
    check.patchify(down, seed=0)._repr_html_()  # numbered pixels
    table = dict(expected=np.eye(3), yours=-np.eye(3))
    Report("patchify", Finding("sign", "Wrong.", (), **table), 0)._repr_html_()
    (first, how), (second, _) = seen
    assert (first, second) == ("show_table", "show_signed")
    assert (how["ylabel"], how["xlabel"]) == ("S", "c·P·P")
