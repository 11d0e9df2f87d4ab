"""Questions whose tests stand in the assignment itself: what passes them, and what does not."""

from __future__ import annotations

import copy
import random
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from einops import rearrange, reduce
from torch.nn import functional

import mixer_lite as ml
from mixer_lite import bugs, check
from tests.assignments.submissions import SOURCE, grade_cells, name_of, solutions

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}

FOLD = """
def fold_filters(kernel, grid):
    return rearrange(torch.as_tensor(kernel), "{}", gh=grid[0], gw=grid[1])
"""
OUTPUTS = FOLD.replace("fold_filters", "fold_outputs")
WRONG: dict[str, list[tuple[str, Any, str]]] = {
    # cell -> (what was mistaken, old text or whole answer, new text)
    "A3 fold_filters": [
        ("PyTorch's layout", FOLD.format("u (gh gw) -> u gh gw"), ""),
        ("down the columns", FOLD.format("(gw gh) u -> u gh gw"), ""),
        ("no tensor", "def fold_filters(k, grid):\n    return k.T.reshape(-1, *grid)", ""),
    ],
    "A3 fold_outputs": [
        ("PyTorch's layout", OUTPUTS.format("(gh gw) u -> u gh gw"), ""),
        ("down the columns", OUTPUTS.format("u (gw gh) -> u gh gw"), ""),
    ],
    "A4 class_difference": [
        ("the signs", "head.weight[first] - model.head.weight[second]",
         "head.weight[second] - model.head.weight[first]"),
        ("the biases", "@ direction",
         "@ direction + model.head.bias[first] - model.head.bias[second]"),
        ("one class", " - model.head.weight[second]", ""),
        ("no last norm", "model.norm(model.blocks(", "(model.blocks("),
        ("down the columns", '"(gh gw) -> gh gw", gh', '"(gw gh) -> gh gw", gh'),
    ],
    "A4 depth_lens": [
        ("no skip connection", "tokens = tokens + rearrange", "tokens = rearrange"),
        ("whole blocks only", "states.append(tokens)\n            tokens = tokens + block",
         "tokens = tokens + block"),
        ("no last norm", "model.norm(torch.cat(states))", "torch.cat(states)"),
    ],
    "A4 shuffle_patches": [
        ("the inverse", "patch_order]", "patch_order.argsort()]"),
        ("pixels stay", "[:, :, :, pixel_order]", ""),
    ],
    "A4 reparametrise": [
        ("the stem forgotten", "stem[:, :, pixel_order]", "stem"),
        ("colours last", '"d (c q) -> d c q"', '"d (q c) -> d c q"'),
        ("W2 forgotten", "mlp.fc2.weight[patch_order]", "mlp.fc2.weight"),
        ("no copy", "copy.deepcopy(model)", "model"),
    ],
    "A5 training_step": [
        ("a mean of means", 'reduction="sum") / len(images)', 'reduction="mean") / parts'),
        ("a step a part", "total += loss.item()", "total += loss.item(); optimizer.step()"),
        ("old gradients", "    optimizer.zero_grad()\n", ""),
        ("all at once", "images.chunk(parts), labels.chunk(parts)",
         "images.chunk(1), labels.chunk(1)"),
        ("eval mode", "model.train()", "model.eval()"),
    ],
    "A5 interval": [
        ("n below the sum", ".std()", ".std(correction=0)"),
        ("no root of n", " / n**0.5", ""),
        ("before minus after", "torch.tensor(after, dtype=torch.float64) - torch.tensor(before)",
         "torch.tensor(before, dtype=torch.float64) - torch.tensor(after)"),
        ("Gauss in place of Student", "T95[n]", "1.96"),
    ],
}  # fmt: skip
MISTAKES = [(cell, *one) for cell, several in WRONG.items() for one in several]


def names(**more: Any) -> dict[str, Any]:
    ours = dict(torch=torch, np=np, ml=ml, check=check, bugs=bugs, random=random, copy=copy)
    theirs = dict(rearrange=rearrange, reduce=reduce, functional=functional, T95=T95)
    return {**ours, **theirs, **more}


def run(assignment: str, cell: str, answer: str, **more: Any) -> None:
    scope = names(**more)
    exec(answer, scope)
    exec(grade_cells(assignment)[f"test_{cell}"], scope)


@pytest.mark.parametrize("which", WRONG)
def test_the_solution_passes(which):
    assignment, cell = which.split()
    run(assignment, cell, solutions(assignment)[cell])


@pytest.mark.parametrize(("which", "mistake", "old", "new"), MISTAKES)
def test_a_mistake_is_noticed(which, mistake, old, new):
    assignment, cell = which.split()
    right = solutions(assignment)[cell]
    wrong = right.replace(old, new) if new or old in right else old
    assert wrong != right
    with pytest.raises((AssertionError, RuntimeError)):
        run(assignment, cell, wrong)


@pytest.fixture(scope="module")
def drawn():
    """The network and its faulty twin, for students who draw each of the eight faults."""
    source = _cell("A5", "suspect")
    pairs: dict[int, dict[str, Any]] = {}
    for k in range(200):
        student = f"student {k}"
        number = random.Random("A5 " + student).randint(1, 8)
        if number not in pairs:
            scope = names(STUDENT=student)
            exec(source, scope)
            pairs[number] = scope
    assert len(pairs) == 8
    return pairs


def _cell(assignment: str, key: str) -> str:
    notebook = nbformat.read(SOURCE / assignment / f"{assignment}.ipynb", as_version=4)
    (source,) = (cell.source for cell in notebook.cells if name_of(cell) == key)
    return source


@pytest.mark.parametrize("number", range(1, 9))
def test_each_planted_bug_can_be_found(drawn, number):
    scope = dict(drawn[number])
    exec(solutions("A5")["has_fault"], scope)
    for key in ("test_notices", "test_tells_apart"):
        exec(grade_cells("A5")[key], scope)


@pytest.mark.parametrize("number", range(1, 9))
def test_to_notice_any_difference_is_not_to_tell_faults_apart(drawn, number):
    scope = dict(drawn[number])
    exec(
        "def has_fault(model, healthy):\n"
        "    same = model.state_dict().keys() == healthy.state_dict().keys()\n"
        "    return not (same and torch.equal(model.stem.weight, healthy.stem.weight)\n"
        "                and torch.equal(model(image), healthy(image)))",
        scope,
    )
    with pytest.raises(AssertionError):
        exec(grade_cells("A5")["test_tells_apart"], scope)


@pytest.mark.parametrize(
    "numbers",
    [
        "BEFORE, AFTER = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]\ndifference, half_width = 0.0, 0.0\n"
        "decided = False",
        "BEFORE, AFTER = [0.5, 0.51, 0.52], [0.53, 0.52, 0.56]\n"
        "difference, half_width = 0.8 / 30, 0.03795\ndecided = True",  # it holds zero
        "BEFORE, AFTER = [0.5, 0.51, 0.52], [0.53, 0.52, 0.56]\n"
        "difference, half_width = 0.8 / 30, 0.0310\ndecided = False",
    ],
)
def test_numbers_that_do_not_agree_are_noticed(numbers):
    with pytest.raises(AssertionError):
        run("A5", "numbers", numbers)


def test_numbers_that_agree_pass():
    run(
        "A5", "numbers",
        "BEFORE, AFTER = [0.5, 0.51, 0.52], [0.53, 0.52, 0.56]\n"
        "difference, half_width = 0.8 / 30, 0.03795\ndecided = False",
    )  # fmt: skip
