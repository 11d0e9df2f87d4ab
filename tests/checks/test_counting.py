"""The formulas by which counts are taken apart."""

import pytest

from mixer_lite import check, specs
from mixer_lite.checks import counting

KINDS = {
    "count_parameters": (
        specs.count_parameters,
        counting.PARAMETERS,
        counting.STRAY_PARAMETERS,
        counting.PARAMETER_MISTAKES,
    ),
    "count_macs": (specs.count_macs, counting.MACS, counting.STRAY_MACS, counting.MAC_MISTAKES),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", specs.list_models())
def test_the_right_formula_counts_what_specs_count(kind, model):
    count, formula, _, _ = KINDS[kind]
    config = specs.spec(model)
    terms = (times * counting._value(product, config) for product, times in formula.items())
    assert sum(terms) == count(**config)["total"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_mistake_of_the_table_is_named(kind):
    _, right, stray, mistakes = KINDS[kind]
    for name, change, _ in mistakes:
        assert set(change) <= {*right, *stray}, name
        wrong = counting._sum(right, change)

        def answer(wrong=wrong, **config):
            return int(sum(n * counting._value(product, config) for product, n in wrong.items()))

        report = getattr(check, kind)(answer, seed=5)
        assert report.finding is not None and report.finding.mistake == name, f"{name}\n{report}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_mistakes_look_alike(kind):
    mistakes = KINDS[kind][3]
    assert len({frozenset(change.items()) for _, change, _ in mistakes}) == len(mistakes)


def test_a_difference_is_written_as_one_writes_it():
    assert counting._written({"L·C": -2.0, "K": -1.0}) == "-2·L·C - K"
    assert counting._written({"P·P·C": 1.0, "1": 3.0, "C": -0.5}) == "P²·C + 3 - 0.5·C"
