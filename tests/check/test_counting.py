"""The formulas by which counts are taken apart."""

import pytest

from mixer_lite import specs
from mixer_lite.check import lesson3
from mixer_lite.check.engine.exercise import EXERCISES

RIGHT = {
    "count_parameters": (lesson3.RIGHT_PARAMETERS, lesson3.STRAY_PARAMETERS),
    "count_macs": (lesson3.RIGHT_MACS, lesson3.STRAY_MACS),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("model", specs.list_models())
def test_the_right_formula_counts_what_specs_count(name, model):
    config = specs.spec(model)
    assert lesson3.value(RIGHT[name][0], config) == EXERCISES[name].right(**config)


@pytest.mark.parametrize("name", RIGHT)
def test_no_two_mistakes_look_alike(name):
    right, stray = RIGHT[name]
    formulas = [lesson3.formula(text) for _, text in EXERCISES[name].mistakes]
    assert len({frozenset(one.items()) for one in formulas}) == len(formulas)
    assert all(set(one) <= {*right, *stray} for one in formulas)


def test_formulas_are_written_as_one_writes_them():
    assert lesson3.written({"L·C": -2.0, "K": -1.0}) == "-2·L·C - K"
    assert lesson3.written({"P·P·C": 1.0, "1": 3.0, "C": -0.5}) == "P²·C + 3 - 0.5·C"
    assert lesson3.formula("-2·L·C - K") == {"L·C": -2, "K": -1}
    assert lesson3.formula("L·D_S + 3 - 0.5·C") == {"L·D_S": 1, "1": 3, "C": -0.5}


def test_three_mistakes_at_once_are_taken_apart():
    rows = (("a", "-K"), ("b", "2·C"), ("c", "L"), ("d", "S"))
    assert lesson3.explained({"K": -1, "C": 2, "L": 1}, rows) == ("a", "b", "c")
    assert lesson3.explained({"K": -3}, rows) is None
