"""Right work that a platform, a browser or another program has touched gets all its marks."""

from __future__ import annotations

import base64
import csv
import importlib
import io
import re
import sys
import zipfile
from types import SimpleNamespace

import nbformat
import pytest
from PIL import Image

from tests.assignments.submissions import ROOT, name_of, solutions, submit

sys.path.insert(0, str(ROOT / "tools" / "grading"))
grade = importlib.import_module("grade")

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own
RIGHT = solutions("A1")
FULL = 18  # and two points for words
CUT = {"patchify": "from helpers.cut import patchify"}
# Who hands in what; all of it is right.
WHOLE = {"attached", "inline", "lost picture", "utf-16", "windows", "no names", "folders", "zip",
         "curly", "merge", "json", "upper", "newer"}  # fmt: skip


def _png(colour):
    held = io.BytesIO()
    Image.new("RGB", (7, 5), colour).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


RED, BLUE = _png("red"), _png("blue")


def _words(text, attachments=None):
    def change(notebook):
        (cell,) = [c for c in notebook.cells if name_of(c) == "explain"]
        cell.source = text
        if attachments:
            cell.attachments = attachments

    return change


def _lose_names(notebook):
    for cell in notebook.cells:
        cell.metadata, cell.id = nbformat.NotebookNode(), nbformat.v4.new_code_cell().id


def _curl(notebook):
    for cell in notebook.cells:
        cell.source = re.sub(r'^STUDENT = "(.*)"', r"STUDENT = “\1”", cell.source)


@pytest.fixture(scope="module")
def batch(tmp_path_factory, releases):
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("graded")

    def hand_in(student, change=None, answers=RIGHT, name="A1.ipynb"):
        path = folder / student / name
        submit(path, student, releases["A1"], answers, change)
        return path

    pasted = {"image.png": {"image/png": RED}, "a shot (2).png": {"image/png": BLUE}}
    beside = '<img src="attachment:a%20shot%20(2).png" width=9> so.'
    hand_in("attached", _words(f"Here:\n\n![a](attachment:image.png)\n\n{beside}", pasted))
    hand_in("inline", _words(f"Colab's: ![x](data:image/png;base64,{RED}) and so on."))
    hand_in("lost picture", _words("![x](attachment:gone.png) ![y](attachment:bad.svg)",
                                   {"bad.svg": {"image/svg+xml": "<svg onload=1>"}}))  # fmt: skip
    path = hand_in("utf-16")
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
    path = hand_in("windows")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    hand_in("no names", _lose_names)
    cut = f"from einops import rearrange\n\n{RIGHT['patchify']}"
    hand_in("folders", answers=RIGHT | CUT)
    (folder / "folders" / "helpers").mkdir()
    (folder / "folders" / "helpers" / "cut.py").write_text(cut, encoding="utf-16")
    path = hand_in("zip", answers=RIGHT | CUT)
    with zipfile.ZipFile(folder / "zip" / "A1.zip", "w") as archive:
        archive.write(path, "homework/A1.ipynb")
        archive.writestr("homework/helpers/cut.py", cut)
    path.unlink()
    hand_in("curly", _curl)
    path = hand_in("merge")
    text = path.read_text(encoding="utf-8")
    line = next(x for x in text.split("\n") if "rearrange(" in x)
    both = f"<<<<<<< HEAD\n{line}\n=======\n{{\n>>>>>>> theirs"
    path.write_text(text.replace(line, both, 1), encoding="utf-8")
    hand_in("json", name="A1.ipynb.json")
    hand_in("upper", name="A1.IPYNB")
    hand_in("newer", answers={})
    hand_in("newer", name="A1 (1).ipynb")
    (folder / "pdf").mkdir()
    (folder / "pdf" / "A1.pdf").write_bytes(b"%PDF-1.7")
    (folder / "nothing").mkdir()
    lines: list[str] = []
    limits = grade.Limits(cell=60, total=300, memory=3000)
    outcomes = grade.grade(folder, out, limits=limits, say=lines.append)
    return SimpleNamespace(
        folder=folder, out=out, lines=lines, outcomes={o.student: o for o in outcomes}
    )


