"""A stranger's submission: it gets what it earned, sees what it is shown, and stops nobody."""

from __future__ import annotations

import csv
import importlib
import json
import mmap
import os
import re
import socket
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from tests.assignments.strangers import (
    ACTIVE,
    ACTIVE_WORDS,
    CHILDREN,
    FILES,
    INTRUDER,
    LEAVE,
    THIEVES,
)
from tests.assignments.submissions import ROOT, name_of, solutions, submit

sys.path.insert(0, str(ROOT / "tools" / "grading"))
grade = importlib.import_module("grade")
pages = importlib.import_module("pages")
suspicions = importlib.import_module("suspicions")
trees = importlib.import_module("trees")
walls = importlib.import_module("walls")

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own
RIGHT = solutions("A1")
WRONG = {
    "count": "num_tokens = numbers_per_patch = embedding_parameters = 0",
    **{
        name: f"def {name}(*arguments):\n    return None"
        for name in ("patchify", "unpatchify", "patch_embedding", "embedding_kernel")
    },
}
FULL, MEMORY = 18, 1500


def _first(*cells):
    def change(notebook):
        at = next(i for i, cell in enumerate(notebook.cells) if name_of(cell) == "patchify")
        notebook.cells[at:at] = map(nbformat.v4.new_code_cell, cells)

    return change


