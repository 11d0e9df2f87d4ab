"""No control of the course shares a seed with what it controls."""

import ast

import pytest
import torch
from lessons import COURSE, tool

import mixer_lite as ml

SHIPPED = ("mixer_nano_cifar10", "mixer_grid16_cifar10")
ON_PURPOSE = "the start of the training itself, on purpose"


def likeness(name: str, seed: int) -> float:
    """Cosine of the trained stem and that of a fresh network of this seed."""
    torch.manual_seed(seed)
    fresh, trained = ml.create_model(name), ml.load_pretrained(name)
    pair = (m.stem.weight.detach().flatten() for m in (fresh, trained))
    return float(torch.cosine_similarity(*pair, dim=0))


def controls(source: str) -> list[tuple[str, int]]:
    """The shipped networks that a cell makes fresh, and the seeds that it makes them from."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    loops = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.For)]
    named = {n.target.id: n.iter for n in loops if isinstance(n.target, ast.Name)}

    def called(name: str) -> list[ast.Call]:
        return [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == name]

    made = [c.args[0].value for c in called("create_model") if isinstance(c.args[0], ast.Constant)]
    made = [name for name in made if name in SHIPPED]
    if not made:
        return []
    seeds = [named.get(getattr(c.args[0], "id", ""), c.args[0]) for c in called("manual_seed")]
    assert seeds, f"a fresh network without a seed in its own cell:\n{source}"
    values = [ast.literal_eval(seed) for seed in seeds]
    flat = [s for value in values for s in (value if isinstance(value, tuple) else (value,))]
    return [(name, seed) for name in made for seed in flat]


@pytest.mark.parametrize("path", COURSE, ids=[path.stem for path in COURSE])
def test_fresh_networks_are_not_where_the_training_began(path):
    for cell in tool.read(path).cells:
        if cell.cell_type == "code" and ON_PURPOSE not in cell.source:
            for name, seed in controls(cell.source):
                assert abs(likeness(name, seed)) < 0.1, (name, seed)


def test_the_test_can_fail():
    (one,) = controls('torch.manual_seed(0)\nm = ml.create_model("mixer_nano_cifar10")')
    assert likeness(*one) > 0.8
    loop = 'for s in (1, 0):\n    torch.manual_seed(s)\n    ml.create_model("mixer_grid16_cifar10")'
    assert [likeness(*c) > 0.8 for c in controls(loop)] == [False, True]
    with pytest.raises(AssertionError, match="without a seed"):
        controls('ml.create_model("mixer_nano_cifar10")')