def _rows(batch, name):
    with (batch.out / name).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _page(batch, student):
    return (batch.out / "feedback" / student / "A1" / "A1.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("student", sorted(WHOLE))
def test_right_work_gets_all_its_marks(batch, student):
    outcome = batch.outcomes[student]
    assert outcome.status == "graded"
    assert sum(mark or 0 for mark, _ in outcome.cells.values()) == FULL, outcome.notes
    assert tuple(outcome.cells["explain"]) == (None, 2)
    (row,) = [row for row in _rows(batch, "marks.csv") if row["student"] == student]
    assert (row["marks"], row["to_mark_by_hand"]) == ("18", "2")


@pytest.mark.parametrize(
    "student, note",
    [
        ("no names", "matched by their text and order"),
        ("curly", "quotes of a word processor: read as 'curly'"),
        ("merge", "merge-conflict markers: the first side was graded"),
        ("newer", "newer/A1.ipynb (0 answers"),
        ("newer", "graded: newer/A1 (1).ipynb"),
        ("json", "the file was called A1.ipynb.json"),
    ],
)
def test_what_was_put_right_is_noted(batch, student, note):
    assert note in "; ".join(batch.outcomes[student].notes)


@pytest.mark.parametrize("student", ["attached", "utf-16", "windows", "folders"])
def test_nothing_else_is_noted(batch, student):
    notes = batch.outcomes[student].notes
    assert [note for note in notes if not note.startswith("the same code as ")] == []


def test_pictures_stay_where_they_are_marked_and_read(batch):
    for student, pictures in (("attached", [RED, BLUE]), ("inline", [RED])):
        notebook = nbformat.read(batch.out / f"autograded/{student}/A1/A1.ipynb", 4)
        (cell,) = [c for c in notebook.cells if name_of(c) == "explain"]
        kept = [one["image/png"] for one in cell.attachments.values()]
        assert sorted(kept) == sorted(pictures)
        for name in cell.attachments:
            assert f"](attachment:{name})" in cell.source
        for picture in pictures:
            assert f'src="data:image/png;base64,{picture}"' in _page(batch, student)
    assert "a picture that was not in the file" in _page(batch, "lost picture")
    assert "onload" not in _page(batch, "lost picture")


def test_everybody_and_every_file_has_a_row(batch):
    marks = {row["student"]: row["status"] for row in _rows(batch, "marks.csv")}
    assert set(marks) == WHOLE | {"pdf", "nothing"}
    assert marks["pdf"] == "No notebook: found: A1.pdf."
    assert marks["nothing"] == "No notebook: the folder is empty."
    files = {row["file"]: row["what became of it"] for row in _rows(batch, "files.csv")}
    for path in batch.folder.rglob("*"):
        name = str(path.relative_to(batch.folder)).replace("\\", "/")
        assert path.is_dir() or name in files
    assert files["newer/A1.ipynb"] == "not graded: newer/A1 (1).ipynb was"
    assert files["zip/A1.zip/homework/A1.ipynb"] == "graded"
    assert files["folders/helpers/cut.py"] == "given to the notebook"
    assert files["pdf/A1.pdf"] == "no notebook"
    assert files["nothing"] == "empty"


def test_the_preview_comes_first(batch):
    assert batch.lines[0].startswith(f"{len(WHOLE) + 2} students found")
    before = batch.lines.index(next(x for x in batch.lines if "to grade" in x))
    for student in WHOLE | {"pdf", "nothing"}:
        assert any(line.startswith(f"  {student} ") for line in batch.lines[:before])


def test_a_second_run_finds_everything_unchanged(batch):
    lines: list[str] = []
    limits = grade.Limits(cell=60, total=300, memory=3000)
    again = grade.grade(batch.folder, batch.out, limits=limits, say=lines.append)
    assert f"0 to grade, {len(WHOLE)} unchanged since they were graded." in lines
    assert len(again) == len(batch.outcomes)


def test_nothing_after_marking_changes_a_mark(batch, tmp_path, monkeypatch):
    def fail(kind, *rest):
        if kind is grade.GenerateFeedback:
            raise RuntimeError("nbgrader stopped: there is no page")

    monkeypatch.setattr(grade, "run_converter", fail)
    folder = tmp_path / "in"
    (folder / "ann").mkdir(parents=True)
    (folder / "ann" / "A1.ipynb").write_bytes((batch.folder / "json/A1.ipynb.json").read_bytes())
    (one,) = grade.grade(folder, tmp_path / "out", say=lambda line: None)
    assert one.status == "graded"
    assert sum(mark or 0 for mark, _ in one.cells.values()) >= FULL - 3  # another student's name
    assert any("holds the marks alone, because nbgrader stopped" in note for note in one.notes)
    page = (tmp_path / "out/feedback/ann/A1/A1.html").read_text(encoding="utf-8")
    assert "test_patchify: 4 of 4" in page


def test_the_preview_alone_grades_nobody(batch, capsys, tmp_path):
    out = tmp_path / "out"
    assert grade.main(["grade", str(batch.folder), "--out", str(out), "--preview"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{len(WHOLE) + 2} students found")
    assert not out.exists()
