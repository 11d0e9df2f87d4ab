"""The assignments through nbgrader itself: each kind of submission gets the mark it deserves."""

from __future__ import annotations

import csv
import importlib
import os
import random
import re
import sys
import time
from types import SimpleNamespace

import nbformat
import pytest

from tests.assignments.submissions import (
    BLANK,
    BORROW,
    CRASH,
    DISK,
    ENDLESS,
    HALF,
    MEMORY,
    ROOT,
    SOURCE,
    TAMPER,
    name_of,
    shuffle_cells,
    solutions,
    submit,
)

sys.path.insert(0, str(ROOT / "tools" / "grading"))
grade = importlib.import_module("grade")

ASSIGNMENTS = ("A1", "A2", "A3", "A4", "A5")
MAX = {"A1": 20, "A2": 31, "A3": 35, "A4": 35, "A5": 40}
BY_HAND = {"A1": 2, "A2": 3, "A3": 8, "A4": 14, "A5": 20}
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # nbgrader's own

A1 = {
    "test_patchify": 4, "test_unpatchify": 3, "test_num_tokens": 1, "test_numbers_per_patch": 1,
    "test_embedding_parameters": 1, "test_patch_embedding": 4, "test_embedding_kernel": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def batch(tmp_path_factory, releases):
    """Everybody's submissions, graded in one go."""
    folder, out = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("graded")
    right = {name: solutions(name) for name in ASSIGNMENTS}

    def hand_in(student, answers, change=None, path=None):
        path = folder / (path or f"{student}/A1/A1.ipynb")
        submit(path, student, releases["A1"], right["A1"] | answers, change)

    for name in ASSIGNMENTS:
        submit(folder / "perfect" / name / f"{name}.ipynb", "perfect", releases[name], right[name])
        submit(folder / "empty" / name / f"{name}.ipynb", "empty", releases[name], {})
    hand_in("half", HALF, path="half/my homework (2).ipynb")
    hand_in("crash", CRASH, _insert_before("patch_embedding", MEMORY))
    hand_in("endless", ENDLESS | {"count": _numbers_of("perfect")})
    hand_in("tamper", TAMPER, path="tamper_A1.ipynb")
    hand_in("borrow", BORROW)
    places = f"ROOT, GRADED, SUBMISSIONS = {str(ROOT)!r}, {str(out)!r}, {str(folder)!r}\n"
    hand_in("disk", {"embedding_kernel": BLANK}, _insert_before("patchify", places + DISK))
    hand_in("cells", HALF, shuffle_cells)
    (folder / "corrupt").mkdir()
    (folder / "corrupt" / "A1.ipynb").write_text('{"cells": [', encoding="utf-8")
    limits = grade.Limits(cell=12, total=100, memory=3000)
    outcomes = grade.grade(folder, out, limits=limits, say=lambda line: None)
    return SimpleNamespace(folder=folder, out=out, limits=limits, outcomes=outcomes)


def _numbers_of(student):
    """Right answers to the question of A1 that is different for each student."""
    dice = random.Random(student)
    p = dice.choice([8, 14, 16, 32])
    tokens, c = dice.randint(7, 24) * dice.randint(7, 24), 64 * dice.randint(3, 20)
    numbers = tokens, 3 * p * p, 3 * p * p * c + c
    return "num_tokens, numbers_per_patch, embedding_parameters = " + str(numbers)


def _insert_before(name, code):
    def change(notebook):
        at = next(i for i, cell in enumerate(notebook.cells) if name_of(cell) == name)
        notebook.cells.insert(at, nbformat.v4.new_code_cell(code))

    return change


def _row(batch, student, assignment="A1"):
    with (batch.out / "marks.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["student"] == student]
    return next(row for row in rows if row["assignment"] == assignment)


def _marks(batch, student, assignment="A1"):
    outcome = next(o for o in batch.outcomes if o.student == student and o.assignment == assignment)
    return {name: mark for name, (mark, _) in outcome.cells.items()}


def _wrong(batch, student):
    """The cells of A1 that got nothing; all others must have got everything."""
    marks = _marks(batch, student)
    assert all(marks[name] in (0, most) for name, most in A1.items())
    return {name.removeprefix("test_") for name in A1 if not marks[name]}


def _page(batch, student, assignment="A1"):
    path = batch.out / "feedback" / student / assignment / f"{assignment}.html"
    return path.read_text(encoding="utf-8")


# What the students get


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_student_version_gives_nothing_away(releases, name):
    text = nbformat.writes(releases[name])
    for word in ("SOLUTION", "HIDDEN", "MARK SCHEME", "mark scheme"):
        assert word not in text
    source = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)
    secret, public = set(), set()  # lines inside and outside of the regions that are taken out
    for cell in source.cells:
        parts = re.split(r"^.*(?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS|MARK SCHEME).*$", cell.source,
                         flags=re.M)  # fmt: skip
        written = cell.cell_type == "markdown" and cell.metadata.get("nbgrader", {}).get("solution")
        for number, part in enumerate(parts):
            lines = {line.strip() for line in part.split("\n")}
            (secret if number % 2 or written else public).update(lines)
    secret -= public
    assert len(secret) > 30
    shown = {line.strip() for cell in releases[name].cells for line in cell.source.split("\n")}
    assert not secret & shown


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_points_add_up_to_what_the_assignment_says(releases, name):
    marked = [c.metadata.get("nbgrader", {}).get("points", 0) for c in releases[name].cells]
    assert sum(marked) == MAX[name]
    first = releases[name].cells[0].source
    assert f"**{MAX[name]} points" in first
    rows = re.findall(r"^\|.*\| (\d+) \|$", first, re.M)
    assert sum(map(int, rows)) == MAX[name]


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_student_version_runs_to_the_first_thing_to_write(batch, name):
    path = batch.out / "autograded" / "empty" / name / f"{name}.ipynb"
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            errors = [o for o in cell.outputs if o.output_type == "error"]
            if errors:
                assert "NotImplementedError" in str(errors) or "raises" in str(errors)
                assert name_of(cell) not in ("setup", "sizes", "block")
                break


# What they get for it


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_perfect_submission(batch, name):
    row = _row(batch, "perfect", name)
    marks = _marks(batch, "perfect", name)
    assert row["status"] == "graded"
    assert float(row["marks"]) == MAX[name] - BY_HAND[name], row["cells"]
    assert float(row["to_mark_by_hand"]) == BY_HAND[name]
    assert all(mark for mark in marks.values() if mark is not None)
    assert row["notes"] == ""


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_empty_submission(batch, name):
    row = _row(batch, "empty", name)
    assert (row["status"], float(row["marks"])) == ("graded", 0)
    assert "NotImplementedError" in _page(batch, "empty", name)


def test_half_right_submission_is_told_what_is_wrong(batch):
    wrong = {"unpatchify", "num_tokens", "embedding_parameters", "embedding_kernel"}
    assert _wrong(batch, "half") == wrong
    assert "my homework (2).ipynb" in _row(batch, "half")["notes"]
    assert "embedding_parameters should be a whole number, an int" in _page(batch, "half")
    assert float(_row(batch, "half")["to_mark_by_hand"]) == 0  # no response


def test_crashing_submission_keeps_what_ran(batch):
    assert _wrong(batch, "crash") == {
        "patchify", "unpatchify", "patch_embedding", "embedding_kernel",
    }  # fmt: skip
    assert "the program ended in unpatchify" in _row(batch, "crash")["notes"]
    assert "the program ended in test_embedding_kernel" in _row(batch, "crash")["notes"]
    assert "No module named" in _page(batch, "crash")


def test_endless_submission_keeps_what_ran(batch):
    numbers = {"num_tokens", "numbers_per_patch", "embedding_parameters"}
    assert _wrong(batch, "endless") - numbers == {"unpatchify", "embedding_kernel"}
    assert "unpatchify was stopped after 12 s" in _row(batch, "endless")["notes"]


def test_numbers_of_another_student_do_not_count(batch):
    assert {"num_tokens", "embedding_parameters"} <= _wrong(batch, "endless")


def test_tampering_does_not_pay(batch):
    assert _wrong(batch, "tamper") == {name.removeprefix("test_") for name in A1} - {
        "embedding_parameters"
    }
    notes = _row(batch, "tamper")["notes"]
    changed = re.search(r"test_patchify: ([^;]*) had been changed", notes)
    assert changed
    for name in ("torch.equal", "mixer_lite.check.patchify", "torch.Tensor.equal"):
        assert name in changed[1].split(", ")
    assert "looks into the interpreter" in notes


def test_borrowed_answers_do_not_count(batch):
    wrong = {"patchify", "unpatchify", "patch_embedding", "embedding_kernel"}
    assert _wrong(batch, "borrow") == wrong
    notes = _row(batch, "borrow")["notes"]
    assert "This answer calls mixer_lite's own MlpMixer" in notes
    assert "This answer calls timm's own PatchEmbed" in notes
    assert "mixer_lite's own code" in notes


def test_nothing_is_found_on_the_disk(batch):
    assert _wrong(batch, "disk") == {"embedding_kernel"}
    said = re.search(
        r"FOUND \[(.*?)\] REACHED (\d+) (\w+)", _page(batch, "disk").replace("&#39;", "'")
    )
    assert said
    assert said[3] != "network"
    if sys.platform == "linux":
        assert said[1] == ""
        assert said[2] == "2"  # its own home, and the refused network


def test_cells_that_do_not_run_do_not_pass(batch):
    assert "embedding_kernel" in _wrong(batch, "disk")
    assert "name 'embedding_kernel' is not defined" in _page(batch, "disk").replace("&#39;", "'")
    assert "get_ipython" in _row(batch, "disk")["notes"]


def test_locked_cells_are_put_back(batch):
    assert _wrong(batch, "cells") == _wrong(batch, "half")
    assert float(_row(batch, "cells")["out_of"]) == MAX["A1"]
    notes = _row(batch, "cells")["notes"]
    assert "test_unpatchify was deleted" in notes
    assert "test_patchify was there 3 times" in notes
    assert "test_num_tokens was edited" in notes


def test_corrupt_submission_gets_a_sentence(batch):
    row = _row(batch, "corrupt")
    assert float(row["marks"]) == 0
    assert row["status"].startswith("A1.ipynb is not a readable notebook")
    assert "is not a readable notebook" in _page(batch, "corrupt")


def test_same_code_is_noticed(batch):
    assert "the same code as half" in _row(batch, "cells")["notes"]
    assert "the same code as" not in _row(batch, "endless")["notes"]


def test_nbgraders_own_table_agrees(batch):
    with (batch.out / "grades.csv").open(encoding="utf-8") as file:
        rows = {(r["student_id"], r["assignment"]): float(r["score"]) for r in csv.DictReader(file)}
    for outcome in batch.outcomes:
        marks = float(_row(batch, outcome.student, outcome.assignment)["marks"])
        assert rows[outcome.student, outcome.assignment] == marks


def test_second_run_grades_what_changed_and_keeps_marks_by_hand(batch, releases):
    with grade.gradebook(batch.out) as book:
        book.find_grade("explain", "A1", "A1", "perfect").manual_score = 2
        book.find_comment("explain", "A1", "A1", "perfect").manual_comment = "Well put."
        book.db.commit()
    path = batch.folder / "corrupt" / "A1.ipynb"
    submit(path, "corrupt", releases["A1"], {"patchify": solutions("A1")["patchify"]})
    lines: list[str] = []
    again = grade.grade(batch.folder, batch.out, limits=batch.limits, walls=False, say=lines.append)
    assert len(again) == len(batch.outcomes)
    assert f"1 to grade, {len(again) - 1} unchanged since they were graded." in lines
    assert float(_row(batch, "corrupt")["marks"]) == A1["test_patchify"]
    assert float(_row(batch, "perfect")["marks"]) == MAX["A1"]
    assert grade.feedback(batch.out) == 1
    assert "Well put." in _page(batch, "perfect")


# Whatever happens


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda job: os._exit(9), "the process ended before its time"),
        (lambda job: time.sleep(60), "the process was stopped after 1 seconds"),
    ],
)
def test_a_submission_that_takes_the_grader_down_stops_nobody(tmp_path, monkeypatch, end, told):
    def run(job):
        if job.submission.student == "bad":
            end(job)
        (job.folder / "outcome.json").write_text('{"student": "good", "assignment": "A1"}')

    monkeypatch.setattr(grade, "_grade_one", run)
    monkeypatch.setattr(grade, "GRACE", 0)
    jobs = [
        grade.Job(
            grade.Submission(name, "A1", tmp_path / "A1.ipynb"), tmp_path, tmp_path / name, None,
            grade.Limits(total=1),
        )
        for name in ("bad", "good")
    ]  # fmt: skip
    outcomes = {}
    grade._run_jobs(jobs, 2, lambda job, outcome: outcomes.update({outcome.student: outcome}))
    assert told in outcomes["bad"].status
    assert outcomes["good"].status == "graded"


