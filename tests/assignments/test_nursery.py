"""A kernel that was forked is like one that was started: as closed, and nobody's brother."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import socket
import sys

import nbformat
import psutil
import pytest

from tests.assignments.submissions import ROOT, submit

sys.path.insert(0, str(ROOT / "tools" / "grading"))
grade = importlib.import_module("grade")
walls = importlib.import_module("walls")

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="walls are Linux's"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning"),  # nbgrader's own
]
LOOK = """
import json
import os
import random
import signal
import sys

import numpy as np

with open("/proc/self/status") as file:
    status = dict(line.rstrip("\\n").split(":\\t", 1) for line in file)
rights = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid", "Seccomp",
          "Groups", "SigIgn", "Threads")
told = {
    "rights": {name: status[name] for name in rights},
    "environment": {k: v for k, v in os.environ.items() if k != "JPY_PARENT_PID"},
    "open": sorted({os.readlink(path).split(":")[0] for n in os.listdir("/proc/self/fd")
                   if os.path.islink(path := f"/proc/self/fd/{n}")}),
    "modules": sorted({"kernel", "nursery", "box", "torch", "numpy"} & set(sys.modules)),
    "main": sys.modules["__main__"].__dict__.get("__file__"),
    "path": sys.path, "folder": os.getcwd(), "interrupt": repr(signal.getsignal(signal.SIGINT)),
    "processes": len([n for n in os.listdir("/proc") if n.isdigit()]),
    "host": os.uname().nodename, "mounts": len(open("/proc/self/mounts").readlines()),
}
try:
    os.unshare(0x10000000)
except (AttributeError, OSError) as error:
    told["again"] = type(error).__name__
print("TOLD", json.dumps(told))
print("DRAWN", random.random(), np.random.rand(), os.urandom(4).hex())
"""


def _grade(folder, out, released, students, **more):
    for name in students:
        submit(folder / name / "A1" / "A1.ipynb", name, released, {"patchify": LOOK})
    return grade.grade(folder, out, say=lambda line: None, **more)


def _printed(out, student, word):
    notebook = nbformat.read(out / "autograded" / student / "A1" / "A1.ipynb", as_version=4)
    text = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ()))
    return re.search(rf"{word} (.*)", text)[1]


def test_a_forked_kernel_is_like_one_that_was_started(tmp_path, releases, monkeypatch):
    plain = walls.Born.__init__

    def note(self, *arguments):
        plain(self, *arguments)
        (tmp_path / f"born {self.pid}").touch()

    monkeypatch.setattr(walls.Born, "__init__", note)
    forked, alone = tmp_path / "forked", tmp_path / "alone"
    _grade(tmp_path / "a", forked, releases["A1"], ("ann", "ben"), workers=2)
    _grade(tmp_path / "b", alone, releases["A1"], ("cem",))
    ann, ben, cem = (
        json.loads(_printed(out, name, "TOLD"))
        for out, name in ((forked, "ann"), (forked, "ben"), (alone, "cem"))
    )
    assert ann == ben == cem
    assert set(cem["rights"][name].strip("0") for name in cem["rights"] if "Cap" in name) == {""}
    assert cem["rights"]["NoNewPrivs"] == "1"
    assert cem["modules"] == ["numpy", "torch"]
    drawn = [_printed(forked, name, "DRAWN").split() for name in ("ann", "ben")]
    assert all(one != other for one, other in zip(*drawn, strict=True))
    assert not psutil.Process().children()
    # systemd's limit holds for what it started itself: where it is, no kernel is forked
    alone = bool(walls._scope(walls.Limits().memory))
    assert len(list(tmp_path.glob("born *"))) == (0 if alone else 2)


def test_without_a_nursery_kernels_are_started(tmp_path, releases, monkeypatch):
    @contextlib.contextmanager
    def gone(box):
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.close()
        with mine:
            yield mine

    monkeypatch.setattr(grade, "nursery", gone)
    outcomes = _grade(tmp_path / "a", tmp_path / "out", releases["A1"], ("ann", "ben"))
    assert [one.status for one in outcomes] == ["graded", "graded"]
    assert json.loads(_printed(tmp_path / "out", "ben", "TOLD"))["folder"] == "/box/work"
