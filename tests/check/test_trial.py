"""Whatever an answer does, a check ends in time with one readable report and harms nothing."""

import os
import random
import re
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import nn

from mixer_lite import check
from mixer_lite.check import CheckFailed, Finding, Report
from mixer_lite.check.engine.exercise import EXERCISES
from mixer_lite.check.engine.limits import OutOfTime, time_limit
from mixer_lite.check.engine.progress import Progress
from mixer_lite.check.engine.trial import Trial, nearly_equal
from tests.check import test_zoo  # noqa: F401  registers the answers
from tests.check.zoo import ANSWERS

EVERY = sorted(EXERCISES)


class Boom(BaseException):
    pass


class LyingShape(torch.Tensor):
    @property
    def shape(self):
        raise RuntimeError("no shape")


def raiser(error):
    def answer(*args, **kwargs):
        raise error

    return answer


def forever(*args, **kwargs):
    while True:
        pass


def forever_catching(*args, **kwargs):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass


def deep(*args, **kwargs):
    return deep(*args, **kwargs)


NONSENSE = {
    "None": None,
    "ellipsis": ...,
    "a number": 3,
    "a string": "def f(x): return x",
    "a tensor": torch.ones(2, 3),
    "a list": [1, 2],
    "an instance": nn.Linear(3, 4),
    "returns None": lambda *a, **k: None,
    "returns a string": lambda *a, **k: "tensor",
    "returns a list": lambda *a, **k: [1.0, 2.0],
    "returns a number": lambda *a, **k: 1.5,
    "returns NaN": lambda *a, **k: torch.full((2, 3), torch.nan),
    "returns nothing in it": lambda *a, **k: torch.zeros(0),
    "returns whole numbers": lambda *a, **k: torch.ones(2, 3, dtype=torch.long),
    "returns complex numbers": lambda *a, **k: torch.ones(2, 3, dtype=torch.complex64),
    "returns meta": lambda *a, **k: torch.ones(2, 3, device="meta"),
    "returns sparse": lambda *a, **k: torch.ones(2, 3).to_sparse(),
    "returns an array": lambda *a, **k: np.ones((2, 3)),
    "returns a tuple": lambda *a, **k: (torch.ones(2), torch.ones(2)),
    "returns a module": lambda *a, **k: nn.Linear(2, 3),
    "returns itself": lambda first=None, *a, **k: first,
    "lies about its shape": lambda *a, **k: torch.ones(2, 3).as_subclass(LyingShape),
    "takes nothing": lambda: 1,
    "a class": nn.Identity,
    "a built-in": len,
    "raises": raiser(ValueError("of mine")),
    "raises without a word": raiser(Exception()),
    "exits": raiser(SystemExit(3)),
    "raises what is no Exception": raiser(Boom("boom")),
    "generator stops": raiser(StopIteration()),
    "runs out of memory": lambda *a, **k: torch.empty(10**15),
    "recurses": deep,
}


@pytest.mark.parametrize("name", EVERY)
def test_nonsense_gets_a_finding(name):
    for what, answer in NONSENSE.items():
        report = getattr(check, name)(answer, seed=0)
        assert not report.passed, (name, what)
        assert report.finding.says and "\n" not in report.finding.says, (name, what)
        assert report.finding.mistake != "not understood" or "lies" in what, (name, what, report)
        assert "✗" in str(report) and f"check.{name}(..., seed=0)" in str(report)
        assert report._repr_html_().count("<div") == report._repr_html_().count("</div>")


@pytest.mark.parametrize("answer", [forever, forever_catching, lambda *a, **k: time.sleep(60)])
@pytest.mark.parametrize("name", EVERY)
def test_endless_answers_end(name, answer):
    start = time.monotonic()
    report = getattr(check, name)(answer, seed=0, seconds=0.2)
    assert time.monotonic() - start < 5
    assert report.finding.mistake == "does not end", str(report)


def test_endless_answer_shows_the_line():
    report = check.patchify(forever, seconds=0.2)
    assert "forever" in str(report) and "0.2 seconds" in str(report)


def test_a_busy_machine_makes_no_answer_late():
    def waits_for_its_processor(images, patch_size):
        time.sleep(0.2)
        return good(images, patch_size)

    start = time.process_time()
    report = check.patchify(waits_for_its_processor, seconds=0.5)  # three rounds: 0.6 s
    if time.process_time() - start < 0.5:
        report.require()


def test_time_limit_outside_the_first_thread():
    caught = []

    def work():
        try:
            with time_limit(0.2):
                while True:
                    pass
        except OutOfTime:
            caught.append("out of time")
        time.sleep(0.5)  # nothing is thrown at what comes afterwards
        caught.append("and then peace")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert caught == ["out of time", "and then peace"]


def test_interrupting_the_kernel_is_not_a_finding():
    with pytest.raises(KeyboardInterrupt):
        check.patchify(raiser(KeyboardInterrupt()))


def good(images, patch_size):
    p = patch_size
    return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (c p1 p2)", p1=p, p2=p)


def test_changed_inputs_are_found():
    def in_place(images, patch_size):
        images *= 2
        return good(images / 2, patch_size)

    report = check.patchify(in_place)
    assert report.finding.mistake == "changes its input"
    assert "argument 1" in report.finding.says


def test_prints_are_kept_apart(capsys):
    def chatty(images, patch_size):
        print("shape", tuple(images.shape))
        return images

    report = check.patchify(chatty, seed=1)
    assert capsys.readouterr().out == ""
    assert "Your code printed:" in str(report) and "shape (" in str(report)
    assert "<summary>Your code printed</summary>" in report._repr_html_()


