"""Figures: honest forms that pass, wrong ones that fail, and what is said of them."""

import pytest

from mixer_lite import check
from tests.check import publics


@pytest.mark.parametrize("number", range(len(publics.WRONG)))
def test_wrong_networks_are_named(number):
    name, answer, *mistakes = publics.WRONG[number]
    report = getattr(check, name)(answer, seed=number)
    assert not report.passed
    finding = report.finding
    named = {finding.mistake, *(m for m in mistakes if f"Besides ({m})" in finding.says)}
    assert named == set(mistakes), str(report)


@pytest.mark.parametrize("number", range(len(publics.HONEST)))
def test_honest_forms_pass(number):
    name, answer = publics.HONEST[number]
    for seed in range(2):
        getattr(check, name)(answer, seed=seed).require()
