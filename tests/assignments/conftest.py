"""What several files of tests begin with."""

from __future__ import annotations

import importlib
import sys

import nbformat
import pytest

from tests.assignments.submissions import ROOT, solutions, submit

sys.path.insert(0, str(ROOT / "tools" / "grading"))
grade = importlib.import_module("grade")
intake = importlib.import_module("intake")


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """All assignments as students get them, to be read only."""
    folder = tmp_path_factory.mktemp("release")
    return {p.stem: nbformat.read(p, as_version=4) for p in grade.release(folder)}


@pytest.fixture(scope="module")
def texts(releases, tmp_path_factory):
    """A right notebook of A1, and the untouched one."""
    folder = tmp_path_factory.mktemp("texts")
    for name, answers in (("right", solutions("A1")), ("empty", {})):
        submit(folder / name, name, releases["A1"], answers)
    return {name: (folder / name).read_text(encoding="utf-8") for name in ("right", "empty")}


@pytest.fixture
def found(tmp_path, releases, texts):
    """Looks for submissions among files; N stands for a right notebook, O for the untouched one."""

    def run(files, names="", place="in"):
        folder = tmp_path / place
        for name, content in files.items():
            path = folder / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = {"N": texts["right"].replace('= \\"right', '= \\"'), "O": texts["empty"]}.get(
                content, content
            )
            path.write_bytes(whole if isinstance(whole, bytes) else whole.encode())
        return intake.find(folder, releases, tmp_path / "temporary", names)

    return run
