"""How a learner's parameters are read into ours, and answers that no zoo can hold."""

import functools

import pytest
import torch
from torch import nn

import mixer_lite as ml
from mixer_lite import check
from mixer_lite.check.engine.weights import forms, readings, watch
from tests.check import answers_modules as answers

SIZES = dict(num_tokens=6, hidden_dim=5, tokens_mlp_dim=7, channels_mlp_dim=9)


def test_watch_lists_parameters_in_the_order_of_use():
    block = answers.BlockOfBareParameters(*SIZES.values())
    x = torch.randn(2, 6, 5)
    used, strangers = watch(block, lambda: block(x), x)
    order = "scale1 shift1 w1 b1 w2 b2 scale2 shift2 w3 b3 w4 b4"
    assert used == order.split() and strangers == []


def test_watch_sees_weights_that_are_not_registered():
    block = answers.MlpInAPythonList(3, 4)
    x = torch.randn(2, 5, 3)
    assert watch(block, lambda: block(x), x) == ([], [(4, 3), (4,), (3, 4), (3,)])


def test_a_stem_is_read_in_every_order_of_pixels():
    kernel = torch.randn(7, 3, 2, 2)  # (d, c, p, q)
    want = kernel.flatten(1)
    matrices = [kernel.permute(0, *order).flatten(1) for order in ((1, 2, 3), (2, 3, 1), (3, 1, 2))]
    for theirs in (kernel, kernel.permute(1, 2, 3, 0), *matrices, matrices[1].T):
        found = forms(theirs, want.shape, kernel.shape)
        assert any(torch.equal(form, want) for form in found)


def test_readings_of_other_sizes_are_none():
    ours = dict(ml.MlpBlock(dim=3, hidden_dim=4).named_parameters())
    theirs = dict(ml.MlpBlock(dim=4, hidden_dim=5).named_parameters())
    assert len(list(readings(ours, list(ours), ours, list(ours)))) == 1
    assert not list(readings(theirs, list(theirs), ours, list(ours)))


def test_a_reading_shares_memory_with_the_learners_weights():
    ours = ml.MlpBlock(dim=3, hidden_dim=4)
    theirs = answers.mlp_of_einmix(3, 4)
    names = [dict(m.named_parameters()) for m in (theirs, ours)]
    x = torch.randn(1, 2, 3)
    order = watch(theirs, lambda: theirs(x), x)[0]
    reading = next(readings(names[0], order, names[1], list(names[1])))
    reading["fc2.weight"].zero_()
    reading["fc2.bias"].zero_()
    assert not theirs(x).any()


@pytest.mark.parametrize(
    ("answer", "mistake"),
    [
        (nn.Linear(3, 3), "sizes not found"),
        (functools.partial(ml.MixerBlock), "not your own"),
        (ml.MixerBlock, "not your own"),
        (lambda **sizes: ml.MixerBlock(**sizes), "not your own"),
    ],
)
def test_answers_that_are_no_answers(answer, mistake):
    assert check.mixer_block(answer, seed=0).finding.mistake == mistake


def test_compiled_modules_are_read_by_registration():
    def scripted(dim, hidden_dim):
        return torch.jit.script(answers.MlpOfTwoLinears(dim, hidden_dim))

    check.mlp_block(scripted, seed=0).require()


def test_the_number_of_blocks_is_asked_twice():
    report = check.mixer(lambda **sizes: answers.MixerAsTimm(**sizes | {"num_blocks": 2}), seed=0)
    assert report.finding.mistake == "too few blocks"


def test_pytorchs_own_eps_passes_with_a_remark():
    report = check.mixer_block(answers.BlockWithTorchsEps, seed=0).require()
    assert "1e-05" in str(report) and "sixth decimal" in str(report)
    check.mixer(answers._with_blocks(answers.BlockWithTorchsEps), seed=0).require()


def test_what_sizes_alone_prove_is_said_as_it_is():
    class NoLastNorm(answers.MixerAsTimm):
        def pool(self, x):
            return x.mean(1) * 1.01

    report = check.mixer(NoLastNorm, seed=0)
    assert report.finding.mistake == "no final norm", str(report)
    assert "too few: 2 of size C" in str(report)
