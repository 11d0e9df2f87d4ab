"""The teacher's guide says what the assignments say."""

import nbformat
import pytest

from tests.assignments.submissions import ROOT

GUIDE = (ROOT / "notebooks" / "assignments" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name, cell", [("A3", "visualise"), ("A4", "question"), ("A5", "report")])
def test_rubrics_are_those_of_the_mark_schemes(name, cell):
    path = ROOT / "notebooks" / "assignments" / "source" / name / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    (text,) = [c.source for c in cells if c.metadata.get("nbgrader", {}).get("grade_id") == cell]
    scheme = text.split("=== BEGIN MARK SCHEME ===")[1].split("=== END MARK SCHEME ===")[0]
    assert scheme.strip() in GUIDE


@pytest.mark.parametrize("name", ["A1", "A2", "A3", "A4", "A5"])
def test_points_are_those_of_the_assignments(name):
    path = ROOT / "notebooks" / "assignments" / "source" / name / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    points = sum(c.metadata.get("nbgrader", {}).get("points", 0) for c in cells)
    (row,) = [line for line in GUIDE.splitlines() if line.startswith(f"| {name} |")]
    assert f"| {points:g} |" in row
