"""A sample of mutants of the right answers: what a check lets pass must be known to be harmless.

``python -m tests.check.mutants`` makes all of them.
"""

import itertools

import pytest

from tests.check import mutants, test_zoo

STEP = 20  # every so many mutants of an answer, each answer beginning at another


@pytest.mark.parametrize("check", sorted({one.check for one in test_zoo.RIGHT}))
def test_sampled_mutants_are_caught(check):
    made = 0
    answers = [one for one in test_zoo.RIGHT if one.check == check]
    for number, one in enumerate(answers):
        for line, mutant in itertools.islice(mutants.mutants(one), number % STEP, None, STEP):
            made += 1
            if mutants.survives(one, mutant):
                assert mutants.reason(line), f"{check} lets pass: {line}"
    assert made >= 2
