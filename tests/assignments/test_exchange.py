"""nbgrader's exchange around the grader: released, fetched, submitted, collected, handed back."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import nbformat
import pytest

from tests.assignments.submissions import ROOT, solutions, submit

sys.path.insert(0, str(ROOT / "tools" / "grading"))
grade = importlib.import_module("grade")
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own


@pytest.mark.skipif(os.name == "nt", reason="nbgrader's exchange needs Unix")
def test_an_assignment_goes_out_and_its_feedback_comes_back(tmp_path):
    course, desk, exchange = (tmp_path / name for name in ("course", "desk", "exchange"))
    for folder in (course, desk, exchange):
        folder.mkdir()
    settings = f"c = get_config()\nc.Exchange.root = {str(exchange)!r}\n"
    settings += f"c.Exchange.cache = {str(tmp_path / 'cache')!r}\n"
    settings += "c.CourseDirectory.course_id = 'mixer'\n"
    for folder in (course, desk):
        (folder / "nbgrader_config.py").write_text(settings, encoding="utf-8")

    def nbgrader(folder, *words):
        places = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
        places["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), places["PATH"]])
        run = [sys.executable, "-m", "nbgrader", *words]
        done = subprocess.run(run, cwd=folder, env=places, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    grade.release(course / "release")
    nbgrader(course, "release_assignment", "A1")
    nbgrader(desk, "fetch_assignment", "A1")
    path = desk / "A1" / "A1.ipynb"
    student = nbformat.read(path, as_version=4)
    submit(path, "eve", student, {"patchify": solutions("A1")["patchify"]})
    nbgrader(desk, "submit", "A1")
    nbgrader(course, "collect", "A1")
    (outcome,) = grade.grade(course / "submitted", course, say=lambda line: None)
    assert [*outcome.cells["test_patchify"]] == [4, 4]
    nbgrader(course, "release_feedback", "A1")
    nbgrader(desk, "fetch_feedback", "A1")
    (page,) = (desk / "A1" / "feedback").rglob("A1.html")
    assert "(Score: 4.0 / 20.0)" in page.read_text(encoding="utf-8")
