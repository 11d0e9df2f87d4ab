"""Notebooks that other programs wrote are read, and put into the assignment's frame."""

from __future__ import annotations

import importlib
import os
import sys

import nbformat
import pytest

from tests.assignments.submissions import ROOT, name_of, solutions, submit

sys.path.insert(0, str(ROOT / "tools" / "grading"))
frame = importlib.import_module("frame")
reading = importlib.import_module("reading")

RIGHT = solutions("A1")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_read(encoding, tmp_path, texts):
    path = tmp_path / "A1.ipynb"
    path.write_bytes(texts["right"].replace('"right"', '"René"').encode(encoding))
    assert reading.read(path) == (nbformat.reads(path.read_text(encoding), 4), [])


def test_windows_own_encoding_is_read_with_a_note(tmp_path, texts):
    path = tmp_path / "A1.ipynb"
    text = texts["right"].replace(r"\"right\"", r"\"René\"")
    path.write_bytes(text.encode("cp1252", "replace"))
    notebook, notes = reading.read(path)
    assert "René" in nbformat.writes(notebook)
    assert notes == ["the file is not in UTF-8: it was read as Windows-1252"]


def _conflict(text, other):
    line = next(x for x in text.split("\n") if "rearrange(" in x)
    return text.replace(
        line, f"<<<<<<< HEAD\n{line}\n||||||| base\n{{\n=======\n{other}\n>>>>>>> b", 1
    )


def test_an_unsettled_merge_is_read_where_it_can_be(tmp_path, texts):
    path = tmp_path / "A1.ipynb"
    path.write_text(_conflict(texts["right"], "{"), encoding="utf-8")
    notebook, notes = reading.read(path)
    assert notebook == nbformat.reads(texts["right"], 4)
    assert notes == ["the file holds merge-conflict markers: the first side was graded"]
    path.write_text("<<<<<<< HEAD\n{\n=======\n{{\n>>>>>>> b\n", encoding="utf-8")
    with pytest.raises(reading.Refused, match="settle the merge"):
        reading.read(path)
    path.write_text("<!DOCTYPE html><html>", encoding="utf-8")
    with pytest.raises(reading.Refused, match="is a web page"):
        reading.read(path)


def _repaired(notebook, released):
    notes = []
    return frame.repair(notebook, released, notes.append), notes


def test_markers_and_curly_quotes_in_cells_are_noted(releases, texts):
    notebook = nbformat.reads(texts["right"], 4)
    for cell in notebook.cells:
        if cell.source.startswith("STUDENT"):
            cell.source = "STUDENT = “ann”"
        if name_of(cell) == "unpatchify":
            cell.source = f"<<<<<<< HEAD\n{cell.source}\n=======\nx\n>>>>>>> b"
    fixed, notes = _repaired(notebook, releases["A1"])
    assert "STUDENT = 'ann'" in [cell.source for cell in fixed.cells]
    assert any("quotes of a word processor" in note for note in notes)
    assert any("merge-conflict markers" in note for note in notes)


def _lose(notebook, ids=True):
    for cell in notebook.cells:
        cell.metadata = nbformat.NotebookNode()
        if ids:
            cell.id = os.urandom(4).hex()
    return notebook


@pytest.mark.parametrize("assignment", ["A1", "A2", "A3", "A4", "A5"])
def test_cells_without_names_are_known_by_text_and_order(assignment, releases, tmp_path):
    released = releases[assignment]
    submit(tmp_path / "x", "ann", released, solutions(assignment))
    whole = nbformat.read(tmp_path / "x", 4)
    wanted, _ = _repaired(nbformat.read(tmp_path / "x", 4), released)
    for ids in (True, False):
        lost, notes = _repaired(_lose(nbformat.from_dict(whole), ids), released)
        assert [c.source for c in lost.cells] == [c.source for c in wanted.cells]
        assert [c.metadata for c in lost.cells] == [c.metadata for c in wanted.cells]
        assert notes == [
            "the cells had lost their names on the way: they were matched by their text and order"
        ]
    assert frame.answered(_lose(whole), released) == len(
        [c for c in released.cells if c.metadata.get("nbgrader", {}).get("solution")]
    )


def test_without_names_cells_of_ones_own_do_not_move_the_answers(releases, texts):
    notebook = _lose(nbformat.reads(texts["right"], 4))
    own = nbformat.v4.new_code_cell
    notebook.cells[5:5] = [own("a = 1")]
    at = next(i for i, c in enumerate(notebook.cells) if c.source.startswith("num_tokens"))
    notebook.cells[at:at] = [own("height // patch_size")]
    at = next(i for i, c in enumerate(notebook.cells) if c.source.startswith("def unpatchify"))
    notebook.cells[at + 1] = own("check.unpatchify(unpatchify)")  # its test was edited
    fixed, _ = _repaired(notebook, releases["A1"])
    by_name = {name_of(c): c.source for c in fixed.cells}
    for name, answer in RIGHT.items():
        assert by_name[name].strip() == answer.strip()


def test_an_answer_in_a_cell_of_ones_own_is_the_answer(releases, texts):
    notebook = nbformat.reads(texts["right"], 4)
    for at, cell in enumerate(notebook.cells):
        if name_of(cell) == "patchify":  # cut and pasted elsewhere: its name is gone
            notebook.cells[at] = nbformat.v4.new_code_cell(cell.source)
    fixed, _ = _repaired(notebook, releases["A1"])
    (answer,) = [c for c in fixed.cells if c.source.startswith("def patchify")]
    assert name_of(answer) == "patchify"


def test_another_notebook_is_none_of_this_assignment(releases):
    other = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"x = {n}") for n in range(30)]
    )
    with pytest.raises(reading.Refused, match="another one"):
        _repaired(other, releases["A1"])
    with pytest.raises(reading.Refused, match="another one"):
        _repaired(_lose(nbformat.from_dict(releases["A3"])), releases["A1"])