def test_error_shows_the_learners_line():
    def divides(images, patch_size):
        wrong = images.shape[0] / 0
        return wrong

    text = str(check.patchify(divides))
    assert "ZeroDivisionError: division by zero" in text
    assert "in divides, line" in text and "wrong = images.shape[0] / 0" in text
    assert re.search(r"divides\(<\d×\d×\d+×\d+>, \d\)", text)


def test_the_session_is_left_as_it_was():
    def disturbs(images, patch_size):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return good(images, patch_size)

    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    check.patchify(disturbs)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert (torch.rand(1), random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_a_seed_repeats_the_trial():
    mistake = ("patchify", "column-major tokens")
    wrong = next(a.answer for a in ANSWERS if (a.check, a.mistake) == mistake)
    texts = {str(check.patchify(wrong, seed=5)) for _ in range(3)}
    assert len(texts) == 1
    assert len({str(check.patchify(wrong, seed=s)).split("first")[1] for s in range(5)}) == 5
    free = check.patchify(wrong)
    assert str(check.patchify(wrong, seed=free.seed)) == str(free)


def test_the_course_itself_is_no_answer():
    from mixer_lite.check.lesson1 import patchify

    assert check.patchify(patchify).finding.mistake == "not your own"
    report = check.patchify(good)
    assert report and report.require() is report
    assert str(report) == "✓ patchify: right. Tried 3 times, each with new sizes."


def test_require_raises_the_report():
    with pytest.raises(CheckFailed, match="pixel by pixel") as caught:
        check.patchify(lambda x, p: rearrange(
            x, "b c (y p) (x q) -> b (y x) (p q c)", p=p, q=p)).require()  # fmt: skip
    assert isinstance(caught.value, AssertionError)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_report_escapes_what_learners_write():
    finding = Finding("<b>", "a < b & c", ("<script>alert(1)</script>",))
    page = Report("patchify", finding, 0, 3, "<i>printed</i>")._repr_html_()
    assert "<script>" not in page and "<i>" not in page and "a &lt; b &amp; c" in page


def test_an_answer_that_passes_may_get_a_remark():
    report = Report("mixer_block", None, 0, 3, remarks=("A remark: eps < 1e-5.",))
    assert report and str(report).endswith("new sizes.\nA remark: eps < 1e-5.")
    assert "<div>A remark: eps &lt; 1e-5.</div>" in report._repr_html_()


def test_report_draws_two_tables():
    tables = dict(expected=np.eye(3), yours=-np.eye(3))
    report = Report("patchify", Finding("sign", "Wrong sign.", (), **tables), 0, 3)
    assert 'src="data:image/' in report._repr_html_()
    assert "expected:\n       1.00    0.00    0.00" in str(report)
    big = np.zeros((100, 300))
    lines = str(Report("patchify", Finding("x", "y", (), expected=big, yours=big), 0)).split("\n")
    assert max(map(len, lines)) < 110 and len(lines) < 25


def test_hints_go_step_by_step():
    for name, one in EXERCISES.items():
        assert 2 <= len(one.hints) <= 5, name
        one.given, one.last = 0, None
        shown = [check.hint(name) for _ in range(len(one.hints) + 1)]
        assert [h.number for h in shown] == [*range(1, len(one.hints) + 1), len(one.hints)]
        assert shown[-1].text == one.hints[-1]
        assert all(20 <= len(h.text) <= 500 for h in shown), name
        assert one.takes.startswith(f"{name}(") or name in ("filter_figure",) or "(" in one.takes
        one.given = 0
    with pytest.raises(ValueError, match="Did you mean patchify"):
        check.hint("patchfy")


def test_progress_counts():
    for one in EXERCISES.values():
        one.passed = one.last = None
    check.patchify(good)
    text = str(check.progress())
    assert "✓ patchify" in text and text.endswith(
        f"1 of {len(EXERCISES)} passed since the kernel started."
    )
    assert "1 Images as tokens" in check.progress()._repr_html_()
    check.patchify(None)
    assert "✓ patchify (another answer failed since)" in str(check.progress())
    check.unpatchify(None)
    assert "✗ unpatchify" in str(check.progress())
    assert isinstance(check.progress(), Progress)


def test_every_check_is_public_and_described():
    for name in EXERCISES:
        assert name in check.__all__
        assert "``" in getattr(check, name).__doc__, name


def test_relations_between_tensors_are_told():
    t = Trial(0)
    want = t.randn(4, 5)

    def told(got):
        with pytest.raises(Exception) as caught:
            t.same(got, want)
        return caught.value.finding.mistake

    assert told(-want) == "sign"
    assert told(want * 3) == "scale"
    assert told(want + 1) == "offset"
    assert told(want[[1, 0, 2, 3]]) == "wrong order"
    assert told(want[:, [1, 0, 2, 3, 4]]) == "wrong order"
    assert told(want.T.reshape(4, 5)) == "wrong places"
    assert told(want.T) == "wrong shape"
    assert told(want * 0) == "all zeros"
    assert told(want + torch.randn(4, 5)) == "wrong values"
    assert told(torch.where(want > 0, want, torch.nan)) == "not finite"
    t.same(want.double(), want, "the result", "(a, b)")
    assert not nearly_equal(want + 1e-3, want) and nearly_equal(want + 1e-6, want)


def test_moved_is_the_support_of_the_jacobian():
    t = Trial(0)
    w = t.randn(3, 4)
    moved = t.moved(lambda x: w @ x, t.randn(4, 2))  # (3, 2, 4, 2)
    expected = torch.eye(2, dtype=torch.bool)[None, :, None, :].expand(3, 2, 4, 2)
    assert torch.equal(moved, expected)


def test_checks_load_without_matplotlib():
    code = (
        "import sys; from mixer_lite import check; check.patchify(None); "
        "bad = {'matplotlib', 'timm', 'torchvision', 'IPython'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