# Bad input to the command


def test_command_refuses_in_a_sentence(tmp_path, capsys):
    assert grade.main(["grade", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "There is no folder" in capsys.readouterr().err
    assert grade.main(["feedback", "--out", str(tmp_path)]) == 1
    assert "Nothing has been graded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is an empty file"),
        (b"hello", "is not a readable notebook"),
        (b"\xff\xfe\x00PK\x03", "is not a readable notebook"),
        (b"[]", "is not a readable notebook"),
        (b'{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
         "No cell of this assignment"),
        (b'{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
         "No cell of this assignment"),
    ],
)  # fmt: skip
def test_unreadable_files_are_refused(tmp_path, releases, content, told):
    from frame import repair
    from reading import Refused, read

    path = tmp_path / "A1.ipynb"
    path.write_bytes(content)
    with pytest.raises(Refused, match=told):
        repair(read(path)[0], releases["A1"], lambda sentence: None)


def test_split_answer_cell_keeps_both_halves(releases):
    from frame import repair

    notebook = nbformat.from_dict(releases["A1"])
    at = next(i for i, c in enumerate(notebook.cells) if name_of(c) == "patchify")
    first, second = (nbformat.from_dict(notebook.cells[at]) for _ in range(2))
    first.source, second.source = "def helper(): pass", "def patchify(images, patch_size): pass"
    notebook.cells[at : at + 1] = [first, second]
    fixed = repair(notebook, releases["A1"], lambda sentence: None)
    sources = [cell.source for cell in fixed.cells]
    assert sources.index(second.source) == sources.index(first.source) + 1
    assert [name_of(c) for c in fixed.cells if name_of(c)] == [
        name_of(c) for c in releases["A1"].cells if name_of(c)
    ]
