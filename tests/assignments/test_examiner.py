"""The kernel's examiner alone: which answers it vouches for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CELL = "check.token_mixing(token_mixing).require()"
RIGHT = """
def token_mixing(x, w1, b1, w2, b2):
    y = torch.nn.functional.gelu(x.mT @ w1.T + b1)
    return (y @ w2.T + b2).mT
"""
ANSWERS = {
    "right": RIGHT,
    "a module of one's own": """
class Mixing(torch.nn.Module):
    def __init__(self, w1, b1, w2, b2):
        super().__init__()
        self.w = w1, b1, w2, b2

    def forward(self, x):
        w1, b1, w2, b2 = self.w
        y = torch.nn.functional.gelu(torch.einsum("bsc,ds->bdc", x, w1) + b1[:, None])
        return torch.einsum("bdc,sd->bsc", y, w2) + b2[:, None]


def token_mixing(x, w1, b1, w2, b2):
    return Mixing(w1, b1, w2, b2)(x)
""",
    "wrong": RIGHT.replace("x.mT @", "x.mT @ -"),
    "nothing": "token_mixing = None",
    "changes the check when it is called": """
from mixer_lite.check.engine import trial


def token_mixing(x, w1, b1, w2, b2):
    trial.nearly_equal = lambda *a, **k: True
    return torch.zeros_like(x)
""",
    "changes the check all the time": """
import threading

from mixer_lite.check.engine import trial


def again():
    while True:
        trial.nearly_equal = trial.Trial.tensor = trial.Trial.same = lambda *a, **k: True


threading.Thread(target=again, daemon=True).start()


def token_mixing(x, w1, b1, w2, b2):
    return torch.zeros_like(x)
""",
    "changes a function's code": """
from mixer_lite.check.engine import trial

trial.nearly_equal.__code__ = (lambda got, want: True).__code__


def token_mixing(x, w1, b1, w2, b2):
    return torch.zeros_like(x)
""",
    "the course's own, through PyTorch": """
import mixer_lite as ml

mlp = ml.MlpBlock(dim=1, hidden_dim=1)


def token_mixing(x, w1, b1, w2, b2):
    for layer, w, b in ((mlp.fc1, w1, b1), (mlp.fc2, w2, b2)):
        layer.weight.data, layer.bias.data = w, b
    return mlp(x.mT).mT
""",
    "the course's own, by another name": """
import mixer_lite as ml

token_mixing = ml.MlpBlock
""",
    "looks around": """
import sys


def token_mixing(x, w1, b1, w2, b2):
    sys._getframe()
    y = torch.nn.functional.gelu(x.mT @ w1.T + b1)
    return (y @ w2.T + b2).mT
""",
}
VOUCHED = {"right", "a module of one's own"}

SCRIPT = """
import contextlib, io, json, os, sys

sys.path.insert(0, sys.argv[1])
import kernel

cell, answers = json.load(sys.stdin)
examiner = kernel.Examiner({}, lambda: (examiner.key(cell), "token"))
results = {}
for name, code in answers.items():
    names, notes = {"__name__": "__main__"}, []
    exec(compile("import torch\\n" + code, "/tmp/ipykernel_1/1.py", "exec"), names)
    try:
        results[name] = examiner.examine(cell, names, notes)[0], "", notes
    except BaseException as error:
        results[name] = None, f"{type(error).__name__}: {error}", notes
print(json.dumps(results))
sys.stdout.flush()
os._exit(0)  # a thread of one of the answers never ends
"""


@pytest.fixture(scope="module")
def results():
    # The answer with a thread comes last: it meddles with whatever is examined after it.
    order = sorted(ANSWERS, key=lambda name: "all the time" in name)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "tools" / "grading")],
        input=json.dumps([CELL, {name: ANSWERS[name] for name in order}]),
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", ANSWERS)
def test_only_right_answers_of_ones_own_are_vouched_for(results, name):
    token, error, _ = results[name]
    assert (token == "token") is (name in VOUCHED), error
    assert (token is None) is bool(error)


def test_the_reason_is_told(results):
    said = {name: error for name, (_, error, _) in results.items()}
    assert said["wrong"].startswith("CheckFailed")
    assert (
        "changes mixer_lite.check.engine.trial.nearly_equal"
        in said["changes the check when it is called"]
    )
    assert "calls mixer_lite's own MlpBlock.forward" in said["the course's own, through PyTorch"]
    assert "is mixer_lite's own code" in said["the course's own, by another name"]
    assert "calls sys._getframe" in said["looks around"]


def test_what_was_changed_is_noted(results):
    (note,) = results["changes a function's code"][2]
    assert note == "mixer_lite.check.engine.trial.nearly_equal had been changed"
