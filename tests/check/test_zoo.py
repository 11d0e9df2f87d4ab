"""Every wrong answer fails with its diagnosis, every right one passes."""

import collections
import importlib
from pathlib import Path

import pytest
import torch

from mixer_lite import check
from mixer_lite.check.engine.exercise import EXERCISES
from tests.check.zoo import ANSWERS

for _path in sorted(Path(__file__).parent.glob("answers_*.py")):
    importlib.import_module(f"tests.check.{_path.stem}")

RIGHT = [a for a in ANSWERS if a.mistake is None]
WRONG = [a for a in ANSWERS if a.mistake is not None]


@pytest.mark.parametrize("one", RIGHT, ids=lambda a: a.name)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_right_answers_pass(one, kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        for seed in range(3):
            getattr(check, one.check)(one.answer, seed=seed).require()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("one", WRONG, ids=lambda a: a.name)
def test_wrong_answers_are_named(one):
    for seed in range(3):
        report = getattr(check, one.check)(one.answer, seed=seed)
        assert not report.passed
        assert report.finding.mistake == one.mistake, str(report)
        for words in one.words:
            assert words in str(report), str(report)


def test_each_check_has_its_zoo():
    rights = collections.Counter(a.check for a in RIGHT)
    mistakes = collections.defaultdict(set)
    for one in WRONG:
        mistakes[one.check].add(one.mistake)
    for name, one in EXERCISES.items():
        mistakes[name] |= {key.partition(":")[0] for key, _ in one.mistakes}
        assert rights[name] >= 3, name
        assert len(mistakes[name]) >= 8, name
