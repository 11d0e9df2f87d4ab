"""Badges of README and the installing cell of lessons, for a project with and without a place."""

import importlib.util
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

ROOT = Path(__file__).resolve().parents[2]
SITE = {"repository": "somebody/mixer", "branch": "trunk", "book": "https://example.org/book/"}
NOWHERE = {"repository": "OWNER/REPO", "branch": "main", "book": ""}
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("badges", ROOT / "tools/book/badges.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_badges_come_and_go_with_the_place(tool):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    published = tool.fill(readme, tool.badges(SITE))
    for link in (
        "https://github.com/somebody/mixer/actions",
        "https://colab.research.google.com/github/somebody/mixer/blob/trunk/notebooks/01_",
        "https://mybinder.org/v2/gh/somebody/mixer/trunk?labpath=notebooks",
        "(https://example.org/book/)",
    ):
        assert link in published
    assert tool.fill(published, tool.badges(NOWHERE)) == readme


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_gets_one_cell_and_loses_it_again(tool, path):
    stored = nbformat.read(path, as_version=4)
    published = tool.install(tool.install(stored, SITE), SITE)
    assert [c.id for c in published.cells if c.id not in {c.id for c in stored.cells}] == [
        tool.INSTALL
    ]
    code = next(cell for cell in published.cells if cell.cell_type == "code")
    assert code.id == tool.INSTALL and "OWNER" not in code.source
    assert tool.notebooks.faults(published) == []
    assert tool.install(published, NOWHERE) == stored


@pytest.mark.parametrize("missing", [True, False])
def test_the_cell_installs_where_the_package_is_missing(tool, monkeypatch, missing):
    lesson = tool.install(nbformat.read(LESSONS[0], as_version=4), SITE)
    (cell,) = [cell for cell in lesson.cells if cell.id == tool.INSTALL]
    shell, asked = InteractiveShell(), []
    shell.register_magic_function(asked.append, magic_name="pip")
    if missing:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert shell.run_cell(cell.source).success
    wanted = 'install -q "mixer-lite @ git+https://github.com/somebody/mixer@trunk"'
    assert asked == ([wanted] if missing else [])