@pytest.fixture(scope="module")
def batch(tmp_path_factory, releases):
    """Strangers' submissions, beside those of an honest student, graded in one go."""
    home = tmp_path_factory.mktemp("home")
    if sys.platform == "linux":  # before anything of theirs is run
        assert walls.walls_stand(tmp_path_factory.mktemp("try")), "no user namespaces: see docs"
    folder, out, old = home / "submissions", home / "graded2", home / "graded"
    (old / "autograded").mkdir(parents=True)
    for path in (home / "secret.txt", old / "autograded" / "A1.ipynb"):
        path.write_text("A SECRET", encoding="utf-8")

    def hand_in(student, answers, *cells, path=None):
        submit(
            folder / (path or f"{student}/A1/A1.ipynb"),
            student,
            releases["A1"],
            answers,
            _first(*cells),
        )

    names = {
        "ROOT": str(ROOT), "PROBE": str(home / "probe"), "SOCKET": str(home / "s"),
        "SHOWN": walls.view([]).shown,
        "PLACES": [str(p) for p in (home, Path.home(), ROOT / "tests", ROOT / "notebooks",
                                    "/run", "/var", "/etc/shadow")],
    }  # fmt: skip
    known = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    hand_in("intruder", RIGHT, known + INTRUDER, known + LEAVE)
    for name, code in THIEVES.items():
        hand_in(f"thief {name}", WRONG, code)
    hand_in("children", RIGHT, CHILDREN)
    hand_in("files", RIGHT, FILES)
    hand_in("active", RIGHT | {"explain": ACTIVE_WORDS}, ACTIVE)
    _odd_files(folder, hand_in)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(names["SOCKET"])
    listener.listen()
    secret = os.open(home / "secret.txt", os.O_RDONLY)
    os.set_inheritable(secret, True)
    lines: list[str] = []
    ours = mmap.mmap(-1, 2**31, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # not the submissions'
    with pytest.MonkeyPatch.context() as patch, ours:
        patch.setenv("A_TOKEN", "A SECRET")
        limits = grade.Limits(cell=40, total=200, memory=MEMORY)
        outcomes = grade.grade(folder, out, limits=limits, say=lines.append)
    listener.close()
    os.close(secret)
    yield SimpleNamespace(
        home=home, out=out, lines=lines, outcomes={o.student: o for o in outcomes}
    )
    trees.delete(folder)


def _odd_files(folder, hand_in):
    """Whatever else may lie in a folder of submissions."""
    hand_in("=1+1", {"explain": "x"})
    beside = folder / "=1+1" / "A1"
    (beside / "gone.txt").symlink_to(folder / "nothing")
    (beside / "neighbour.txt").symlink_to(folder / "children" / "A1" / "A1.ipynb")
    with (beside / "sparse.bin").open("wb") as file:
        file.truncate(6 * 2**30)
    os.mkfifo(beside / "pipe")
    for name in ("link", "dangling"):
        (folder / name / "A1").mkdir(parents=True)
    (folder / "link" / "A1" / "A1.ipynb").symlink_to(folder / "active" / "A1" / "A1.ipynb")
    (folder / "dangling" / "A1" / "A1.ipynb").symlink_to(folder / "nothing.ipynb")
    (folder / "whole folder.ipynb").symlink_to(folder / "active")
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/J\xf6rg \x1b[31m\n"))
    (strange / "A1").mkdir(parents=True)
    (strange / "A1" / "A1.ipynb").write_text("{", encoding="utf-8")
    (folder / "deep" / "A1").mkdir(parents=True)
    (folder / "deep" / "A1" / "A1.ipynb").write_text("[" * 100_000, encoding="utf-8")
    here = os.open(folder / "deep", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("n", dir_fd=here)
        inner = os.open("n", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def _marks(batch, student):
    return sum(mark or 0 for mark, _ in batch.outcomes[student].cells.values())


def _told(batch, student):
    return "; ".join(batch.outcomes[student].notes)


def _row(batch, student):
    with (batch.out / "marks.csv").open(encoding="utf-8-sig", newline="") as file:
        return next(row for row in csv.DictReader(file) if row["student"] == student)


needs_walls = pytest.mark.skipif(
    sys.platform in ("darwin", "win32"), reason="walls are Linux's: elsewhere less is promised"
)


# What it sees


@needs_walls
def test_a_submission_sees_and_writes_nothing_that_is_not_its_own(batch, capfd):
    text = nbformat.writes(nbformat.read(batch.out / "autograded/intruder/A1/A1.ipynb", 4))
    cells = nbformat.reads(text, 4).cells
    (said,) = re.findall(
        r"SEEN (\{.*\})", "".join(o.get("text", "") for c in cells for o in c.get("outputs", ()))
    )
    seen = json.loads(said)
    assert [path for path in seen["read"] if os.path.exists(path)] == []
    assert seen["reached"] == []
    assert seen["environment"] is False
    assert not any(path.startswith((str(ROOT / "mixer_lite"), "/usr")) for path in seen["wrote"])
    assert not (batch.home / "probe.ran").exists()
    assert sorted(p.name for p in batch.home.iterdir()) == [
        "graded", "graded2", "s", "secret.txt", "submissions",
    ]  # fmt: skip


def test_a_restart_after_leaving_is_in_a_box_of_its_own(batch):
    assert _marks(batch, "intruder") == FULL
    assert "the program ended in a cell of their own" in _told(batch, "intruder")


def test_nothing_of_a_submission_reaches_the_terminal(batch, capfd):
    assert not any("\x1b" in line or "FORGED" in line or "\n" in line for line in batch.lines)
    captured = capfd.readouterr()
    assert "FORGED" not in captured.out + captured.err


@pytest.mark.parametrize("name", THIEVES)
def test_who_replaces_the_judge_gets_nothing_and_a_note(batch, name):
    assert _marks(batch, f"thief {name}") == 0
    assert "looks into the interpreter" in _told(batch, f"thief {name}")


@needs_walls
@pytest.mark.parametrize("student", ["children", "files"])
def test_all_processes_and_files_together_have_one_limit(batch, student):
    assert f"it used more than {MEMORY} MB in all" in _told(batch, student)
    assert _marks(batch, student) == FULL


@needs_walls
def test_files_have_a_limit_of_their_own(batch):
    assert "file" not in batch.outcomes["files"].status
    assert not list(Path("/tmp").glob("[0-9]"))


# What it hands in


def test_whatever_else_lies_there_concerns_its_owner_alone(batch):
    odd = batch.outcomes["=1+1"]
    assert odd.status == "graded"
    for name, why in (
        ("gone.txt", "link"),
        ("neighbour.txt", "link"),
        ("sparse.bin", "6,442,450,944"),
        ("pipe", "link, or no file"),
    ):
        assert re.search(rf"{re.escape(name)} was left out: .*{why}", _told(batch, "=1+1"))
    assert "link to another place" in batch.outcomes["link"].status
    assert "link to another place" in batch.outcomes["dangling"].status
    assert "link to another place" in batch.outcomes["whole folder"].status
    assert "is not a readable notebook" in batch.outcomes["deep"].status
    assert "is not a readable notebook" in batch.outcomes["J%F6rg %1B[31m%0A"].status
    assert len(batch.outcomes) == 8 + len(THIEVES) + 2


def test_tables_hold_no_formulas(batch):
    assert _row(batch, "'=1+1")["status"] == "graded"
    for name in ("marks.csv", "grades.csv"):
        with (batch.out / name).open(encoding="utf-8-sig", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert any("=1+1" in cell for cell in cells)
        assert not any(cell[:1] in "=+@\t\r" for cell in cells if cell)


@pytest.mark.parametrize("value", ["=1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_what_a_spreadsheet_would_run_is_text(value):
    assert pages.no_formula(value) == f"'{value}"
    assert pages.no_formula("-2.5") == "-2.5"
    assert pages.no_formula(3) == 3


# What others open


def test_stored_notebooks_and_pages_hold_nothing_active(batch):
    notebook = nbformat.read(batch.out / "autograded/active/A1/A1.ipynb", 4)
    kinds = {
        kind for c in notebook.cells for o in c.get("outputs", ()) for kind in o.get("data", ())
    }
    assert kinds <= {"text/plain", "text/html", "image/png", "image/jpeg"}
    assert "widgets" not in notebook.metadata
    acts = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            for name, value in attributes:
                if name.startswith("on") or re.match(
                    r"\s*(javascript|data:text)", value or "", re.I
                ):
                    acts.append((tag, name, value))

    page = (batch.out / "feedback/active/A1/A1.html").read_text(encoding="utf-8")
    submitted = (batch.out / "submitted/active/A1/A1.ipynb").read_text(encoding="utf-8")
    for text in (nbformat.writes(notebook), submitted):
        for tag in ("<script>", "<img src=x", "<svg", "<a href", "<!--"):
            assert tag not in re.sub(r'"source": \[[^]]*display\(.*?\]', "", text, flags=re.S)
    Reader().feed(page)
    assert not acts
    assert "window.hit" not in "".join(re.findall(r"<script.*?</script>", page, re.S))
    assert r"\href" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.S)


@pytest.mark.parametrize(
    "text",
    ["<script>1</script>", "<IMG SRC=x onerror=1>", '<div onclick="1">', "<svg/onload=1>",
     '<img src="https://example.org/x.png">', '<a href="javascript:1">', "<iframe srcdoc=x>",
     '<div style="background:url(javascript:1)">', "<math><mtext></form><style><img onerror=1>"],
)  # fmt: skip
def test_a_report_keeps_words_colours_and_pictures_alone(text):
    clean = pages.clean_html(text)
    assert not re.search(
        r"script|onerror=|onclick|onload|https|iframe|url\(|<style",
        re.sub(r"&lt;.*?&gt;", "", clean),
        re.I,
    )
    png = '<img alt="two tables" style="max-height: 15em;" src="data:image/png;base64,aGk=">'
    assert pages.clean_html(png) == png


@pytest.mark.parametrize(
    "text",
    ["[a](javascript:1)", "[a](  JaVaScRiPt&#58;1)", "[a](data:text/html,x)",
     "[a][b]\n\n[b]: data:x", "![a](vbscript:1)", "[a](java\tscript:1)", "<javascript:1>",
     "[a](//example.org/x.html)", "[a](evil.html)", "[a](%6aavascript:1)", "[a](x.png 'onerror=1')",
     "[a]\n(javascript:1)"],
)  # fmt: skip
def test_links_in_words_lead_to_the_web_or_a_picture(text):
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    page = markdown2html_mistune(pages.clean_markdown(text))
    assert not re.search(r"(href|src)=", page)
    kept = "[a](https://arxiv.org/abs/2105.01601) ![b](figure_1.png)"
    assert pages.clean_markdown(kept) == kept


def test_a_line_is_one_line():
    line = pages.one_line("a\x1b[2J\nb\udc80\u202ec" + "x" * 300)
    assert line.isprintable() and len(line) <= 200
    assert line.startswith(r"a\x1b[2J b\udc80\u202ec")


# The parts


def test_a_secret_that_cannot_be_hidden_is_a_reason_to_stop(tmp_path):
    for folder in (ROOT / "mixer_lite", ROOT / "tools" / "grading", Path(sys.prefix)):
        with pytest.raises(walls.Exposed, match="choose another folder"):
            walls.view([folder])
    inside = ROOT / "mixer_lite" / "no such folder"
    assert walls.view([inside, tmp_path, ROOT]).covered == (str(inside),)
    assert str(ROOT) not in walls.view([]).shown


def test_deleting_follows_no_link_and_goes_as_deep_as_it_is(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "link").symlink_to(tmp_path / "kept")
    here = os.open(deep, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("n" * 50, dir_fd=here)
        inner = os.open("n" * 50, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.fchmod(here, 0)
    os.close(here)
    trees.delete(deep)
    assert not deep.exists()
    assert (tmp_path / "kept" / "file").exists()
    trees.delete(tmp_path / "nothing")


@pytest.mark.parametrize(
    "code",
    ["import gc as g", "from ctypes import CDLL", "getattr(torch, 'a' + 'b')", "x.__globals__",
     "getattr(x, '__subclasses__')", "import sys\nsys._getframe(0)", "from inspect import stack",
     "exec('1')", "f.tb_frame", "import importlib as i", "e = eval", "torch.serialization.pickle",
     "%run other.py\nget_ipython()", "vars(torch)", "import inspect", "import a.gc",
     "from sys import _getframe as f", "import sys as s\ns._getframe()",
     "from torch.overrides import *\ninspect.stack()",
     "f = getattr\nf(torch, 'a' + 'b')", "match f:\n    case type(__globals__=g):\n        pass",
     "def f():\n    import gc", "np.ctypeslib.load_library('c', '/')", "map(getattr, x, y)",
     "x = 1\nfrom inspect import signature", "import pkgutil"],
)  # fmt: skip
def test_code_that_looks_into_the_interpreter_is_noted(code):
    assert suspicions.looks_inside("x = 1\n" + code)


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "gh, gw, gc = 1, 2, 3\nprint(gc)", "def f(gc):\n    return gc + 1",
     "%matplotlib inline\nx = 1", "getattr(x, 'weight')",
     "for m in model.modules():\n    pass", "kernel = 3", "super().__init__()",
     "x.__class__.__name__"],
)  # fmt: skip
def test_honest_code_is_not(code):
    assert not suspicions.looks_inside(code)
