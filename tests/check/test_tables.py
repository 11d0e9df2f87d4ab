"""The tables are their own zoo: each mistake, given as an answer, is named as itself."""

from collections.abc import Mapping

import pytest
from torch import nn

from mixer_lite import check
from mixer_lite.check.engine.exercise import EXERCISES
from mixer_lite.check.engine.words import FOLDER, look_up, of
from mixer_lite.check.lesson3 import formula, value
from mixer_lite.check.lesson5 import SPECTRAL

# Names of mistakes that are put together where they are found.
BUILT = (
    "mixes channels", "mixes tokens", "does not mix channels", "does not mix tokens",
    "wrong token mixing", "wrong channel mixing", "token mixing mixes channels",
    "channel mixing mixes tokens", "wrong parameters", "no gradient",
)  # fmt: skip

ROWS = [
    pytest.param(name, number, id=f"{name}-{row[0]}-{number}")
    for name, one in EXERCISES.items()
    for number, row in enumerate(one.mistakes)
    if name != "filter_figure"  # its rows look at pictures: see answers_figure.py
]


class Made(nn.Module):
    """A module of the course as if it were a learner's."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def as_answer(one, does):
    """What a learner with this mistake would hand in; ``{}``: with none."""
    if one.name in ("mlp_block", "mixer_block", "mixer"):

        def broken(**sizes):
            module = one.right(**sizes)
            if does:
                does(module)
            return Made(module)

        return broken
    if isinstance(does, str):
        return lambda **sizes: int(one.right(**sizes) + value(formula(does), sizes))
    if not isinstance(does, Mapping):
        return lambda *args, **kwargs: does(*args, **kwargs)
    change = dict(does)
    then = change.pop("then", lambda result: result)
    return lambda *args, **kwargs: then(one.right(*args, **kwargs, **change))


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_every_mistake_is_named_as_itself(name, number):
    one = EXERCISES[name]
    key, does = one.mistakes[number]
    answer = as_answer(one, does)
    for seed in range(1 if name == "mixer" else 2):  # models take their time
        report = getattr(check, name)(answer, seed=seed)
        assert report.finding is not None, f"{key} passes"
        named = report.finding.mistake == key.partition(":")[0]
        assert named or key in SPECTRAL, str(report)
        assert "{" not in report.finding.says and report.finding.says, str(report)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_computation_passes(name):
    one = EXERCISES[name]
    for seed in range(2):
        getattr(check, name)(as_answer(one, {}), seed=seed).require()


@pytest.mark.parametrize("name", EXERCISES)
def test_every_word_is_said_of_some_mistake(name):
    one = EXERCISES[name]
    for key, _ in one.mistakes:
        assert look_up(one.file, name, "mistakes", key), key
    assert of(one.file)["title"] and one.takes and len(one.hints) >= 2


def test_words_are_looked_up_by_the_nearest_name():
    def said(file, name, key):
        return look_up(file, name, "mistakes", key)

    first = of("lesson1")["patchify"]["mistakes"]
    assert said("lesson1", "patchify", "grid kept: anything") == first["grid kept"]
    assert said("lesson1", "patchify", "raises") == of("common")["mistakes"]["raises"]
    assert "second layer" in said("lesson3", "mixer", "bias missing: second, tokens")
    assert said("lesson1", "patchify", "no such mistake") is None


def test_every_sentence_has_a_use():
    # Words that no row and no `fail` names would stay unread for ever.
    code = "".join(path.read_text() for path in sorted(FOLDER.parent.rglob("*.py")))
    for path in sorted(FOLDER.glob("*.toml")):
        for name, section in of(path.stem).items():
            for key in section.get("mistakes", {}) if isinstance(section, dict) else ():
                base = key.partition(":")[0]
                assert f'"{base}' in code or base in BUILT, (path.stem, name, key)
